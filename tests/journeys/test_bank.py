"""The bank test on PostgreSQL: nothing is lost or paid twice while a used site is migrated and rolled back.

Eight processes earn, spend, read, retry, race for coupons, save stale wallets and roll single users back, on 1,000
users, 8 of them hot, while real migrate_users and rollback_migration commands run in turns; another looks at all rules
in one snapshot after the other. See tests/support/bank.py; ``make torture`` runs it as long as you like.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import PROJECT
from tests.support.databases import address, own_database

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True), pytest.mark.timeout(900)]

Bank = Callable[..., dict[str, Any]]


@pytest.fixture
def bank(tmp_path: Path, transactional_db: None) -> Iterator[Bank]:
    """Return a function that runs a bank on a database of its own and returns its outcome."""
    with own_database(tmp_path, copy=True) as database:

        def run(*argv: object) -> dict[str, Any]:
            done = subprocess.run(
                [sys.executable, "-m", "tests.support.bank", *map(str, argv)],
                cwd=PROJECT,
                env=os.environ | {"DATABASE_URL": address(database)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.stdout, done.stderr
            outcome: dict[str, Any] = json.loads(done.stdout)
            assert done.returncode == (0 if outcome["ok"] else 1)
            assert not outcome["crashed"], done.stderr
            return outcome

        yield run


def check(outcome: dict[str, Any], operations: int) -> None:
    """Fail unless everything held, and everything that can go wrong was tried."""
    found = json.dumps(outcome, indent=1)
    assert outcome["ok"], found
    assert outcome["operations"] >= operations
    assert outcome["snapshots"] > 10, found
    assert any(command.startswith("migrate_users") for command in outcome["commands"]), found
    assert any(command.startswith("rollback_migration") for command in outcome["commands"]), found
    for what in ("earn", "spend", "read", "read all", "repeated", "gift", "rolled back", "stale save refused"):
        assert outcome["counts"].get(what), f"nobody ever did: {what}\n{found}"
    assert outcome["counts"]["ReferenceConflictError"], "nobody raced for a coupon"
    assert not [what for what in outcome["counts"] if what.startswith("database error")], found


def test_nothing_is_lost_or_paid_twice_while_the_site_is_used(bank: Bank) -> None:
    check(bank("--operations", 4000), 4000)


def test_nothing_is_lost_or_paid_twice_while_two_processes_work_on_each_run(bank: Bank) -> None:
    outcome = bank("--operations", 2000, "--workers", 2)
    check(outcome, 2000)
    assert outcome["shared_runs"], json.dumps(outcome, indent=1)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_nothing_is_lost_or_paid_twice_in_a_hundred_thousand_operations(bank: Bank) -> None:
    check(bank("--operations", 100_000, "--seed", 2), 100_000)


@pytest.mark.parametrize(
    ("protection", "noticed"),
    [
        ("lock", ("violations", "unexpected")),
        ("reference", ("paid_twice", "violations")),
        ("guard", ("violations", "stale_saves_accepted")),
    ],
)
def test_without_one_protection_the_books_do_not_balance(bank: Bank, protection: str, noticed: tuple[str, ...]) -> None:
    outcome = bank("--operations", 800, "--without", protection)
    assert not outcome["ok"]
    assert any(outcome[what] for what in noticed), json.dumps(outcome, indent=1)
