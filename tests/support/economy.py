"""A small economy in which everything has happened that can happen to a user, through the product's own services.

For tests that look at such data: the oracle, the checks, reports. Whoever is named here is a user of that name.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.color import no_style
from django.db import connection

from mana_migration.domain.import_results import ImportOptions
from mana_migration.domain.options import WRITE_OFF, Controls, MigrationOptions, RollbackOptions
from mana_migration.domain.results import RunSummary
from mana_migration.models import IntegrityFix, MigrationBatch, MigrationRun, RunEvent, UserMigration
from mana_migration.services import autofix, imports, operation
from mana_migration.services.context import Actor, RunContext, StopFlag
from mana_migration.services.migration import Migration
from mana_migration.services.rollback import Rollback
from tests.factories import UserFactory
from wishes.models import ManaEntry, Wallet, WishEntry
from wishes.services import earn_mana, earn_wishes, spend_mana, spend_wishes

ACTOR = Actor("tester", "host")

# green, blue, red, mana
WALLETS = {
    "still": (3, 2, 1, 0),  # converted, and nothing since
    "empty": (0, 0, 0, 0),  # converted at a worth of 0
    "active": (5, 0, 0, 0),  # earned before, earns and spends after
    "returned": (1, 1, 0, 0),  # converted, taken back, converted again
    "back": (0, 4, 0, 0),  # converted and taken back
    "poorer": (0, 0, 2, 0),  # had spent a part when taken back; the rest written off
    "broke": (0, 3, 0, 0),  # had spent everything when taken back; no entry of the reversal
    "stuck": (9, 0, 0, 0),  # had spent a part; the rollback skipped them
    "forgotten": (7, 7, 0, 0),  # taken back with --no-preserve-logs: the pair of entries is left
    "fixed": (-4, 1, 0, 0),  # auto-fixed, then converted
    "skipped": (-1, 0, 0, 0),  # left out by --skip-invalid
    "failed": (-2, 0, 0, 0),  # named alone, and failed
    "late": (2, 2, 2, 0),  # never converted; earned and spent wishes
}


class Economy:
    """Users by name, and what was done to them."""

    def __init__(self) -> None:
        """Create the users whom no import brings."""
        self.keys: dict[str, Any] = {}
        field = get_user_model().USERNAME_FIELD
        for name, (green, blue, red, mana) in WALLETS.items():
            user = UserFactory(**{field: name})
            self.keys[name] = user.pk
            Wallet.objects.create(user=user, green=green, blue=blue, red=red, mana=mana)

    def key(self, name: str) -> Any:
        """Return the primary key of a user."""
        return self.keys[name]

    def wallet(self, name: str) -> Wallet:
        """Return a user's wallet as it is now."""
        return Wallet.objects.get(pk=self.key(name))

    def record(self, name: str, **conditions: Any) -> UserMigration:
        """Return the latest of a user's records."""
        return UserMigration.objects.filter(user_id=self.key(name), **conditions).latest("pk")

    def bring_in(self) -> None:
        """Import a user whom the old system had converted, and one whom it had not."""
        with TemporaryDirectory() as folder:
            path = Path(folder, "export.csv")
            path.write_text(
                "id,name,green_balance,blue_balance,red_balance,mana_balance,legacy_migration_completed\n"
                "imported,,0,0,0,500,true\nnewcomer,,4,4,4,0,false\n"
            )
            imports.import_balances(ImportOptions(source=str(path)), actor=ACTOR)
        users = get_user_model()._base_manager
        for name in ("imported", "newcomer"):
            self.keys[name] = users.get(**{get_user_model().USERNAME_FIELD: name}).pk

    def migrate(self, *names: str, stop_after: int | None = None, **options: Any) -> RunSummary:
        """Migrate everybody, or users by name; ``stop_after`` batches the run is left open."""
        stop, seen = StopFlag(), []

        def progress(result: Any) -> None:
            seen.append(result)
            if len(seen) == stop_after:
                stop.request()

        options.setdefault("controls", Controls(batch_size=3, delay=0.0))
        asked = MigrationOptions(users=tuple(str(self.key(name)) for name in names), **options)
        return operation.execute(Migration(asked), RunContext(actor=ACTOR, stop=stop, progress=progress))

    def roll_back(self, *names: str, **options: Any) -> RunSummary:
        """Take users back by name, or everybody."""
        users = tuple(str(self.key(name)) for name in names)
        asked = RollbackOptions(users=users, everything=not names, reason="a test", **options)
        return operation.execute(Rollback(asked), RunContext(actor=ACTOR))


def live_through(*, after_each: Callable[[Economy], None] = lambda economy: None) -> Economy:
    """Let everything happen that can, and return what is left; ``after_each`` is called after every step."""
    economy = Economy()
    number = iter(range(1_000_000))

    def reference() -> str:
        return f"test-{next(number)}"

    steps: list[Callable[[], Any]] = [
        economy.bring_in,
        lambda: earn_mana(economy.key("active"), 40, reference=reference()),
        lambda: spend_mana(economy.key("active"), 15, reference=reference()),
        lambda: earn_wishes(economy.key("active"), "red", 1, reference=reference()),
        lambda: spend_wishes(economy.key("active"), "green", 2, reference=reference()),
        lambda: economy.migrate("failed"),
        lambda: autofix.fix_all(actor="tester", users=[str(economy.key("fixed"))]),
        lambda: economy.migrate("newcomer", "late"),
        lambda: economy.migrate(stop_after=1, skip_invalid=True),
        lambda: economy.roll_back("newcomer"),  # while the run is open
        lambda: economy.roll_back("late"),
        lambda: economy.migrate(skip_invalid=True),
        lambda: earn_wishes(economy.key("active"), "blue", 2, reference=reference()),
        lambda: spend_mana(economy.key("active"), 100, reference=reference()),
        lambda: spend_mana(economy.key("poorer"), 300, reference=reference()),
        lambda: spend_mana(economy.key("broke"), 300, reference=reference()),
        lambda: spend_mana(economy.key("stuck"), 30, reference=reference()),
        lambda: economy.roll_back("returned", "back"),
        lambda: economy.roll_back("stuck"),
        lambda: economy.roll_back("poorer", "broke", on_shortfall=WRITE_OFF),
        lambda: economy.roll_back("forgotten", preserve_logs=False),
        lambda: earn_wishes(economy.key("late"), "green", 5, reference=reference()),
        lambda: economy.migrate("returned"),
    ]
    for step in steps:
        step()
        after_each(economy)
    return economy


# --- Once is enough ---------------------------------------------------------------------------------------------------

#: Whom a row refers to comes first.
MODELS = (
    get_user_model(), MigrationRun, MigrationBatch, RunEvent, UserMigration, IntegrityFix, Wallet, ManaEntry, WishEntry,
)  # fmt: skip
#: Users by name, and for each table its columns and rows.
remembered: tuple[dict[str, Any], list[tuple[str, list[str], list[tuple[Any, ...]]]]] | None = None


def remember(economy: Economy) -> None:
    """Remember every row of an economy, so that it need not be lived through again."""
    global remembered  # noqa: PLW0603  one for the whole session
    tables = []
    with connection.cursor() as cursor:
        for model in MODELS:
            cursor.execute(f"SELECT * FROM {model._meta.db_table}")
            tables.append((model._meta.db_table, [column[0] for column in cursor.description], cursor.fetchall()))
    remembered = economy.keys, tables


def again() -> Economy:
    """Write the rows that are remembered into empty tables without guards, and return their economy."""
    assert remembered is not None
    economy = Economy.__new__(Economy)
    keys, tables = remembered
    economy.keys = dict(keys)
    with connection.cursor() as cursor:
        for table, columns, rows in tables:
            places = ", ".join(["%s"] * len(columns))
            cursor.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)
        for statement in connection.ops.sequence_reset_sql(no_style(), MODELS):
            cursor.execute(statement)
    return economy
