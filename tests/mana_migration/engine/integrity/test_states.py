"""Reading the state of users: who is locked, and how."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from mana_migration.engine.integrity import states
from tests.factories import make_wallets
from wishes.models import ManaEntry


@pytest.mark.django_db
def test_wallets_are_locked_in_the_order_of_their_keys_where_rows_can_be_locked() -> None:
    keys = [str(found.pk) for found in make_wallets([(1, 0, 0)] * 3)]
    with CaptureQueriesContext(connection) as captured:
        states.lock_wallets(connection, keys[1:])
    asked = [query["sql"] for query in captured]
    if connection.vendor == "sqlite":
        assert asked == []
    else:
        (sql,) = asked
        assert sql.endswith(" ORDER BY w.user_id FOR NO KEY UPDATE OF w")
        assert sum(key in sql for key in keys) == 2


@pytest.mark.django_db
def test_a_purchase_whose_reference_looks_like_a_run_takes_no_conversion_back() -> None:
    mine, other = make_wallets([(0, 0, 0, 90), (0, 0, 0, 100)])
    entries = ((mine, "conversion", 100), (other, "conversion", 100), (mine, "spend", -10))
    for number, (wallet, kind, amount) in enumerate(entries):
        ManaEntry.objects.create(
            user_id=wallet.pk,
            kind=kind,
            amount=amount,
            balance_after=100 + min(amount, 0),
            reference=f"{kind}:7:{number}",
        )
    assert states.load(connection, [str(mine.pk)])[str(mine.pk)].ledger.open_conversions == ((7, 100),)
