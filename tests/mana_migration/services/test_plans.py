"""Plans: kept as promised, refused when touched or overtaken."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from mana_migration.domain.options import Controls, MigrationOptions
from mana_migration.errors import ReportError, RunConflictError, SourceError
from mana_migration.services import dry_run, operation, plans
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.migration import Migration
from tests.factories import WalletFactory
from tests.mana_migration.running import balanced, people
from wishes.models import Wallet

pytestmark = pytest.mark.django_db

OLGA = Actor("olga", "db-1")
ASKED = MigrationOptions(limit=5, controls=Controls(batch_size=3, delay=0.0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    people(4)
    plans.save(tmp_path / "plan.json", dry_run.forecast(ASKED))
    return tmp_path / "plan.json"


def test_a_plan_is_readable_by_its_owner_alone_and_holds_no_name(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    document = json.loads(path.read_text())
    assert set(document) == {"mana_migration_plan", "promise", "digest"}
    assert "user-" not in path.read_text()


def test_a_plan_brings_its_options_back(path: Path) -> None:
    promise = plans.read(path)
    found = plans.options_of(promise, MigrationOptions())
    assert (found.limit, found.controls, found.plan_digest) == (
        5,
        ASKED.controls,
        json.loads(path.read_text())["digest"],
    )


def test_a_plan_is_never_overwritten(path: Path) -> None:
    before = path.read_text()
    with pytest.raises(ReportError, match="exists already"):
        plans.save(path, dry_run.forecast(MigrationOptions()))
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (MigrationOptions(limit=6), "limit is 5, not 6"),
        (MigrationOptions(skip_invalid=True), "skip_invalid is False, not True"),
        (
            MigrationOptions(controls=Controls(batch_size=50), given=frozenset({"batch_size"})),
            "batch_size is 3, not 50",
        ),
    ],
)
def test_options_beside_a_plan_may_only_repeat_it(path: Path, asked: MigrationOptions, words: str) -> None:
    with pytest.raises(RunConflictError, match=words):
        plans.options_of(plans.read(path), asked)


def test_repeated_options_are_fine(path: Path) -> None:
    again = MigrationOptions(limit=5, controls=Controls(batch_size=3), given=frozenset({"batch_size"}))
    assert plans.options_of(plans.read(path), again).limit == 5


def test_a_plan_holds_while_only_balances_drift(path: Path) -> None:
    Wallet.objects.update(green=100)
    promise = plans.read(path)
    plans.verify(promise, plans.options_of(promise, MigrationOptions()), using="default")


def test_a_new_finding_ends_a_plan(path: Path) -> None:
    WalletFactory(green=-1)
    promise = plans.read(path)
    with pytest.raises(RunConflictError, match="its findings were"):
        plans.verify(promise, plans.options_of(promise, MigrationOptions()), using="default")


def test_the_drift_is_told_figure_by_figure(path: Path) -> None:
    promise = plans.read(path)
    asked = plans.options_of(promise, MigrationOptions())
    WalletFactory(green=0, blue=1, red=0)
    with balanced():
        done = plans.with_drift(operation.execute(Migration(asked), RunContext(actor=OLGA)), promise)
    assert done.extra["drift"] == {"selected": 1, "migrated": 1, "green": 0, "blue": 1, "red": 0, "mana": 100}


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '{"promise": 1, "digest": 2, "mana_migration_plan": 3}', "\ufffe"]
)
def test_anything_else_is_no_plan(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan").write_text(content)
    with pytest.raises(SourceError, match="plan"):
        plans.read(tmp_path / "plan")


def test_bytes_that_are_no_text_are_no_plan(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="is no plan"):
        plans.read(tmp_path / "plan")
