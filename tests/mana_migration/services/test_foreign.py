"""Whatever a site's triggers and rules do to what an import, a run or a first use writes: noticed, or it did no harm.

Fixes and bookings have the same sweep in their own tests, batches theirs in ``engine/test_kept.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, transaction

from mana_migration.domain.import_results import ImportOptions
from mana_migration.domain.options import WRITE_OFF, MigrationOptions, RollbackOptions
from mana_migration.errors import MigrationError
from mana_migration.models import UserMigration
from mana_migration.services import imports, operation
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.migration import Migration
from mana_migration.services.rollback import Rollback
from mana_migration.states import UserStatus
from tests.factories import WalletFactory
from tests.mana_migration.engine.one_batch import open_run
from tests.support.foreign import everything
from tests.support.oracle import assert_books_balance
from wishes.errors import WishesError
from wishes.models import ManaEntry, Wallet
from wishes.services import spend_mana

pytestmark = pytest.mark.django_db

ACTOR = Actor("olga", "host")
TABLES = ("wishes_wallet", "wishes_manaentry", "mana_migration_usermigration", "mana_migration_migrationbatch")

Work = Callable[[Path], int]
"""Do it, and return how many users it says it handled."""


def migrate(folder: Path) -> int:
    """Migrate the selected user."""
    users = tuple(str(key) for key in Wallet.objects.values_list("pk", flat=True))
    return operation.execute(Migration(MigrationOptions(users=users)), RunContext(actor=ACTOR)).totals.migrated


def roll_back(folder: Path) -> int:
    """Roll the selected user back; what was spent is written off."""
    users = tuple(str(key) for key in Wallet.objects.values_list("pk", flat=True))
    asked = RollbackOptions(users=users, on_shortfall=WRITE_OFF, reason="a test")
    return operation.execute(Rollback(asked), RunContext(actor=ACTOR)).totals.rolled_back


def first_use(folder: Path) -> int:
    """Let the user spend, who is converted first."""
    spend_mana(Wallet.objects.get().pk, 5, reference="order")
    return 1


def bring_in(folder: Path) -> int:
    """Import a user with wishes and one whom the old system had migrated, over the wallet that is there."""
    name = Wallet.objects.get().user.get_username()
    path = folder / "export.csv"
    path.write_text(
        "id,name,green_balance,blue_balance,red_balance,mana_balance,legacy_migration_completed\n"
        f"new,,4,5,6,0,false\nmigrated,,0,0,0,500,true\n{name},,7,8,9,0,false\n"
    )
    options = ImportOptions(source=str(path), update_existing=True, match="username")
    return imports.import_balances(options, actor=ACTOR).imported


WORK: dict[str, Work] = {
    "import": bring_in,
    "migrate": migrate,
    "roll back": roll_back,
    "write off": roll_back,
    "first use": first_use,
}


def state() -> tuple[Any, ...]:
    """Return wallets, entries and the records of what was converted, but for keys and times."""
    name = "user__username"
    wallets = [
        (*values, moment is not None)
        for *values, moment in Wallet.objects.order_by("user").values_list(
            name, "green", "blue", "red", "mana", "migrated_at"
        )
    ]
    entries = list(ManaEntry.objects.order_by("pk").values_list("kind", "amount", "balance_after"))
    converted = UserMigration.objects.filter(status__in=[UserStatus.MIGRATED, UserStatus.ROLLED_BACK])
    records = converted.order_by("pk").values_list(
        "status", "green", "blue", "red", "mana_before", "mana_credited", "mana_debited", "shortfall"
    )
    return wallets, entries, list(records)


@pytest.mark.parametrize("work", WORK)
def test_what_the_database_does_not_keep_is_noticed_before_it_is_committed(
    work: str, tmp_path: Path, settings: Any, subtests: Any
) -> None:
    settings.MANA_MIGRATION_CONVERT_ON_TOUCH = work == "first use"
    WalletFactory()
    if work in ("roll back", "write off"):
        migrate(tmp_path)
    if work == "write off":
        spend_mana(Wallet.objects.get().pk, 30, reference="order")
    if work == "first use":
        open_run()
    before = state()
    with transaction.atomic():
        assert WORK[work](tmp_path)
        expected = state()
        transaction.set_rollback(True)
    for foreign in everything(*TABLES):
        with subtests.test(foreign=str(foreign)), transaction.atomic():
            foreign.attach()
            check(work, before, expected, tmp_path)
            transaction.set_rollback(True)


def check(work: str, before: tuple[Any, ...], expected: tuple[Any, ...], folder: Path) -> None:
    """Assert that the work is done as it is without anything of the site's, or that nothing is done."""
    handled = 0
    try:
        with transaction.atomic():
            handled = WORK[work](folder)
    except (DatabaseError, MigrationError, WishesError):
        assert state() == before
    else:
        assert state() == (expected if handled else before)
    if work != "first use":  # whose run stays open
        assert_books_balance()
