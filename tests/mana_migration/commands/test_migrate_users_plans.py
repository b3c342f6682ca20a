"""migrate_users: plans that are saved and executed as promised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mana_migration.models import MigrationRun
from tests.factories import WalletFactory
from tests.mana_migration.running import (
    balanced,
    migrate,
    people,
    refusal,
    told,
)
from tests.support.commands import run_command
from tests.support.oracle import assert_nothing_changes
from wishes import services
from wishes.models import ManaEntry, Wallet

pytestmark = pytest.mark.django_db


def save(path: Path, *argv: str) -> dict[str, Any]:
    return migrate("--dry-run", "--save-plan", path, *argv)


def test_a_plan_is_executed_as_promised(tmp_path: Path) -> None:
    people(12)
    plan = tmp_path / "plan.json"
    save(plan, "--limit", "10", "--batch-size", "3")
    with balanced():
        done = told(run_command("migrate_users", "--plan", plan, "--format", "json"))
    assert done["users"]["migrated"] == 10
    assert set(done["drift"].values()) == {0}
    assert done["plan"] == json.loads(plan.read_text())["digest"]
    assert MigrationRun.objects.get(pk=done["run"]).controls["batch_size"] == 3
    assert ManaEntry.objects.count() == 10


def test_drift_of_balances_is_reported_in_json_and_in_words(tmp_path: Path) -> None:
    keys = people(3)
    plan = tmp_path / "plan.json"
    save(plan)
    services.earn_wishes(keys[0], "red", 2, reference="quest")
    WalletFactory(green=1, blue=0, red=0)
    with balanced():
        result = run_command("migrate_users", "--plan", plan)
    assert "against the promise" in result.out
    assert "mana +2,010" in result.out
    assert "red +2" in result.out
    assert "selected +1" in result.out


def test_a_plan_is_not_written_over_a_file(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text("mine")
    assert "exists already" in run_command("migrate_users", "--dry-run", "--save-plan", plan).err
    assert plan.read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda document: document["promise"].update(mana=1), "was changed since it was written"),
        (lambda document: document.update(digest="0" * 64), "was changed since it was written"),
        (lambda document: document.update(mana_migration_plan=2), "version 2"),
        (lambda document: document.pop("promise"), "is no plan"),
    ],
    ids=["promise", "digest", "version", "nothing"],
)
def test_a_changed_plan_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    people(1)
    plan = tmp_path / "plan.json"
    save(plan)
    document = json.loads(plan.read_text())
    change(document)
    plan.write_text(json.dumps(document))
    with assert_nothing_changes():
        assert words in refusal(run_command("migrate_users", "--plan", plan))


def test_a_plan_that_is_none_is_refused(tmp_path: Path) -> None:
    for content in ("", "[]", "null", '"plan"', "\x00"):
        (tmp_path / "plan").write_text(content)
        assert "is no plan" in refusal(run_command("migrate_users", "--plan", tmp_path / "plan"))
    assert "is no plan" in refusal(run_command("migrate_users", "--plan", tmp_path / "missing"))
    assert "is no plan" in refusal(run_command("migrate_users", "--plan", tmp_path))


def test_a_plan_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    missing = refusal(run_command("migrate_users", "--plan", tmp_path / "missing"))
    assert "missing is no plan that can be read (No such file or directory): write one with" in missing
    assert "(Is a directory)" in refusal(run_command("migrate_users", "--plan", tmp_path))


def test_changed_findings_and_rates_refuse_a_plan(tmp_path: Path, settings: Any) -> None:
    people(2)
    plan = tmp_path / "plan.json"
    save(plan)
    bad = WalletFactory(green=-1)
    with assert_nothing_changes():
        message = refusal(run_command("migrate_users", "--plan", plan))
    assert "findings" in message
    assert '"negative_balance": 1' in message
    Wallet.objects.filter(pk=bad.pk).update(green=0)
    settings.WISHES_RATES = {"green": 10, "blue": 100, "red": 1001}
    assert '"red": 1001' in refusal(run_command("migrate_users", "--plan", plan))


@pytest.mark.parametrize("argv", [("--limit", "5"), ("--batch-size", "50"), ("--skip-invalid",), ("--delay", "1")])
def test_options_that_contradict_a_plan_are_refused(tmp_path: Path, argv: tuple[str, ...]) -> None:
    people(2)
    plan = tmp_path / "plan.json"
    save(plan, "--limit", "1", "--batch-size", "20")
    with assert_nothing_changes():
        refusal(run_command("migrate_users", "--plan", plan, *argv))


def test_a_plan_that_fixes_findings_is_gone_on_with_after_a_crash(tmp_path: Path) -> None:
    people(3)
    WalletFactory(green=-1)
    plan = tmp_path / "plan.json"
    save(plan, "--auto-fix")
    run = told(run_command("migrate_users", "--plan", plan, "--format", "json"))["run"]
    people(2)
    MigrationRun.objects.filter(pk=run).update(status="running")  # as if it had been killed on the way
    done = told(run_command("migrate_users", "--plan", plan, "--format", "json"))
    assert (done["run"], done["status"], done["users"]["migrated"]) == (run, "completed", 6)
