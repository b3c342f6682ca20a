"""Lazy conversion: a user who spends before their turn is converted in that same transaction.

# Note [No waiting for the run]
Stopping a run locks its row and waits for the batches being handled; a batch may wait for a wallet
that a spending transaction holds.  If that transaction waited for the run's row in turn, the three
would wait for each other.  So a row that is locked is skipped, and the user spends wishes.
"""

from __future__ import annotations

from typing import Any

from django.db import DataError, IntegrityError, connections, transaction

from mana_migration import conf
from mana_migration.engine import conversion, planning, users
from mana_migration.engine.failures import NothingKeptError
from mana_migration.engine.planning import Slice
from mana_migration.models import MigrationRun
from mana_migration.services import migration, runs, selected_users
from mana_migration.states import RunStatus


class _LeftAloneError(Exception):
    """The user is not to be converted, or cannot be: undo what was prepared."""


def convert_on_first_use(user_key: Any, using: str = "default") -> bool:
    """Convert one unmigrated user for the open migration run; return whether that was done.

    Called by the wallet service under the wallet's lock, inside the spending transaction; the
    conversion is that of the batches and is counted in the run, as a batch of one user.  Nothing
    is done, and the user continues to spend what they have, where

    - the setting ``MANA_MIGRATION_CONVERT_ON_TOUCH`` is off,
    - no migration runs, it is paused, or it is being planned, paused or stopped this very moment,
    - it handles a limited number of users, or the user is not in its share of them,
    - the run has dealt with the user already, or the user cannot be converted (a negative balance,
      too much mana): the batch that reaches them will record why.

    The application never waits for the migration here: see Note [No waiting for the run].
    """
    if not conf.convert_on_first_use():
        return False
    run = runs.share_open_migration(using, wait=False)
    if run is None or run.status != RunStatus.RUNNING or run.migration_options.limit is not None:
        return False
    try:
        with transaction.atomic(using=using):
            _convert(run, users.to_text(user_key), using)
    except (_LeftAloneError, DataError, IntegrityError, NothingKeptError):
        return False
    return True


def _convert(run: MigrationRun, user: str, using: str) -> None:
    batch = planning.write_batch(connections[using], run.pk, Slice(user, user, 1))
    terms = migration.terms_of(run)
    handled = conversion.convert(connections[using], terms, selected_users.task_of(batch, user))
    if handled is None or not handled.totals.migrated:
        raise _LeftAloneError
