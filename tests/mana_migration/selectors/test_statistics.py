"""The figures of the whole site against plain Python, after runs that migrate, skip, fail and roll back again."""

from __future__ import annotations

from collections import Counter

import pytest

from mana_migration.domain.statistics import UserCounts
from mana_migration.models import UserMigration
from mana_migration.selectors import user_counts as bounded
from mana_migration.selectors.statistics import user_counts
from mana_migration.states import RunKind
from tests.factories import UserFactory, make_wallets
from tests.mana_migration.running import keys_of, migrate, roll_back
from wishes import services
from wishes.models import Wallet

pytestmark = pytest.mark.django_db(transaction=True)


def by_hand() -> UserCounts:
    """Return the counts, user by user in Python."""
    latest = Counter[str]()
    unmigrated = Wallet.objects.filter(migrated_at=None).values_list("user", flat=True)
    for user in unmigrated:
        ours = UserMigration.objects.filter(user=user).exclude(run__kind=RunKind.ROLLBACK)
        record = ours.order_by("-pk").first()
        latest[record.status if record is not None else "never"] += 1
    return UserCounts(
        total=Wallet.objects.count(),
        migrated=Wallet.objects.exclude(migrated_at=None).count(),
        failed=latest["failed"],
        skipped=latest["skipped"],
        rolled_back=latest["rolled_back"],
    )


def shown_on_pages() -> tuple[int, ...]:
    """Return the counts of the pages, which are exact for so few users."""
    found = bounded.user_counts("default")
    counts = (found.total, found.migrated, found.failed, found.skipped, found.rolled_back)
    assert all(count.exact for count in counts)
    return tuple(count.users for count in counts)


def test_every_user_is_in_one_place_after_each_run() -> None:
    UserFactory()  # without a wallet
    make_wallets([(-1, 0, 0)] * 3)
    keys = keys_of(make_wallets([(place + 1, 0, 0) for place in range(12)]))
    assert user_counts() == by_hand() == UserCounts(15, 0, 0, 0, 0)
    migrate("--skip-invalid", "--limit", 8, code=3)
    assert user_counts() == by_hand()
    services.spend_mana(keys[0], 5, reference="bought")
    roll_back("--all", code=3)  # one user has spent and is skipped: the rollback has a record of that
    counts = user_counts()
    assert counts == by_hand()
    assert shown_on_pages() == (15, 1, 0, 3, counts.rolled_back)
    assert (counts.migrated, counts.skipped, counts.rolled_back > 0) == (1, 3, True)
    migrate("--skip-invalid", "--limit", 6, code=3)  # skips the same three again
    roll_back("--user-id", f"pk:{keys[1]}")
    assert user_counts() == by_hand()
    assert shown_on_pages() == (15, user_counts().migrated, 0, 3, user_counts().rolled_back)
    Wallet.objects.filter(green__lt=0).update(green=0)
    migrate()
    assert user_counts() == by_hand() == UserCounts(15, 15, 0, 0, 0)
    roll_back("--all", "--on-shortfall", "write-off")
    assert user_counts() == by_hand() == UserCounts(15, 0, 0, 0, 15)


def test_who_was_rolled_back_and_then_skipped_counts_as_skipped() -> None:
    (key,) = keys_of(make_wallets([(1, 0, 0)]))
    migrate()
    roll_back("--all")
    Wallet.objects.filter(user=key).update(green=-1)
    migrate("--skip-invalid", code=3)
    assert user_counts() == by_hand() == UserCounts(1, 0, 0, 1, 0)
