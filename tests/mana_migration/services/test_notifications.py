"""Notifications reach a real SMTP server and a real HTTP endpoint; a failed delivery is logged and delays no run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_string
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings

from mana_migration import signals
from mana_migration.models import MigrationRun
from mana_migration.services import logs, notifications
from mana_migration.states import EventKind
from tests.factories import WalletFactory, make_wallets
from tests.mana_migration.running import migrate, roll_back
from tests.support.commands import run_manage
from tests.support.processes import free_port
from tests.support.receivers import http_server, smtp_server

pytest.importorskip("apprise")


@pytest.fixture(autouse=True)
def _delivered() -> Iterator[None]:
    yield
    notifications._outbox.flush(30)


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """Return what was logged today, both kinds."""
    return [json.loads(line) for path in folder.glob("*.log") for line in path.read_text().splitlines()]


@pytest.mark.django_db(transaction=True)
def test_a_migration_and_its_rollback_are_announced_by_web_hook(settings: LazySettings) -> None:
    make_wallets([(1, 2, 3), (4, 0, 0)])
    with http_server() as hook:
        settings.MANA_MIGRATION_NOTIFY = f"json://127.0.0.1:{hook.port}/"
        settings.MANA_MIGRATION_SITE_URL = "https://shop.example/"
        run = migrate("--reason", "launch")["run"]
        back = roll_back("--all", "--reason", "ticket 12")["run"]
        hook.wait_for(5)
    link = f"https://shop.example/migration/runs/{run}/"
    assert [(found["title"], found["message"]) for found in hook] == [
        (f"Migration run {run} started", f"about 2 users to handle\nReason: launch\n{link}"),
        (f"Migration run {run} finished: completed", f"2 migrated, 0 skipped, 0 failed, 3,250 mana\n{link}"),
        (
            f"Rollback run {back} started",
            f"about 2 users to handle\nReason: ticket 12\nhttps://shop.example/migration/runs/{back}/",
        ),
        (
            f"Rollback run {back} finished: completed",
            f"2 rolled back, 0 skipped, 0 failed, 3,250 mana\nhttps://shop.example/migration/runs/{back}/",
        ),
        (
            f"Migration run {run} was rolled back",
            f"2 migrated, 0 skipped, 0 failed, 3,250 mana\nReason: {reason_of(run)}\n{link}",
        ),
    ]


def reason_of(run: int) -> str:
    return str(MigrationRun.objects.get(pk=run).events.get(kind=EventKind.ROLLED_BACK).message)


@pytest.mark.django_db(transaction=True)
def test_mail_goes_to_each_recipient_and_names_no_user(settings: LazySettings) -> None:
    WalletFactory(user__username="carol.private@example.org")
    with smtp_server() as mail:
        settings.MANA_MIGRATION_NOTIFY = [
            f"mailto://127.0.0.1:{mail.port}?mode=insecure&from=site@shop.example&to=a@shop.example,b@shop.example"
        ]
        migrate()
        mail.wait_for(4)
    assert {address for found in mail for address in found["to"]} == {"a@shop.example", "b@shop.example"}
    subjects = {message_from_string(found["data"])["Subject"] for found in mail}
    run = MigrationRun.objects.get().pk
    assert subjects == {f"Migration run {run} started", f"Migration run {run} finished: completed"}
    assert {found["data"].strip().splitlines()[-1] for found in mail} == {
        "about 1 user to handle",
        "1 migrated, 0 skipped, 0 failed, 1,230 mana",
    }
    assert not any("carol" in found["data"] for found in mail)


@pytest.mark.django_db(transaction=True)
def test_single_users_are_not_announced(settings: LazySettings) -> None:
    user = WalletFactory().user
    with http_server() as hook:
        settings.MANA_MIGRATION_NOTIFY = f"json://127.0.0.1:{hook.port}/"
        migrate("--user-id", f"pk:{user.pk}")
        assert notifications._outbox.flush(5)
    assert hook == []


@pytest.mark.django_db(transaction=True)
def test_a_server_that_is_down_or_refuses_is_logged_and_the_others_are_served(settings: LazySettings) -> None:
    make_wallets([(1, 0, 0)])
    handler = logs.configure("migration", "info")
    try:
        with http_server() as good, http_server(status=500) as bad:
            down = f"json://127.0.0.1:{free_port()}/"
            settings.MANA_MIGRATION_NOTIFY = f"{down} json://127.0.0.1:{bad.port}/ json://127.0.0.1:{good.port}/"
            message = notifications.Message("Migration run 1 started", "")
            assert notifications.deliver(message) == [1, 2]
            assert len(good) == 1
        written = handler.path(datetime.now(UTC)).read_text().splitlines()
    finally:
        logs.release()
    missed = [json.loads(line)["message"] for line in written if "not delivered" in line]
    assert missed == [
        f"notification not delivered to address {position} of 3 in MANA_MIGRATION_NOTIFY: Migration run 1 started"
        for position in (1, 2)
    ]


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_hook_that_never_answers_does_not_hold_up_a_run(tmp_path: Path) -> None:
    make_wallets([(1, 0, 0)])
    with http_server(delay=20.0) as hook:
        environment = {
            "MANA_MIGRATION_NOTIFY": f"json://127.0.0.1:{hook.port}/",
            "MANA_MIGRATION_LOG_DIR": str(tmp_path),
        }
        result = run_manage("migrate_users", "--no-input", env=environment)
        assert result.code == 0, result
        assert hook == []  # the command has ended before the first answer
    assert any("within 3 s of the command's end" in line["message"] for line in log_lines(tmp_path))


@pytest.mark.django_db(transaction=True)
def test_receivers_of_signals_get_the_run_and_may_raise() -> None:
    make_wallets([(1, 0, 0)])
    seen = []

    def remember(sender: type, run: MigrationRun, using: str, reason: str, **kwargs: Any) -> None:
        seen.append((sender, run.pk, run.status, using, reason))
        raise ValueError("the receiver's own trouble")

    signals.started.connect(remember)
    signals.finished.connect(remember)
    try:
        run = migrate("--reason", "launch")["run"]
    finally:
        signals.started.disconnect(remember)
        signals.finished.disconnect(remember)
    assert seen == [
        (MigrationRun, run, "running", "default", "launch"),
        (MigrationRun, run, "completed", "default", ""),
    ]


def test_an_address_that_apprise_does_not_know_is_left_out() -> None:
    assert len(notifications.servers("nonsense://here json://127.0.0.1:1/")) == 1


@pytest.mark.django_db(transaction=True)
def test_a_long_wait_is_announced_once(settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    run = MigrationRun.objects.create(kind="migration", status="running")
    wait = notifications.LongWait(run.pk, "default")
    with http_server() as hook:
        settings.MANA_MIGRATION_NOTIFY = f"json://127.0.0.1:{hook.port}/"
        with monkeypatch.context() as clock:
            clock.setattr("mana_migration.services.notifications.time.monotonic", lambda: now[0])
            for moment in (0.0, 59.0, 61.0, 90.0):
                now[0] = moment
                wait.continues("replication is 40 s behind")
            wait.ended()
            now[0] = 95.0
            wait.continues("replication is 41 s behind")
        hook.wait_for(1)
    assert hook[0]["title"] == f"Migration run {run.pk} has been waiting for a minute"
    assert hook[0]["message"] == "Reason: replication is 40 s behind"
