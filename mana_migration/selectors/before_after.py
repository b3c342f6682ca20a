"""What each migrated user had before and has got for it, by user key: for a site's own mailing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from mana_migration.domain.report import BeforeAfter
from mana_migration.models import UserMigration
from mana_migration.states import RunKind

#: Users read at a time, so that no cursor stays open on the server.
PAGE: Final = 5_000

_COLUMNS: Final = ("pk", "user_id", "run_id", "created_at", "green", "blue", "red", "mana_before", "mana_credited")


def before_and_after(using: str, *, run_id: int | None = None, since: datetime | None = None) -> Iterator[BeforeAfter]:
    """Yield each user whom a migration has converted and no rollback reversed, in the order of their conversion.

    Args:
        using: the alias of the database.
        run_id: only conversions of this run.
        since: only conversions at that moment or later.
    """
    records = UserMigration.objects.using(using).live().filter(run__kind=RunKind.MIGRATION)
    if run_id is not None:
        records = records.filter(run=run_id)
    if since is not None:
        records = records.filter(created_at__gte=since)
    columns, last = records.order_by("pk").values_list(*_COLUMNS), 0
    while True:
        page = list(columns.filter(pk__gt=last)[:PAGE])
        for last, key, run, at, green, blue, red, mana, credited in page:  # noqa: B007 (the next page begins after it)
            moment = f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S+00:00}"
            user_key = key if isinstance(key, int) else str(key)
            yield BeforeAfter(user_key, run, moment, green, blue, red, mana, credited, mana + credited)
        if len(page) < PAGE:
            return
