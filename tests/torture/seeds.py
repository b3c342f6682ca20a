"""The users of each scene, small enough for thousands of trials and with every kind of user in them."""

import csv
import os
from typing import Any

from django.contrib.auth import get_user_model
from django.db import connection

from wishes import services
from wishes.models import Wallet

#: As many green wishes make the database refuse the conversion, though nothing is wrong with the balance.
POISON = 666


def ordinary(count: int = 17) -> None:
    """Add users with wishes, with mana, with both, with nothing, and one without a wallet."""
    keys = _users(count + 1)
    _wallets([(key, number % 5, number % 3, number % 2) for number, key in enumerate(keys[:-1])])
    for number, key in enumerate(keys[:6]):
        services.earn_mana(key, 10 + number, reference=f"opened:{number}")


def poisoned() -> None:
    """Add ordinary users, and one whom the database refuses to convert."""
    ordinary()
    _wallets([(key, POISON, 0, 0) for key in _users(1, "poisoned")])
    refuse_poison()


def rotten() -> None:
    """Add users of whom so many fail that the breaker trips."""
    keys = _users(64)
    _wallets([(key, POISON if number % 8 == 7 else number % 7, 1, 0) for number, key in enumerate(keys)])
    services.earn_mana(keys[0], 5, reference="opened:0")
    refuse_poison()


def dirty() -> dict[str, Any]:
    """Add ordinary users, some with negative balances and some with mana that no entry backs."""
    ordinary()
    keys = _users(6, "dirty")
    _wallets([(keys[0], -3, 0, 0), (keys[1], 5, -1, 2), (keys[2], 0, 0, -7)])
    orphans = keys[3:]
    Wallet.objects.bulk_create([Wallet(user_id=key, green=number, mana=50) for number, key in enumerate(orphans)])
    return {"orphans": [str(key) for key in orphans]}


def spenders() -> None:
    """Let some of the converted users spend some or all of their mana, and earn."""
    for number, wallet in enumerate(Wallet.objects.filter(migrated_at__isnull=False).order_by("pk")):
        if number % 4 == 1 and wallet.mana:
            services.spend_mana(wallet.pk, wallet.mana, reference=f"order:{number}")
        elif number % 4 == 2 and wallet.mana > 1:
            services.spend_mana(wallet.pk, 1, reference=f"order:{number}")
        elif number % 4 == 3:
            services.earn_wishes(wallet.pk, "blue", 1, reference=f"quest:{number}")


def nobody() -> dict[str, Any]:
    """Add nobody, but write a legacy export to be imported."""
    path = os.path.join(os.environ["MANA_MIGRATION_LOG_DIR"], "legacy.csv")  # noqa: PTH118
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
    with open(path, "w", newline="") as stream:  # noqa: PTH123
        rows = csv.writer(stream)
        rows.writerow(
            ["id", "name", "green_balance", "blue_balance", "red_balance", "mana_balance", "legacy_migration_completed"]
        )
        for number in range(20):
            migrated = number % 4 == 0
            rows.writerow([f"old-{number}", "x", *((0, 0, 0, 70) if migrated else (number, 1, 2, 0)), migrated])
    return {"path": path}


def crowd(count: int = 2000) -> None:
    """Add many users, each with wishes."""
    _wallets([(key, 1, number % 3, number % 2) for number, key in enumerate(_users(count))])


def few() -> None:
    """Add as many users as two processes share."""
    ordinary(60)


def refuse_poison() -> None:
    """Let the database refuse to convert whoever has so many green wishes."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(
                f"CREATE TRIGGER poison BEFORE UPDATE ON wishes_wallet WHEN OLD.green = {POISON} "
                "AND NEW.migrated_at IS NOT NULL BEGIN SELECT RAISE(ABORT, 'poisoned'); END"
            )
            return
        cursor.execute(
            "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = 'poisoned'; END $$"
        )
        cursor.execute(
            f"CREATE TRIGGER poison BEFORE UPDATE ON wishes_wallet FOR EACH ROW WHEN (OLD.green = {POISON} "
            "AND NEW.migrated_at IS NOT NULL) EXECUTE FUNCTION poison()"
        )


def _users(count: int, name: str = "user") -> list[Any]:
    model = get_user_model()
    model.objects.bulk_create([model(username=f"{name}-{number}") for number in range(count)], batch_size=1000)
    return list(model.objects.filter(username__startswith=f"{name}-").order_by("pk").values_list("pk", flat=True))


def _wallets(balances: list[tuple[Any, int, int, int]]) -> None:
    Wallet.objects.bulk_create(
        [Wallet(user_id=key, green=green, blue=blue, red=red) for key, green, blue, red in balances], batch_size=1000
    )
