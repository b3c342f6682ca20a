"""A dry run that is saved, approved and executed as promised, whatever happens on the way."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from mana_migration.models import MigrationRun
from tests.mana_migration.running import people, status, wallet
from tests.support.oracle import assert_books_balance, endowment
from tests.support.processes import doomed, run
from wishes import services

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_plan_is_saved_killed_on_the_way_and_executed_with_its_drift(tmp_path: Path) -> None:
    keys = people(30)
    plan = tmp_path / "plan.json"
    saved = run("migrate_users", "--dry-run", "--save-plan", plan, "--batch-size", "5", "--delay", "0")
    assert saved.code == 0
    assert plan.stat().st_mode & 0o777 == 0o600
    before = endowment()
    services.earn_wishes(keys[29], "red", 3, reference="quest")
    with doomed("mana_migration.engine.batches:BatchStatements.run", 4, "migrate_users", "--plan", plan) as running:
        assert running.end().code == -signal.SIGKILL
    (opened,) = MigrationRun.objects.all()
    assert opened.controls["batch_size"] == 5
    assert status(opened.pk) == "running"
    # the plan's run is not that of a plain command with other options, nor of another plan
    assert run("migrate_users", "--limit", "5").code == 1
    result = run("migrate_users", "--plan", plan, "--format", "json")
    assert result.code == 0, result
    done = json.loads(result.out)
    assert (done["run"], done["status"], done["users"]["migrated"]) == (opened.pk, "completed", 30)
    assert done["plan"] == json.loads(plan.read_text())["digest"]
    assert done["drift"] == {"selected": 0, "migrated": 0, "green": 0, "blue": 0, "red": 3, "mana": 3000}
    assert all(wallet(key)[4] for key in keys)
    assert_books_balance(expected=before)


def test_a_plan_does_not_run_twice_as_promised(tmp_path: Path) -> None:
    people(3)
    plan = tmp_path / "plan.json"
    run("migrate_users", "--dry-run", "--save-plan", plan)
    assert run("migrate_users", "--plan", plan).code == 0
    again = run("migrate_users", "--plan", plan)
    assert again.code == 0
    assert "all 3 users are migrated" in again.out
