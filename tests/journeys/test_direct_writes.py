"""Direct writes that the guards cannot tell from honest ones are found by the checks, as docs/live-site.md says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.factories import WalletFactory
from tests.support.commands import run_command
from wishes import services
from wishes.models import Wallet

pytestmark = pytest.mark.django_db(transaction=True)


def findings(phase: str) -> set[str]:
    """Return the checks that found something."""
    report: dict[str, Any] = json.loads(run_command("validate_migration", phase, "--format", "json").out)
    return {check["id"] for check in report["checks"] if check["count"] and check["severity"] == "error"}


def test_mana_written_directly_is_found_before_the_migration() -> None:
    wallet = WalletFactory()
    Wallet.objects.filter(pk=wallet.pk).update(mana=50)
    assert findings("--pre-migration") == {"orphaned_mana"}
    assert run_command("migrate_users", "--no-input").code == 1


def test_a_stale_save_that_overwrites_mana_is_found() -> None:
    stale = WalletFactory()
    services.earn_mana(stale.pk, 50, reference="gift")
    stale.save()
    assert "orphaned_mana" in findings("--pre-migration")


def test_mana_written_directly_is_found_after_the_migration() -> None:
    wallet = WalletFactory()
    assert run_command("migrate_users", "--no-input").code == 0
    Wallet.objects.filter(pk=wallet.pk).update(mana=9)
    assert "ledger_mismatch" in findings("--post-migration")


def test_a_save_of_before_a_rollback_is_found_after_it() -> None:
    WalletFactory()
    assert run_command("migrate_users", "--no-input").code == 0
    stale = Wallet.objects.get()
    assert run_command("rollback_migration", "--all", "--no-input").code == 0
    stale.save()
    assert "migration_inconsistency" in findings("--pre-migration")
    assert "migration_inconsistency" in findings("--post-migration")
