"""The SQL that a run would send, for those who want to read it before they allow it (``--show-sql``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Max

from mana_migration import conf
from mana_migration.domain.options import MigrationOptions, RollbackOptions
from mana_migration.domain.pacing import BatchSize
from mana_migration.engine import conversion, dialect, planning, reversal
from mana_migration.engine.batches import BatchStatements, Limits, Task, parameters_of
from mana_migration.engine.planning import Slice
from mana_migration.engine.sql import Statement, insert, literal, script
from mana_migration.models import MigrationRun
from mana_migration.services import migration, preflight, rollback, runs
from mana_migration.services.context import current_actor
from mana_migration.services.worker.context import worker_name
from mana_migration.states import RunKind, RunStatus
from wishes import conf as wishes_conf

#: The batch of the script, which is the newest.
_BATCH: Final = "(SELECT MAX(id) FROM mana_migration_migrationbatch)"

_LEFT_OUT: Final = (
    "Not shown: what validate_migration reads before and after a run, and Django's own writes of the run's row",
    "(its status, its sums, its events, the links between its batches).",
)


def migration_script(options: MigrationOptions, using: str) -> str:
    """Return the SQL of a migration; nothing is written.

    Raises:
        DatabaseUnavailableError, PreflightError: the database is not fit.
    """
    preflight.check(using, read_only=True)
    connection, rates = connections[using], wishes_conf.rates()
    run = _run(RunKind.MIGRATION, options.as_dict(), rates.as_dict(), selected=bool(options.users), using=using)
    terms = migration.terms_of_request(options, rates, run=run.pk, per_user=bool(options.users))
    size = _size(options.controls.batch_size, options.limit)
    return _script(
        connection,
        run,
        conversion.statements(connection.vendor, terms),
        parameters={},
        users=options.users,
        plan=lambda: planning.plan_migration(connection, terms, after="", size=size, limit=size),
        plan_sql=planning.slices_sql(
            connection.vendor,
            relation=planning.WALLETS,
            condition=lambda within: conversion.selection_sql(terms, within=within),
            from_start=True,
        ),
        size=size,
    )


def rollback_script(options: RollbackOptions, using: str) -> str:
    """Return the SQL of a rollback; nothing is written.

    Raises:
        DatabaseUnavailableError, PreflightError: the database is not fit.
        RunConflictError, RunNotFoundError: the run that is to be rolled back cannot be.
    """
    preflight.check(using, read_only=True)
    connection = connections[using]
    rollback.check_target(options, using)
    frozen = options if options.users else replace(options, until=runs.database_now(using))
    run = _run(RunKind.ROLLBACK, frozen.as_dict(), {}, selected=bool(options.users), using=using)
    terms = rollback.terms_of(frozen, run.pk)
    size = _size(options.controls.batch_size, None)
    return _script(
        connection,
        run,
        reversal.statements(connection.vendor, terms),
        parameters=reversal.parameters_of(connection, terms),
        users=options.users,
        plan=lambda: reversal.plan_rollback(connection, terms, after="", size=size, limit=size),
        plan_sql=planning.slices_sql(
            connection.vendor,
            relation=reversal.RECORDS,
            condition=lambda within: reversal.selection_sql(terms, within=within),
            from_start=True,
        ),
        size=size,
    )


def _script(
    connection: BaseDatabaseWrapper,
    run: MigrationRun,
    statements: BatchStatements,
    *,
    parameters: Mapping[str, Any],
    users: Sequence[str],
    plan: Callable[[], list[Slice]],
    plan_sql: str,
    size: int,
) -> str:
    vendor = connection.vendor
    known = {name: literal(value) for name, value in parameters.items()}
    parts = [Statement("open the run", _insert_run(run, connection).replace("%", "%%")).printed({})]
    if users:
        slices, limits = [Slice(user, user, 1) for user in users], None
    else:
        slices, limits = plan(), Limits(conf.lock_timeout_ms(), conf.statement_timeout_ms())
        purpose = "cut the next users into batches (a run asks for a few hundred batches at a time)"
        parts.append(Statement(purpose, plan_sql).printed({**known, "size": str(size), "limit": str(size)}))
    for part in slices:
        row = {"run_id": str(run.pk), "first_user": literal(part.first), "last_user": literal(part.last)}
        row |= {"planned": str(part.users), **planning.NEW_BATCH}
        parts.append(Statement("write the batch", insert("mana_migration_migrationbatch", row)).printed({}))
        task = Task(0, part.first, part.last, worker_name(), of_running_run=not users, even_if_empty=not users)
        own = {name: literal(value) for name, value in parameters_of(connection, task).items()}
        values = known | own | {"batch": _BATCH}
        parts.append("BEGIN;")
        if statements.writes.reverses and (users or vendor == "sqlite"):
            parts.append(_announcement(vendor, begins=True))
        parts += [step.printed(values) for step in statements.steps(task, limits)]
        if statements.writes.reverses and vendor == "sqlite":
            parts.append(_announcement(vendor, begins=False))
        parts.append("COMMIT;")
    if not slices:
        parts.append("-- No user is left to handle.")
    header = [
        f"The statements of a {run.get_kind_display().lower()} on {connection.display_name}, as run {run.pk}.",
        "All of one batch is one transaction; every further batch is sent in the same way."
        if not users
        else "Each user is a batch of one; all of them are one transaction, each in a savepoint.",
        *_LEFT_OUT,
    ]
    return script(header, parts)


def _announcement(vendor: str, *, begins: bool) -> str:
    if vendor == "postgresql":
        return Statement("announce the reversal", dialect.settings_sql({"wishes.reversal": "on"})).printed({})
    if begins:
        sql = "INSERT INTO wishes_guard (announcement) VALUES ('wishes.reversal')"
        return Statement("announce the reversal", sql).printed({})
    sql = "DELETE FROM wishes_guard WHERE announcement = 'wishes.reversal'"
    return Statement("end the announcement", sql).printed({})


def _size(asked: int | str, limit: int | None) -> int:
    """Return the users of the first batch."""
    size = BatchSize(asked).current
    return size if limit is None else min(size, limit)


def _run(kind: RunKind, options: dict[str, Any], rates: dict[str, int], *, selected: bool, using: str) -> MigrationRun:
    """Return the run as it would be opened, unsaved."""
    actor = current_actor()
    newest = MigrationRun.objects.using(using).aggregate(newest=Max("pk"))["newest"]
    return MigrationRun(
        pk=(newest or 0) + 1,
        kind=kind,
        status=RunStatus.COMPLETED if selected else RunStatus.RUNNING,
        options=options,
        rates=rates,
        actor=actor.name,
        host=actor.host,
        target_run_id=options.get("run"),
    )


def _insert_run(run: MigrationRun, connection: BaseDatabaseWrapper) -> str:
    values = {}
    for field in MigrationRun._meta.concrete_fields:
        value = getattr(run, field.attname)
        if isinstance(value, models.expressions.BaseExpression) or field.db_default is not models.NOT_PROVIDED:
            continue
        values[str(field.column)] = literal(value)
    values["created_at"] = dialect.now(connection.vendor) % {}
    return insert(MigrationRun._meta.db_table, values)
