"""Is this database fit for a run at all?  Asked before anything is read or written."""

from __future__ import annotations

from django.apps import apps
from django.contrib.auth import get_user_model
from django.db import DatabaseError, InterfaceError, connections, transaction
from django.db.migrations.executor import MigrationExecutor

from mana_migration import guards
from mana_migration.engine import failures
from mana_migration.errors import DatabaseUnavailableError, PreflightError
from wishes import guards as wishes_guards

SUPPORTED = ("postgresql", "sqlite")

#: The apps whose schema must be complete.
APPS = ("wishes", "mana_migration")


def check(using: str = "default", *, read_only: bool = False) -> None:
    """Refuse a database that a run could not finish on.

    ``read_only``: the caller only reads, so that a standby will do.

    Raises:
        DatabaseUnavailableError: it cannot be reached, or takes no writes.
        PreflightError: it is neither PostgreSQL nor SQLite, or lacks a schema migration, a table or a guard.
    """
    connection = connections[using]
    if connection.vendor not in SUPPORTED:
        raise PreflightError(
            f"database {using!r} is {connection.display_name}; this works on PostgreSQL and SQLite only"
        )
    try:
        connection.ensure_connection()
        _check_schema(using)
        _check_tables(using)
        if not read_only:
            _check_writable(using)
        missing = wishes_guards.missing(connection) + guards.missing(connection)
    except (DatabaseError, InterfaceError) as error:
        raise DatabaseUnavailableError(
            f"database {using!r} cannot be used: {failures.describe(error)}; "
            "check DATABASE_URL and that the server runs"
        ) from error
    if missing:
        raise PreflightError(
            f"database {using!r} lacks the guards {', '.join(missing)}; "
            "install them again with: python manage.py install_guards"
        )


def _check_schema(using: str) -> None:
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
        present = set(connection.introspection.table_names(cursor))
    models = [get_user_model(), *(model for label in APPS for model in apps.get_app_config(label).get_models())]
    missing = sorted({model._meta.db_table for model in models if model._meta.managed} - present)
    if missing:
        raise PreflightError(
            f"database {using!r} lacks the tables {', '.join(missing)}, although their schema migrations are applied: "
            "somebody dropped them; restore the database from a backup"
        )


def _check_writable(using: str) -> None:
    connection = connections[using]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_is_in_recovery(), current_setting('transaction_read_only')")
            standby, read_only = cursor.fetchone()
            if standby or read_only == "on":
                raise DatabaseUnavailableError(
                    f"database {using!r} is {'a standby' if standby else 'read-only'}; "
                    "point DATABASE_URL at the primary and give the command again"
                )
            return
    # an IMMEDIATE transaction is refused where the file or its folder is read-only
    with transaction.atomic(using=using), connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def install_missing_guards(using: str = "default") -> list[str]:
    """Install the guards that the database lacks and return their names."""
    connection = connections[using]
    with transaction.atomic(using=using):
        missing = wishes_guards.missing(connection) + guards.missing(connection)
        if missing:
            wishes_guards.uninstall(connection)
            guards.uninstall(connection)
            wishes_guards.install(connection)
            guards.install(connection)
    return missing
