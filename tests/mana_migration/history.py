"""Runs as they look afterwards, built by hand: for tests of what is read and shown, not of how runs work."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.db import connection

from mana_migration import guards
from mana_migration.domain.results import FIGURES, Totals
from mana_migration.engine import totals as figures
from mana_migration.models import MigrationBatch, MigrationRun, RunEvent, UserMigration
from mana_migration.states import BatchStatus, EventKind, RunKind, RunStatus, UserStatus
from wishes.models import Wallet

#: When every history begins.
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
RATES = {"green": 10, "blue": 100, "red": 1000}
CANARY = "<script>alert(1)</script>"


def after(seconds: float) -> datetime:
    """Return a moment of the history."""
    return NOON + timedelta(seconds=seconds)


def rewrite_records(*keys: int, **values: Any) -> None:
    """Change records of users, which the database's guards refuse to everyone."""
    guards.uninstall(connection)
    UserMigration.objects.filter(pk__in=keys).update(**values)
    guards.install(connection)


def worth(green: int, blue: int, red: int) -> int:
    """Return what wishes are worth at RATES."""
    return 10 * green + 100 * blue + 1000 * red


_names = itertools.count()


def make_users(number: int) -> list[Any]:
    """Create users with names that must appear nowhere, and their wallets."""
    model = get_user_model()
    places = list(itertools.islice(_names, number))
    users = model.objects.bulk_create(
        [model(username=f"{CANARY}{place}", email=f"canary{place}@example.org") for place in places]
    )
    Wallet.objects.bulk_create([Wallet(user=user, migrated_at=NOON) for user in users])
    return list(users)


def make_run(**values: Any) -> MigrationRun:
    """Create a run that was started at NOON."""
    defaults: dict[str, Any] = {
        "kind": RunKind.MIGRATION,
        "status": RunStatus.COMPLETED,
        "options": {"users": []},
        "rates": RATES,
        "controls": {"batch_size": 50, "delay": 0.0, "error_threshold": "10"},
        "actor": "olga",
        "host": "db-1",
        "folded": figures.empty(),
        "created_at": NOON,
    }
    return MigrationRun.objects.create(**defaults | values)


def make_batch(
    run: MigrationRun, totals: Totals, *, start: float = 0.0, seconds: float = 1.0, **values: Any
) -> MigrationBatch:
    """Create a batch that was done ``start`` seconds after NOON and took ``seconds``."""
    return MigrationBatch.objects.create(
        run=run,
        **{
            "first_user": "1",
            "last_user": "9",
            "planned": totals.selected,
            "status": BatchStatus.DONE,
            "started_at": after(start),
            "finished_at": after(start + seconds),
            "errors": dict(totals.errors),
            "skips": dict(totals.skips),
            **{name: getattr(totals, name) for name in FIGURES},
            **values,
        },
    )


def make_event(run: MigrationRun, kind: EventKind, seconds: float, **values: Any) -> RunEvent:
    """Create an event ``seconds`` after NOON."""
    return RunEvent.objects.create(run=run, kind=kind, created_at=after(seconds), **values)


def done(users: int, **values: Any) -> Totals:
    """Return the totals of a batch that migrated all its users."""
    return Totals(**{"selected": users, "migrated": users, **values})


@dataclass
class History:
    """A finished migration and what it must add up to."""

    run: MigrationRun
    users: list[Any]
    records: list[UserMigration]
    totals: Totals = field(default_factory=Totals)


def make_history(number: int = 12, *, batch_size: int = 4, **values: Any) -> History:
    """Create a completed migration: every 5th user failed, every 7th was skipped, the others were converted."""
    run = make_run(expected=number, finished_at=after(60), **values)
    users = make_users(number)
    history = History(run, users, [])
    for begin in range(0, number, batch_size):
        slice_ = users[begin : begin + batch_size]
        totals, rows = Totals(), []
        for place, user in enumerate(slice_, begin + 1):
            rows.append(_record(run, user, place, totals))
        batch = make_batch(
            run,
            totals,
            start=begin,
            seconds=0.5 + begin / 100,
            first_user=str(slice_[0].pk),
            last_user=str(slice_[-1].pk),
        )
        for row in rows:
            row.batch = batch
        history.records += UserMigration.objects.bulk_create(rows)
        history.totals.add(totals)
    figures.fold(run, "default")
    run.save(update_fields=["folded"])
    return history


def _record(run: MigrationRun, user: Any, place: int, totals: Totals) -> UserMigration:
    totals.selected += 1
    record = UserMigration(user=user, run=run, green=place, blue=place * 2, red=place * 3, created_at=NOON)
    if place % 5 == 0:
        record.status, record.error_class = UserStatus.FAILED, "negative_balance"
        record.green, record.error_message = -place, "a balance is negative"
        totals.failed += 1
        totals.errors += Counter({"negative_balance": 1})
        return record
    if place % 7 == 0:
        record.status, record.error_class = UserStatus.SKIPPED, "locked"
        totals.skipped += 1
        totals.skips += Counter({"locked": 1})
        return record
    record.status, record.mana_credited = UserStatus.MIGRATED, worth(place, place * 2, place * 3)
    totals.migrated += 1
    totals.green, totals.blue, totals.red = totals.green + place, totals.blue + 2 * place, totals.red + 3 * place
    totals.mana += record.mana_credited
    return record
