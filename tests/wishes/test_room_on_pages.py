"""A conversion writes each wallet on the page that it is on; see the schema migration that leaves the room."""

import pytest
from django.db import connection

from tests.factories import make_wallets
from tests.mana_migration.running import migrate


def pages() -> dict[int, int]:
    """Return the page of each wallet by its user."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT user_id, split_part(trim('(' FROM ctid::text), ',', 1)::bigint FROM wishes_wallet")
        return dict(cursor.fetchall())


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_converted_wallet_stays_on_its_page_so_that_no_index_learns_of_it() -> None:
    make_wallets([(1, 2, 3)] * 300)
    before = pages()
    assert len(set(before.values())) > 2
    migrate("--batch-size", 50)
    after = pages()
    stayed = sum(after[user] == page for user, page in before.items())
    assert stayed > 0.9 * len(before)
