"""Closing the migration for good, what it forbids afterwards, and what may be removed then."""

from __future__ import annotations

from pathlib import Path

import pytest

from mana_migration.models import Closing, MigrationRun
from mana_migration.services import archive, closing
from mana_migration.services.context import Actor
from tests.factories import make_wallets
from tests.mana_migration.running import migrate
from wishes.models import Wallet

pytestmark = pytest.mark.django_db(transaction=True)

OLGA, PAUL = Actor("olga", "db-1"), Actor("paul", "db-1")


@pytest.fixture
def run() -> int:
    make_wallets([(1, 2, 3)] * 4)
    return int(migrate()["run"])


def test_it_is_closed_after_a_clean_validation_with_the_heads_of_all_runs(run: int) -> None:
    closing.close(actor=OLGA, reason="all done", using="default")
    kept = Closing.objects.get()
    assert (kept.closed, kept.actor, kept.reason) == (True, "olga", "all done")
    assert list(kept.details["heads"]) == [str(run)]
    assert closing.current("default") == kept
    with pytest.raises(closing.ClosingError, match="closed already"):
        closing.close(actor=OLGA, reason="", using="default")


def test_it_is_not_closed_while_something_is_left() -> None:
    with pytest.raises(closing.ClosingError, match="nothing to close"):
        closing.close(actor=OLGA, reason="", using="default")
    run = MigrationRun.objects.create(kind="migration", status="running")
    with pytest.raises(closing.ClosingError, match=f"run {run.pk} .* is open"):
        closing.close(actor=OLGA, reason="", using="default")


def test_it_is_not_closed_over_findings(run: int) -> None:
    Wallet.objects.update(mana=1)
    with pytest.raises(closing.ClosingError, match=r"error-level findings remain \(ledger_mismatch 4"):
        closing.close(actor=OLGA, reason="", using="default")


def test_a_second_person_or_a_reopening_is_needed_afterwards(run: int) -> None:
    closing.require_open("default", actor=OLGA)
    closing.close(actor=OLGA, reason="", using="default")
    with pytest.raises(closing.ClosingError, match="name a second person with rollback_migration --approved-by"):
        closing.require_open("default", actor=PAUL)
    with pytest.raises(closing.ClosingError, match="names yourself"):
        closing.require_open("default", actor=PAUL, approved_by="Paul")
    closing.require_open("default", actor=PAUL, approved_by="olga")
    closing.reopen(actor=OLGA, reason="ticket 9", using="default")
    closing.require_open("default", actor=PAUL)
    with pytest.raises(closing.ClosingError, match="not closed"):
        closing.reopen(actor=OLGA, reason="", using="default")


def test_tables_may_be_removed_once_every_run_has_a_valid_archive(run: int, tmp_path: Path) -> None:
    assert closing.removable(tmp_path)[0] == "the migration is not closed: control_migration close"
    closing.close(actor=OLGA, reason="", using="default")
    (problem,) = closing.removable(tmp_path)
    assert problem.startswith(f"run {run} has no valid archive: ")
    archive.write(run, tmp_path)
    assert closing.removable(tmp_path) == []
