"""What the database refuses to code that writes wallets and ledgers itself, and what it says then."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from wishes import guards, services
from wishes.models import ManaEntry, Wallet, WishEntry

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 1, tzinfo=UTC)
ADVICE = r"use wishes\.services \(earn_wishes, spend_wishes, earn_mana, spend_mana\) instead of saving the wallet"

Write = Callable[[Wallet], object]


def whole_row_save(stale: Wallet) -> None:
    stale.red += 1
    stale.save()


def save_of_one_field(stale: Wallet) -> None:
    stale.red += 1
    stale.save(update_fields=["red"])


def bulk_update(stale: Wallet) -> None:
    stale.red += 1
    Wallet.objects.bulk_update([stale], ["red"])


def queryset_update(stale: Wallet) -> None:
    Wallet.objects.filter(pk=stale.pk).update(red=stale.red + 1)


def raw_sql(stale: Wallet) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE wishes_wallet SET red = red + 1 WHERE green = 0")


def flag_cleared(stale: Wallet) -> None:
    Wallet.objects.update(migrated_at=None)


def upsert(stale: Wallet) -> None:
    Wallet.objects.bulk_create(
        [Wallet(user_id=stale.pk, red=5)], update_conflicts=True, unique_fields=["user"], update_fields=["red"]
    )


WRITES: list[Write] = [
    whole_row_save,
    save_of_one_field,
    bulk_update,
    queryset_update,
    raw_sql,
    flag_cleared,
    upsert,
]


@pytest.fixture
def stale(django_user_model: Any) -> Wallet:
    """Return a wallet as a view read it, migrated since."""
    user = django_user_model.objects.create(username="someone")
    wallet = Wallet.objects.create(user=user, red=5)
    ManaEntry.objects.create(user=user, amount=5000, balance_after=5000, kind="conversion", reference="conversion:1:1")
    Wallet.objects.update(red=0, mana=5000, migrated_at=NOW)
    return wallet


@pytest.mark.parametrize("write", WRITES)
def test_a_direct_write_of_wishes_to_a_migrated_wallet_is_refused_with_what_to_call_instead(
    stale: Wallet, write: Write
) -> None:
    with pytest.raises(IntegrityError, match=ADVICE), transaction.atomic():
        write(stale)
    assert services.read_balance(stale.pk) == services.Balance(user=stale.pk, mana=5000, migrated=True)


@pytest.mark.parametrize("write", WRITES)
def test_without_the_guard_the_same_write_is_not_refused_so(stale: Wallet, write: Write) -> None:
    guards.uninstall(connection)
    try:
        with transaction.atomic():
            write(stale)
    except IntegrityError as error:
        assert "migrated_has_no_wishes" in str(error)  # the table's own constraint, which names no remedy
    else:
        assert not services.read_balance(stale.pk).migrated


def test_a_stale_save_is_refused_although_it_changes_nothing(stale: Wallet) -> None:
    with pytest.raises(IntegrityError, match=ADVICE), transaction.atomic():
        stale.save()


def test_the_service_is_not_refused(stale: Wallet) -> None:
    assert services.earn_wishes(stale.pk, "red", 1, reference="quest:1").balance_after == 6000


@pytest.mark.parametrize(
    "book", [services.earn_mana, lambda *args, **kw: services.earn_wishes(args[0], "red", 7, **kw)]
)
@pytest.mark.parametrize("change", ["update", "delete", "raw", "replace"])
def test_a_ledger_entry_is_never_changed_or_removed(
    django_user_model: Any, book: Callable[..., Any], change: str
) -> None:
    user = django_user_model.objects.create(username="someone")
    receipt = book(user, 7, reference="a")
    model = ManaEntry if receipt.currency == "mana" else WishEntry
    table = model._meta.db_table
    with pytest.raises(IntegrityError, match=f"{table} is append-only: book a new entry"), transaction.atomic():
        if change == "update":
            model.objects.update(amount=8)
        elif change == "delete":
            model.objects.all().delete()
        else:
            with connection.cursor() as cursor:
                if change == "replace" and connection.vendor == "sqlite":
                    cursor.execute(f"REPLACE INTO {table} SELECT * FROM {table}")
                else:
                    cursor.execute(f"DELETE FROM {table}")
    assert model.objects.get().amount == 7


@pytest.mark.postgres
@pytest.mark.parametrize("table", guards.LEDGERS)
def test_a_ledger_is_never_truncated(table: str) -> None:
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {table}")


def test_a_wallet_with_a_history_is_never_deleted(stale: Wallet) -> None:
    with pytest.raises(IntegrityError, match="deactivate the user instead"), transaction.atomic():
        Wallet.objects.all().delete()


def test_an_empty_wallet_may_go_with_its_user(django_user_model: Any) -> None:
    user = django_user_model.objects.create(username="someone")
    Wallet.objects.create(user=user)
    Wallet.objects.all().delete()
    user.delete()
    assert not django_user_model.objects.exists()


@pytest.mark.parametrize("values", [{"mana": -1}, {"migrated_at": NOW, "red": 1}])
def test_the_table_refuses_what_can_never_be(django_user_model: Any, values: dict[str, Any]) -> None:
    user = django_user_model.objects.create(username="someone")
    with pytest.raises(IntegrityError), transaction.atomic():
        Wallet.objects.create(user=user, **values)


@pytest.mark.sqlite
@pytest.mark.parametrize("value", ["'many'", "1.5", "9223372036854775807 + 1"])
def test_sqlite_refuses_what_is_no_whole_number(django_user_model: Any, value: str) -> None:
    Wallet.objects.create(user=django_user_model.objects.create(username="someone"))
    with pytest.raises(IntegrityError, match="whole numbers only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE wishes_wallet SET green = {value}")
