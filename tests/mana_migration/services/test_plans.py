"""Plans: kept as promised, refused when touched or overtaken."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from mana_migration.domain.forecast import digest
from mana_migration.domain.options import Controls, MigrationOptions
from mana_migration.errors import ReportError, RunConflictError, SourceError
from mana_migration.services import dry_run, operation, plans
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.migration import Migration
from tests.factories import WalletFactory
from tests.mana_migration.running import balanced, people
from tests.support.commands import run_command
from tests.support.oracle import assert_nothing_changes
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
    "content",
    [
        "",
        "{}",
        "[1]",
        '{"promise": 1, "digest": 2, "mana_migration_plan": 3}',
        "\ufffe",
        "[" * 10_000,
        '{"promise": ' + '{"a": ' * 10_000 + "1" + "}" * 10_001,
        " " * (plans.LARGEST + 1),
        '{"promise": ' + "9" * 5_000 + "}",
    ],
    ids=lambda content: content[:20],
)
def test_anything_else_is_no_plan(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan").write_text(content)
    with pytest.raises(SourceError, match="plan"):
        plans.read(tmp_path / "plan")


def test_bytes_that_are_no_text_are_no_plan(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="is no plan"):
        plans.read(tmp_path / "plan")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/null", "/"])
def test_what_has_no_end_is_no_plan(device: str) -> None:
    with pytest.raises(SourceError, match="is no plan"):
        plans.read(Path(device))


FOREIGN = (None, 1, "a", [], {"a": {}})
FORGED: list[tuple[tuple[str, ...], Any]] = [
    *(
        ((name,), value)
        for name in ("options", "controls", "rates", "findings", "users", "wishes")
        for value in FOREIGN
    ),
    *((("options", name), value) for name in ("limit", "cohort") for value in ("5", 1.5, True, [], 0, 10**30)),
    *(
        (("options", name), value)
        for name in ("skip_invalid", "auto_fix", "auto_rollback")
        for value in ("no", 1, None)
    ),
    *((("options", "users"), value) for value in ("ab", 5, None, [1], [None], ["99999"], ["nobody"], [""], ["\x00"])),
    *((("controls", name), value) for name in ("batch_size", "delay", "until") for value in ({}, [1], True, -1, "x")),
    *((("controls", "error_threshold"), value) for value in ({}, [1], True, -1, "NaN")),
    *(((name, "red"), value) for name in ("rates", "wishes") for value in ("1000", None, 1.5, True)),
    (("users", "migrated"), "2"),
    (("findings", "overflow"), "2"),
    (("mana",), "2"),
]


@pytest.mark.parametrize(("where", "value"), FORGED)
def test_a_forged_plan_is_refused_in_one_line(path: Path, where: tuple[str, ...], value: object) -> None:
    document = json.loads(path.read_text())
    place = document["promise"]
    for name in where[:-1]:
        place = place[name]
    place[where[-1]] = value
    document["digest"] = digest(document["promise"])
    path.write_text(json.dumps(document))
    with assert_nothing_changes():
        result = run_command("migrate_users", "--plan", path, "--no-input")
    assert result.code in (1, 2)
    assert result.err.count("\n") == 1, result.err
