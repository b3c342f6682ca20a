"""Everything twice, at the same moment, by real processes: done once.

    python -m tests.torture double --records 2000

Four ways of rolling one user back (the library, a command in a terminal, a member of staff on the site's page, the
service for named users) set upon the same user at the same moment, user after user; exactly one of them may succeed.
Then whole runs: migrations together, rollbacks together, and one of each.
"""

import contextlib
import html
import io
import json
import multiprocessing
import os
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import OperationalError, connections
from django.test import Client
from django.urls import reverse

import manage
from mana_migration import api
from mana_migration.domain.options import RollbackOptions
from mana_migration.errors import DatabaseUnavailableError, NothingToRollBackError
from mana_migration.models import MigrationRun, UserMigration
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.rollback import Rollback
from tests.support import oracle
from tests.torture import seeds
from tests.torture.children import use
from wishes.models import ManaEntry, Wallet

FORK = multiprocessing.get_context("fork")
MIGRATE = ("migrate_users", "--no-input", "--delay", "0", "--batch-size", "50", "--format", "json")
ROLL_BACK = ("rollback_migration", "--all", "--no-input", "--batch-size", "50", "--format", "json")
#: How much later one of the four may set out, in times of what the slowest of them took, so that each wins sometimes.
LATE = 1.5
TRIES = 20
#: The command done, refused with one line, done in part.
GOOD_CODES = (0, 1, 3)


def by_library(user: Any) -> Callable[[], bool]:
    """Prepare a rollback by the library; the function returned does it and tells whether it succeeded."""
    return lambda: api.roll_back(users=[user]).totals.rolled_back == 1


def by_service(user: Any) -> Callable[[], bool]:
    """Prepare a rollback by the service for named users."""
    options = RollbackOptions(users=(str(user),))
    return lambda: Rollback(options).handle_selected(RunContext(actor=Actor("service", "here"))).totals.rolled_back == 1


def by_terminal(user: Any) -> Callable[[], bool]:
    """Prepare a rollback by the command."""

    def do() -> bool:
        told = command("rollback_migration", "--no-input", "--user-id", f"pk:{user}", "--format", "json")
        return bool(told["users"]["rolled_back"])

    return do


def by_staff(user: Any) -> Callable[[], bool]:
    """Prepare a rollback on the user's page: ask, and have the confirmation ready."""
    client = Client(headers={"host": "localhost"})
    client.force_login(get_user_model().objects.get(username="staff"))
    address = reverse("mana_migration:rollback_user", args=[user])
    token = re.search(r'name="token" value="([^"]+)"', client.post(address).content.decode())
    assert token, "the page did not ask for a confirmation"

    def do() -> bool:
        answer = client.post(address, {"token": html.unescape(token[1]), "reason": "twice"})
        page = client.get(reverse("mana_migration:user", args=[user])).content.decode()
        assert answer.status_code in (302, 409), answer.status_code
        return f"User {user} is rolled back" in page

    return do


WAYS: dict[str, Callable[[Any], Callable[[], bool]]] = {
    "library": by_library,
    "terminal": by_terminal,
    "staff page": by_staff,
    "service": by_service,
}


def run(database: str, records: int, seed: int, rounds: int) -> dict[str, Any]:
    """Roll so many users back four times each, then let whole runs meet so many times; return what came of it."""
    use(database)
    make_staff()
    seeds.crowd(records)
    before = oracle.endowment()
    held = wallets()
    command(*MIGRATE)
    found: dict[str, Any] = {"problems": [], **four_times_each(records, seed)}
    if found["succeeded"] != records or found["refused"] != records * (len(WAYS) - 1):
        found["problems"].append("not exactly one of four succeeded")
    if wallets() != held:
        found["problems"].append("the wallets are not as they were before the migration")
    if UserMigration.objects.filter(status="rolled_back").count() != records:
        found["problems"].append("not every record is rolled back once")
    found["runs"] = sum((whole_runs(records, held) for _ in range(rounds)), Counter())
    found["problems"] += [str(violation) for violation in oracle.violations(expected=before)][:20]
    found["conversions"] = UserMigration.objects.filter(status__in=["migrated", "rolled_back"]).count()
    connections.close_all()
    return found


def make_staff() -> None:
    """Create the member of staff who may see runs and roll users back."""
    staff = get_user_model().objects.create(username="staff", is_staff=True)
    names = ["view_migrationrun", "view_usermigration", "rollback_user"]
    staff.user_permissions.set(Permission.objects.filter(codename__in=names))


def wallets() -> dict[Any, tuple[Any, ...]]:
    """Return what everybody has."""
    rows = Wallet.objects.values_list("pk", "green", "blue", "red", "mana", "migrated_at")
    return {key: tuple(balances) for key, *balances in rows}


def command(*argv: str) -> dict[str, Any]:
    """Run ``manage.py ARGV`` in this process and return its JSON; a refusal is that nobody was rolled back."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            manage.main(["manage.py", *argv])
        except SystemExit as stop:
            code = stop.code
    assert code in GOOD_CODES, f"{argv} ended with {code}: {err.getvalue()}"
    told: dict[str, Any] = json.loads(out.getvalue()) if out.getvalue().startswith("{") else {}
    return {"users": {"rolled_back": 0, "migrated": 0}, "refused": err.getvalue(), **told, "code": code}


def four_times_each(records: int, seed: int) -> dict[str, Any]:
    """Let the four set upon each user."""
    users = list(Wallet.objects.filter(migrated_at__isnull=False).order_by("pk").values_list("pk", flat=True))
    assert len(users) == records
    connections.close_all()
    barrier = FORK.Barrier(len(WAYS))
    taken = FORK.Array("d", [0.02] * len(WAYS))

    def work(way: str, path: Path) -> None:
        dice = random.Random(f"{seed}:{way}")
        counts: Counter[str] = Counter()
        try:
            for user in users:
                do = WAYS[way](user)
                barrier.wait(timeout=120)
                time.sleep(dice.uniform(0, LATE * max(taken)))
                begun = time.monotonic()
                counts["succeeded" if until_it_answers(do, counts) else "refused"] += 1
                taken[list(WAYS).index(way)] = time.monotonic() - begun
                barrier.wait(timeout=120)  # nobody looks at the next user before all are done with this one
        except BaseException:
            barrier.abort()
            raise
        path.write_text(json.dumps(counts))

    with tempfile.TemporaryDirectory(prefix="doubles-") as folder:
        files = {way: Path(folder, way) for way in WAYS}
        crew = [FORK.Process(target=work, args=pair) for pair in files.items()]
        for process in crew:
            process.start()
        for process in crew:
            process.join()
        assert [process.exitcode for process in crew] == [0] * len(crew), "one of the four crashed"
        told = {way: json.loads(path.read_text()) for way, path in files.items()}
    return {
        "succeeded": sum(counts.get("succeeded", 0) for counts in told.values()),
        "refused": sum(counts.get("refused", 0) for counts in told.values()),
        "asked again": sum(counts.get("asked again", 0) for counts in told.values()),
        "by": {way: counts.get("succeeded", 0) for way, counts in told.items()},
    }


def until_it_answers(do: Callable[[], bool], counts: Counter[str]) -> bool:
    """Do it, again if the database was busy for too long."""
    for _ in range(TRIES):
        try:
            return do()
        except NothingToRollBackError:
            return False
        except (DatabaseUnavailableError, OperationalError):
            counts["asked again"] += 1
    raise AssertionError(f"it is refused for the {TRIES}th time")


def whole_runs(records: int, held: dict[Any, tuple[Any, ...]]) -> Counter[str]:
    """Let three migrations meet, then three rollbacks, then one of each; return how they ended."""
    ended: Counter[str] = Counter()
    conversions = ManaEntry.objects.filter(kind="conversion").count()
    runs = MigrationRun.objects.filter(kind="migration").count()
    ended += together(*[MIGRATE] * 3)
    assert ManaEntry.objects.filter(kind="conversion").count() == conversions + records, "not everybody once"
    assert MigrationRun.objects.filter(kind="migration").exclude(folded__totals__selected=0).count() <= runs + 3
    ended += together(*[ROLL_BACK] * 3)
    assert wallets() == held, "three rollbacks at once left something else than one"
    ended += together(MIGRATE, ROLL_BACK)
    command(*MIGRATE)
    assert not Wallet.objects.filter(migrated_at=None).exists()
    command(*ROLL_BACK)
    assert wallets() == held
    return ended


def together(*commands: tuple[str, ...]) -> Counter[str]:
    """Run commands as processes that set out at the same moment; return their names with their exit codes."""
    connections.close_all()
    start = FORK.Barrier(len(commands))

    def live(argv: tuple[str, ...]) -> None:
        start.wait(timeout=60)
        os._exit(command(*argv)["code"])

    crew = [FORK.Process(target=live, args=(argv,)) for argv in commands]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    ended = Counter(f"{argv[0]} {process.exitcode}" for argv, process in zip(commands, crew, strict=True))
    assert all(process.exitcode in GOOD_CODES for process in crew), ended
    return ended
