"""Entries and the records and runs that they name, where there are others that nearly fit."""

import pytest
from django.db import connection

from mana_migration.engine.integrity.ledger import count_conversions, count_missing_entries
from mana_migration.engine.integrity.scope import Scope
from mana_migration.models import MigrationRun, UserMigration
from tests.factories import UserFactory
from wishes.models import ManaEntry

pytestmark = pytest.mark.django_db


def run_of(kind: str) -> MigrationRun:
    """Return a run that is over."""
    return MigrationRun.objects.create(kind=kind, status="completed", rates={}, actor="x", host="x")


def book(user: object, kind: str, reference: str) -> None:
    """Book ten mana."""
    ManaEntry.objects.create(user=user, kind=kind, amount=10, balance_after=10, reference=reference)


def test_the_conversions_of_a_run_are_those_that_name_it() -> None:
    one, other, user = run_of("migration"), run_of("migration"), UserFactory()
    book(user, "conversion", f"conversion:{one.pk}:{user.pk}")
    book(user, "conversion", f"conversion:{other.pk}:{user.pk}")
    book(user, "earn", f"conversion:{one.pk}:earned")
    assert count_conversions(connection, Scope(run=one.pk)) == 1


def test_an_opening_balance_needs_an_import_of_that_very_user() -> None:
    brought_in, migration = run_of("import"), run_of("migration")
    known, unknown = UserFactory(), UserFactory()
    for user, run in ((known, brought_in), (unknown, migration)):
        UserMigration.objects.create(user=user, run=run, batch_id=0, status="skipped", error_class="test")
        book(user, "opening", f"opening:{user.pk}")
    assert count_missing_entries(connection, Scope(), forgetful=False) == 1
