"""Go or no-go before a mass run: what the machine can check, and what only a person can answer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from django.db import connections
from django.utils.translation import gettext as _

from mana_migration import conf
from mana_migration.domain import words
from mana_migration.domain.pressure import Pressure, Usual, judge
from mana_migration.domain.rehearsal import GROWTH_PER_USER
from mana_migration.engine.health import read_health
from mana_migration.errors import MigrationError
from mana_migration.models import Checklist, MigrationRun
from mana_migration.selectors.resources import data_folder
from mana_migration.services import logs, notifications, observation, preflight, runs, validation
from mana_migration.services.context import Actor
from mana_migration.states import EventKind

YES, NO, UNKNOWN = "yes", "no", "unknown"

#: How old a dry run may be.
DRY_RUN_HOURS: Final = 24

#: What only a person can answer, by id.
QUESTIONS: Final = {
    "restore_tried": "Has a restore of this backup been tried?",
    "code_uses_services": "Does all code of the site change balances through wishes.services?",
    "people_informed": "Do support and the people on call know the time and the runbook?",
}

#: What can be answered beforehand: also the room on the disk of a server that cannot be seen from here.
ANSWERABLE: Final = (*QUESTIONS, "disk_room")


@dataclass(frozen=True, slots=True)
class Item:
    """One question of the checklist: ``answer`` is yes, no or unknown; ``detail`` is what was found."""

    id: str
    question: str
    answer: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A checklist that was gone through; ``go`` when every answer is yes."""

    items: tuple[Item, ...]
    backup: str

    @property
    def go(self) -> bool:
        """Say whether every question was answered with yes."""
        return all(item.answer == YES for item in self.items)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"go": self.go, "backup": self.backup, "items": [asdict(item) for item in self.items]}


class NoGoError(MigrationError):
    """A mass run needs a checklist that says go."""


def examine(
    *,
    using: str,
    backup: str = "",
    ask: Callable[[str], bool | None],
    answers: Mapping[str, bool] | None = None,
    check_workers: Callable[[], None] | None = None,
) -> Outcome:
    """Go through the checklist; nothing is written.

    Args:
        using: the database's alias.
        backup: the name of the backup that was made; empty: none was named.
        ask: asks a person a question and returns the answer; None where there is no one to ask.
        answers: answers that were given beforehand, by the ids of ``ANSWERABLE``.
        check_workers: raises ``MigrationError`` when the workers that a run needs do not answer; None where the
            command itself does the work.

    Raises:
        DatabaseUnavailableError, PreflightError: the database is not fit for any run.
    """
    preflight.check(using)
    report = validation.precheck(using)
    known = dict(answers or {})
    return Outcome(
        (
            _item("database_ready", "Are schema and guards in force?", True, "checked at this moment"),
            _findings(report),
            _no_open_run(using),
            _recent_dry_run(),
            _item("backup_made", "Was a backup made, and which?", bool(backup), backup or "name it with --backup REF"),
            _direct_writes(using),
            _disk_room(using, report.expected(), known, ask),
            _health(using),
            _workers(check_workers),
            _folders(),
            _notifications(),
            *(_asked(name, question, known, ask) for name, question in QUESTIONS.items()),
        ),
        backup,
    )


def record(outcome: Outcome, *, actor: Actor, using: str) -> Checklist:
    """Keep a checklist that was gone through."""
    return Checklist.objects.using(using).create(
        go=outcome.go,
        items=outcome.as_dict()["items"],
        backup=outcome.backup[:200],
        actor=actor.name,
        host=actor.host,
    )


def require(using: str) -> None:
    """Refuse a mass run where the site wants a checklist and there is no recent one that says go.

    Raises:
        NoGoError: there is none, it says no, or it is older than ``MANA_MIGRATION_CHECKLIST_HOURS``.
    """
    hours = conf.checklist_hours()
    if not hours:
        return
    latest = Checklist.objects.using(using).first()
    cure = _("go through it with: migrate_users --checklist --backup REF")
    if latest is None:
        raise NoGoError(
            _("this site starts mass runs only after a checklist (MANA_MIGRATION_CHECKLIST_HOURS); {cure}").format(
                cure=cure
            )
        )
    if not latest.go:
        missing = ", ".join(item["id"] for item in latest.items if item["answer"] != YES)
        raise NoGoError(
            _("the latest checklist, {number}, says no go ({missing}); {cure}").format(
                number=latest.pk, missing=missing, cure=cure
            )
        )
    if datetime.now(UTC) - latest.created_at > timedelta(hours=hours):
        raise NoGoError(
            _("the latest checklist, {number}, is more than {hours} h old; {cure}").format(
                number=latest.pk, hours=hours, cure=cure
            )
        )


def attach(run: MigrationRun, *, actor: Actor, using: str) -> None:
    """Keep the latest checklist that no run has used yet as an event of this run; nothing where there is none."""
    latest = Checklist.objects.using(using).first()
    if latest is None or latest.run_id is not None:
        return
    Checklist.objects.using(using).filter(pk=latest.pk).update(run=run)
    runs.add_event(
        run.pk,
        EventKind.CHECKLIST,
        actor=actor,
        message=f"checklist {latest.pk}: {'go' if latest.go else 'no go'}, by {latest.actor}",
        details={"checklist": latest.pk, "go": latest.go, "backup": latest.backup},
        using=using,
    )


def _item(name: str, question: str, fine: bool | None, detail: str = "") -> Item:
    return Item(name, question, UNKNOWN if fine is None else YES if fine else NO, detail)


def _findings(report: Any) -> Item:
    blocking = [f"{check.id} {check.count:,}" for check in report.checks if check.blocks]
    return _item(
        "data_valid", "Do the checks before a migration find no error?", not blocking,
        ", ".join(blocking) or "no error-level finding",
    )  # fmt: skip


def _no_open_run(using: str) -> Item:
    run = runs.open_run_or_none(using)
    return _item("no_open_run", "Is no other run open?", run is None, "none" if run is None else str(run))


def _recent_dry_run() -> Item:
    """Search for a dry run in this machine's logs of today and yesterday; it leaves no trace elsewhere."""
    now = datetime.now(UTC)
    days = {f"{now - timedelta(days=back):%Y-%m-%d}" for back in range(2)}
    latest = ""
    for path in logs.files_of_days(days):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if '"dry_run": true' in line and '"migrate_users"' in line:
                found = _parsed(line)
                if found.get("context", {}).get("exit_code") in (0, 3):
                    latest = max(latest, str(found.get("timestamp", "")))
    recent = bool(latest) and now - datetime.fromisoformat(latest) <= timedelta(hours=DRY_RUN_HOURS)
    detail = f"at {latest}" if latest else f"none in this machine's logs of the last {DRY_RUN_HOURS} h"
    return _item("dry_run_made", f"Was a dry run made within {DRY_RUN_HOURS} h?", recent, detail)


def _parsed(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _direct_writes(using: str) -> Item:
    question = "Has no direct write of a wallet been observed?"
    found = observation.summary(using)
    if not found.active and not found.seen:
        return _item("no_direct_writes", question, True, "not observed; install_guards --observe does, in a rehearsal")
    detail = f"{words.counted(found.writes, 'direct write')}; install_guards lists them"
    return _item("no_direct_writes", question, not found.writes, detail)


def _disk_room(using: str, users: int, known: Mapping[str, bool], ask: Callable[[str], bool | None]) -> Item:
    """Compare the growth that a migration and its rollback need with what is free, where that can be known."""
    needed = 2 * users * GROWTH_PER_USER
    question = f"Is there room for {words.size(needed)} of growth (a migration and its rollback)?"
    folder = data_folder(using)
    if folder is None:
        return _asked("disk_room", f"{question} The server's disk cannot be seen from here.", known, ask)
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    return _item("disk_room", question, free > needed, f"{words.size(free)} free")


def _health(using: str) -> Item:
    pressure, _, reason = judge(read_health(connections[using]), Usual(), 0.0)
    healthy = pressure is Pressure.NONE
    return _item("database_healthy", "Is the database free of load?", healthy, "no load" if healthy else reason)


def _workers(check: Callable[[], None] | None) -> Item:
    question = "Do the workers of this site's executor answer?"
    if check is None:
        return _item("workers_ready", question, True, "the command itself does the work")
    try:
        check()
    except MigrationError as error:
        return _item("workers_ready", question, False, str(error))
    return _item("workers_ready", question, True, "the broker answers")


def _folders() -> Item:
    refused = [str(path) for path in (conf.log_dir(), conf.report_dir()) if not _writable(path)]
    detail = f"not writable: {', '.join(refused)}" if refused else "logs and reports"
    return _item("folders_writable", "Can logs and reports be written?", not refused, detail)


def _writable(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def _notifications() -> Item:
    question = "Do notifications reach those who wait for them?"
    if not conf.notify():
        return _item("notifications_delivered", question, True, "none are configured")
    missed = notifications.deliver(notifications.Message("Checklist of a migration: test message", ""))
    places = ", ".join(str(position) for position in missed)
    detail = f"address {places} of MANA_MIGRATION_NOTIFY was not reached" if missed else "a test message was delivered"
    return _item("notifications_delivered", question, not missed, detail)


def _asked(name: str, question: str, known: Mapping[str, bool], ask: Callable[[str], bool | None]) -> Item:
    answer = known[name] if name in known else ask(question)
    return _item(name, question, answer, "answered by hand" if answer is not None else f"answer with --confirm {name}")
