"""The figures of the whole site in words."""

from __future__ import annotations

import pytest

from mana_migration.domain.statistics import UserCounts
from mana_migration.reports.statistics import status_line


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        (UserCounts(0, 0, 0, 0, 0), "no user has a wallet"),
        (UserCounts(1, 0, 0, 0, 0), "1 user in all: 0 migrated (0 %), 1 pending"),
        (
            UserCounts(10_000, 9_794, 4, 200, 2),
            "10,000 users in all: 9,794 migrated (97.9 %), 206 pending (4 failed, 200 skipped, 2 rolled back)",
        ),
        (UserCounts(3, 3, 0, 0, 0), "3 users in all: 3 migrated (100 %), 0 pending"),
    ],
)
def test_the_status_line_has_every_user_in_one_place(counts: UserCounts, line: str) -> None:
    assert status_line(counts) == line
