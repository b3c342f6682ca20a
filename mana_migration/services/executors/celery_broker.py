"""Celery, where the site has it: send "work on this run" to its workers, and ask which of them do.

Celery is an extra.  Nothing imports it before a run is sent, so that a site without it loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from django.conf import settings
from django.utils.module_loading import import_string

from mana_migration import conf
from mana_migration.errors import BrokerUnavailableError, PreflightError, UsageError
from mana_migration.models import MigrationRun

#: The names of the tasks; see ``mana_migration.tasks``.
TASK: Final = "mana_migration.work_on_run"
REPORTS_TASK: Final = "mana_migration.make_reports"

#: Seconds in which the broker must answer, and in which workers must.
BROKER_SECONDS, WORKER_SECONDS = 5.0, 1.0


@dataclass(frozen=True, slots=True)
class Presence:
    """What there is for a run: workers that answer, tasks at work on it or held by a worker, messages that wait."""

    workers: int
    tasks: int
    waiting: int


def app() -> Any:
    """Return the site's Celery app.

    Raises:
        UsageError: Celery is not installed.
        PreflightError: the setting does not name an app.
    """
    try:
        celery = import_module("celery")
    except ImportError as error:
        raise UsageError(
            "Celery is not installed: python -m pip install 'celery[redis]', or work without it "
            "(--executor local; on the staff pages MANA_MIGRATION_EXECUTOR=work_migration)"
        ) from error
    path = conf.celery_app()
    if not path:
        return celery.current_app
    try:
        return import_string(path)
    except ImportError as error:
        raise PreflightError(
            f"MANA_MIGRATION_CELERY_APP {path!r} is no Celery app ({error}); give its path, like config.celery.app"
        ) from error


def worker_command() -> str:
    """Return the command that starts a worker, as a hint for people."""
    project = (conf.celery_app() or str(settings.SETTINGS_MODULE)).partition(".")[0]
    queue = conf.celery_queue()
    return f"celery -A {project} worker" + (f" -Q {queue}" if queue else "")


def check() -> None:
    """Make sure that a run could be sent now.

    Raises:
        UsageError, PreflightError: see ``app``.
        BrokerUnavailableError: the broker cannot be reached.
    """
    with _connection():
        pass


def send(run: MigrationRun, *, using: str, times: int, again: bool = False) -> None:
    """Send "work on this run" to so many workers; ``again``: to continue what another task has left.

    A message holds the run's number, the database's alias and the moment at which the run was
    opened, by which a worker knows that its database is the same.

    Raises:
        UsageError, PreflightError, BrokerUnavailableError: see ``check``.
    """
    with _connection() as connection:
        for _ in range(times):
            app().send_task(
                TASK,
                args=[run.pk, using],
                kwargs={"opened": run.created_at.isoformat(), "again": again},
                queue=conf.celery_queue() or None,
                serializer="json",
                ignore_result=True,
                connection=connection,
                retry=False,
            )


def send_reports(using: str) -> None:
    """Send "make the reports that pages ask for" to a worker.

    Raises:
        UsageError, PreflightError, BrokerUnavailableError: see ``check``.
    """
    with _connection() as connection:
        app().send_task(
            REPORTS_TASK,
            args=[using],
            queue=conf.celery_queue() or None,
            serializer="json",
            ignore_result=True,
            connection=connection,
            retry=False,
        )


def presence(run_id: int, *, using: str) -> Presence:
    """Ask workers and broker which of them have a run; takes about a second.

    Raises:
        UsageError, PreflightError, BrokerUnavailableError: see ``check``.
    """
    with _connection() as connection:
        inspect = app().control.inspect(timeout=WORKER_SECONDS, connection=connection)
        active = inspect.active() or {}
        held = inspect.reserved() or {}
        tasks = [task for found in (active, held) for listed in found.values() for task in listed]
        queue = conf.celery_queue() or app().conf.task_default_queue
        return Presence(
            workers=len(active),
            tasks=sum(task["name"] == TASK and list(task["args"])[:2] == [run_id, using] for task in tasks),
            waiting=_waiting(connection, queue),
        )


def _waiting(connection: Any, queue: str) -> int:
    """Return how many messages wait in a queue; 0 where there is no such queue yet."""
    try:
        return int(connection.default_channel.queue_declare(queue, passive=True).message_count)
    except connection.channel_errors:
        return 0


@contextmanager
def _connection() -> Iterator[Any]:
    """Yield a connection to the broker; whatever goes wrong with it is one clear error."""
    celery_app = app()
    with celery_app.connection_for_write(connect_timeout=BROKER_SECONDS) as connection:
        lost = (*connection.connection_errors, OSError, import_module("kombu.exceptions").OperationalError)
        try:
            connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=BROKER_SECONDS)
            yield connection
        except lost as error:
            raise BrokerUnavailableError(
                f"the broker {connection.as_uri()} does not answer ({type(error).__name__}); start it, or correct "
                "CELERY_BROKER_URL; without it, leave --executor celery out"
            ) from error
