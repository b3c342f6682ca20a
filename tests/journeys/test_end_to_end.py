"""From a legacy export to mana and back, by the commands alone, on a database of its own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.db.models import ProtectedError

from tests.mana_migration.running import entries, migrate, people, roll_back, wallet
from tests.support.commands import run_command
from tests.support.oracle import assert_books_balance, assert_nothing_changes, endowment
from wishes import services
from wishes.models import Wallet

pytestmark = pytest.mark.django_db

HEADER = (
    "id", "name", "green_balance", "blue_balance", "red_balance", "mana_balance", "legacy_migration_completed",
)  # fmt: skip


def write_export(path: Path, number: int = 300) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(HEADER)
        for n in range(number):
            name = f"legacy-{n:04}"
            if n % 50 == 7:
                writer.writerow([name, "Old", 0, 0, 0, 70, "true"])
            elif n % 50 == 8:
                writer.writerow([name, "Negative", -4, 1, 1, 0, "false"])
            else:
                writer.writerow([name, "Plain", n % 11, n % 5, n % 3, "", "false"])


def test_erasing_a_persons_data_leaves_the_books_as_they_are(tmp_path: Path) -> None:
    """What a site has to do when somebody asks to be forgotten, as docs/live-site.md says it."""
    key, other = people(2)
    migrate()
    before = endowment()
    user = get_user_model().objects.get(pk=key)
    name, user.username, user.email = user.get_username(), f"erased-{key}", ""
    user.first_name = user.last_name = ""
    user.is_active = False
    user.set_unusable_password()
    user.save()
    with pytest.raises(ProtectedError):
        user.delete()
    assert_books_balance(expected=before)
    assert run_command("validate_migration").code == 0
    report = tmp_path / "report.csv"
    assert run_command("monitor_migration", "--export", "csv", "--output", report).code == 0
    assert name not in report.read_text()
    assert roll_back("--user-id", f"pk:{key}")["users"]["rolled_back"] == 1
    assert wallet(key) == (3, 2, 1, 0, False)
    assert wallet(other) == (0, 0, 0, 1230, True)


def test_a_legacy_export_becomes_mana_and_goes_back(tmp_path: Path) -> None:
    export = tmp_path / "legacy.csv"
    write_export(export)
    assert run_command("import_balances", export).code == 0
    assert Wallet.objects.count() == 300
    before = endowment()

    with assert_nothing_changes():
        assert run_command("migrate_users", "--dry-run").code == 3  # negative balances stand in the way
        assert run_command("migrate_users").code == 1
        assert run_command("validate_migration", "--pre-migration").code == 3
    promised = json.loads(run_command("migrate_users", "--dry-run", "--auto-fix", "--format", "json").out)
    done = json.loads(run_command("migrate_users", "--auto-fix", "--format", "json").out)
    assert done["users"] == promised["users"] == {
        "selected": 294, "migrated": 294, "rolled_back": 0, "skipped": 0, "failed": 0,
    }  # fmt: skip
    assert done["mana"] == promised["mana"]
    assert_books_balance(expected=before)
    assert run_command("validate_migration").code == 0
    assert not Wallet.objects.filter(migrated_at__isnull=True).exists()

    key = Wallet.objects.filter(user__username="legacy-0010").get().pk  # 10 green, 1 red
    assert wallet(key) == (0, 0, 0, 1100, True)
    services.spend_wishes(key, "red", 1, reference="order:1")  # paid in mana at the frozen rates
    services.earn_wishes(key, "green", 2, reference="quest:1")
    assert wallet(key) == (0, 0, 0, 120, True)

    back = json.loads(run_command("rollback_migration", "--all", "--no-input", "--format", "json").out)
    assert (back["users"]["rolled_back"], back["skipped"]) == (293, {"shortfall": 1})
    assert_books_balance(expected=before)
    emergency = json.loads(run_command("rollback_migration", "--all", "--emergency", "--format", "json").out)
    assert (emergency["users"]["rolled_back"], emergency["shortfall"]) == (1, 980)
    assert wallet(key) == (10, 0, 1, 0, False)
    assert_books_balance(expected=before)
    assert run_command("validate_migration", "--post-migration").code == 0

    # the rollback undid the fixes with their run
    again = json.loads(run_command("migrate_users", "--auto-fix", "--format", "json").out)
    assert again["users"]["migrated"] == 294
    assert [kind for kind, *_ in entries(key)] == [
        "conversion", "spend", "earn", "reversal", "adjustment", "adjustment", "conversion",
    ]  # fmt: skip
    assert run_command("migrate_users").code == 0
    assert run_command("validate_migration").code == 0
    assert_books_balance(expected=before)
