"""Check that this database is fit for a run, before anything is read or written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.apps import apps
from django.contrib.auth import get_user_model
from django.db import DatabaseError, InterfaceError, connections, transaction

from mana_migration import conf, guards
from mana_migration.engine import failures, foreign
from mana_migration.engine.foreign import Attachment
from mana_migration.engine.support import unsupported
from mana_migration.errors import DatabaseUnavailableError, PreflightError
from mana_migration.services import logs
from mana_migration.services.context import RunContext
from wishes import constraints
from wishes import guards as wishes_guards
from wishes.errors import ReversalNotAllowedError

#: The apps whose schema must be complete.
APPS: Final = ("wishes", "mana_migration")


def check(
    using: str = "default",
    *,
    read_only: bool = False,
    reverses: bool = False,
    notice: Callable[[str], None] | None = None,
) -> None:
    """Refuse a database that a run could not finish on, or whose rows it could not see.

    Args:
        using: database alias.
        read_only: the caller only reads, so that a standby will do.
        reverses: the caller reverses conversions, which not every role of the database may.
        notice: takes a warning for each trigger or rule of the site's own; None: they are not asked for.

    Raises:
        DatabaseUnavailableError: it cannot be reached, or takes no writes.
        PreflightError: it is neither PostgreSQL nor SQLite; it lacks a schema migration, a table, a guard or a
            constraint; rows are hidden from this role; its sequences lag behind; its role may not reverse.
    """
    connection = connections[using]
    try:
        reason = unsupported(connection)
        if reason:
            raise PreflightError(f"database {using!r} is not supported: {reason}")
        _check_schema(using)
        _check_tables(using)
        _check_hidden_rows(using)
        if not read_only:
            _check_writable(using)
        faults = _faults(connection)
        lacks = constraints.lacking(connection, _models())
        late = "" if read_only or faults or lacks else behind(using)
        if reverses:
            wishes_guards.require_reversals(connection)
    except ReversalNotAllowedError as error:
        raise PreflightError(str(error)) from error
    except (DatabaseError, InterfaceError) as error:
        raise DatabaseUnavailableError(
            f"database {using!r} cannot be used: {failures.describe(error)}; "
            "check DATABASE_URL and that the server runs"
        ) from error
    if faults or lacks:
        named = [*(f"{name} ({why})" for name, why in sorted(faults.items())), *(lack.name for lack in lacks)]
        raise PreflightError(
            f"database {using!r} does not refuse what it must, because of: {', '.join(named)}; "
            "install it again with: python manage.py install_guards"
        )
    if late:
        raise PreflightError(late)
    if notice is not None:
        for sentence in warnings(using):
            notice(f"warning: {sentence}")
            logs.write(logging.WARNING, sentence)


def warnings(using: str = "default") -> list[str]:
    """Return a sentence for each thing of the site's own that can change what is written to our tables."""
    return [
        f"{attached} is not this project's: what it drops, changes or adds is looked for in every batch"
        for attached in _attachments(using)
        if attached.kind in (foreign.TRIGGER, foreign.RULE) and attached.table != get_user_model()._meta.db_table
    ]


def check_visible(using: str = "default") -> None:
    """Refuse to report on tables whose rows this role does not see.

    Raises:
        PreflightError: row-level security hides rows from it, or a view is in the place of a table.
    """
    _check_hidden_rows(using)


def refuse_standby(using: str) -> None:
    """Refuse a standby where each database is to have users of its own: it has those of its primary.

    Raises:
        DatabaseUnavailableError: it is one.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_is_in_recovery()")
        if cursor.fetchone()[0]:
            raise DatabaseUnavailableError(
                f"database {using!r} is a standby, whose users are those of its primary: name the databases that are "
                "meant, or mark it as a mirror in the settings (TEST: MIRROR)"
            )


def _models() -> list[type[Any]]:
    return [
        model
        for label in APPS
        for model in apps.get_app_config(label).get_models()
        if model._meta.managed and not model._meta.proxy
    ]


def _tables() -> list[str]:
    return [*(model._meta.db_table for model in _models()), get_user_model()._meta.db_table]


def _faults(connection: Any) -> dict[str, str]:
    return wishes_guards.faults(connection) | guards.faults(connection)


def _attachments(using: str) -> list[Attachment]:
    connection = connections[using]
    return foreign.attachments(connection, _tables(), own=foreign.own_triggers(connection.vendor))


def _check_schema(using: str) -> None:
    from django.db.migrations.executor import MigrationExecutor  # noqa: PLC0415 (takes long, and only this check needs it)

    executor = MigrationExecutor(connections[using])
    targets = [node for node in executor.loader.graph.leaf_nodes() if node[0] in APPS]
    pending = [f"{migration.app_label}.{migration.name}" for migration, _ in executor.migration_plan(targets)]
    if not pending:
        return
    if not any(app in APPS for app, _ in executor.loader.applied_migrations):
        raise PreflightError(f"database {using!r} has no tables of this project yet; run: python manage.py migrate")
    raise PreflightError(
        f"database {using!r} lacks the schema migrations {', '.join(pending)}, which this code needs; nothing was "
        "done. End all processes that still work with the old code, then run: python manage.py migrate, then python "
        "manage.py install_guards, then the same command"
    )


def _check_tables(using: str) -> None:
    connection = connections[using]
    with connection.cursor() as cursor:
        present = set(connection.introspection.table_names(cursor, include_views=True))
    models = [get_user_model(), *_models()]
    missing = sorted({model._meta.db_table for model in models if model._meta.managed} - present)
    if missing:
        raise PreflightError(
            f"database {using!r} lacks the tables {', '.join(missing)}, although their schema migrations are applied: "
            "they were dropped or renamed; rename them back, or restore the database from a backup"
        )


def _check_hidden_rows(using: str) -> None:
    connection = connections[using]
    attached = _attachments(using)
    users = get_user_model()._meta.db_table
    views = sorted(each.table for each in attached if each.kind == foreign.VIEW and each.table != users)
    if views:
        raise PreflightError(
            f"database {using!r} has a view in the place of {', '.join(views)}: what is written through it cannot be "
            "proved; give the table its name back"
        )
    hidden = sorted(each.table for each in attached if each.kind == foreign.HIDDEN)
    if hidden:
        raise PreflightError(
            f"row-level security can hide rows of {', '.join(hidden)} from the role "
            f"{connection.settings_dict['USER'] or 'of this process'}, so that users would be overlooked; use a role "
            "that sees every row (ALTER ROLE ... BYPASSRLS), or end it: ALTER TABLE ... DISABLE ROW LEVEL SECURITY"
        )


def await_writes(context: RunContext) -> None:
    """Wait for a server that takes no writes, as while it fails over, as long as ``conf.read_only_wait`` says.

    Raises:
        django.db.Error: the database cannot be reached.
    """
    begun, reported = time.monotonic(), False
    while time.monotonic() - begun < conf.read_only_wait():
        try:
            if not _takes_no_writes(context.connection):
                return
        except (DatabaseError, InterfaceError):
            if not reported:
                raise  # it is no server that fails over
        if not reported:
            context.notice(f"the database takes no writes: waiting for it, at most {conf.read_only_wait()} s")
            reported = True
        context.connection.close()  # the next session may be another server's
        if context.stop.wait(1.0):
            return


def _takes_no_writes(connection: Any) -> str:
    """Return what kind of server it is that takes no writes; empty where it does."""
    if connection.vendor != "postgresql":
        return ""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_is_in_recovery(), current_setting('transaction_read_only')")
        standby, read_only = cursor.fetchone()
    return "a standby" if standby else "read-only" if read_only == "on" else ""


def _check_writable(using: str) -> None:
    connection = connections[using]
    if connection.vendor == "postgresql":
        if kind := _takes_no_writes(connection):
            raise DatabaseUnavailableError(
                f"database {using!r} is {kind}; point DATABASE_URL at the primary and give the command again"
            )
        return
    # an IMMEDIATE transaction is refused where the file or its folder is read-only
    with transaction.atomic(using=using), connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def behind(using: str) -> str:
    """Return why sequences that lag behind their tables block a run, with the cure; empty where none does."""
    models = [*_models(), get_user_model()]
    keys = [(model._meta.db_table, model._meta.pk.column) for model in models if model._meta.pk.remote_field is None]
    found = foreign.sequences_behind(connections[using], keys)
    if not found:
        return ""
    cures = "; ".join(f"SELECT setval('{name}', {newest})" for name, newest in found)
    return (
        f"database {using!r} has sequences behind their tables, as after a restore: new rows would be refused as "
        f"duplicates. Nothing was done. Run with psql: {cures}; then give the command again"
    )


@contextmanager
def _without_guards(connection: Any) -> Iterator[None]:
    """Drop all guards for the block, inside the caller's transaction."""
    for each in (wishes_guards, guards):
        each.uninstall(connection)
    yield
    for each in (wishes_guards, guards):
        each.install(connection)


def install_missing_guards(using: str = "default") -> list[str]:
    """Install what the database must refuse and does not; return the names of what was installed.

    Raises:
        PreflightError: rows break a constraint, this role may not, or a setting lifts the guards.
    """
    connection = connections[using]
    _check_schema(using)
    _check_tables(using)
    _check_hidden_rows(using)
    try:
        lacks, faults = constraints.lacking(connection, _models()), _faults(connection)
        constraints.add(connection, lacks, without_triggers=_without_guards(connection))
        with transaction.atomic(using=using):
            if faults:
                needed = [*wishes_guards.statements(connection.vendor), *guards.statements(connection.vendor)]
                wishes_guards.reinstall(connection, needed, faults)
    except DatabaseError as error:
        raise PreflightError(f"the guards cannot be installed: {failures.describe(error)}") from error
    left = _faults(connection)
    if left:
        raise PreflightError(
            "the guards are installed but not in force: " + "; ".join(f"{name} {why}" for name, why in left.items())
        )
    return [*(lack.name for lack in lacks), *sorted(faults)]
