"""The task of Celery's workers; imported by them alone, since Celery is an extra."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import Any

from celery import Task, shared_task
from celery.exceptions import Reject
from celery.signals import worker_init, worker_shutting_down
from django.db import InterfaceError, OperationalError

from mana_migration import conf
from mana_migration.errors import DatabaseUnavailableError
from mana_migration.reports import downloads
from mana_migration.services import report_files, runs
from mana_migration.services.context import RunContext, StopFlag
from mana_migration.services.executors import celery, celery_broker


class _Shutdown:
    """Whether this worker was asked to end; its processes are forks of the one that gets the signal."""

    event: Event | None = None


@worker_init.connect
def _prepare(**values: Any) -> None:
    _Shutdown.event = multiprocessing.get_context("fork").Event()


@worker_shutting_down.connect
def _shut_down(**values: Any) -> None:
    if _Shutdown.event is not None:
        _Shutdown.event.set()


@contextmanager
def _until_its_time() -> Iterator[StopFlag]:
    """Yield a flag that asks for the end when the task has had its time or the worker is to end."""
    stop, over = StopFlag(), threading.Event()

    def watch() -> None:
        waited, step = 0.0, 0.2
        while not over.wait(step):
            waited += step
            if _Shutdown.event is not None and _Shutdown.event.is_set():
                stop.request()
                return
            if waited >= conf.celery_task_seconds():
                stop.quiet = True
                stop.request()
                return

    watcher = threading.Thread(target=watch, name="time of the task", daemon=True)
    watcher.start()
    try:
        yield stop
    finally:
        over.set()
        watcher.join()


@shared_task(
    name=celery_broker.TASK,
    bind=True,
    acks_late=True,  # acknowledged when its work is done, so that it outlives this process
    reject_on_worker_lost=True,
    ignore_result=True,
    autoretry_for=(DatabaseUnavailableError, OperationalError, InterfaceError),  # a lost database comes back
    default_retry_delay=30,
    max_retries=20,
)
def work_on_run(self: Task[Any, None], run_id: int, database: str, *, opened: str, again: bool = False) -> None:
    """Work on a run; where work is left when the time is up, hand it on to a new task.

    A worker that is to end gives the message itself back: it may be too late to acknowledge it.

    Raises:
        Reject: it is given back.
    """
    with _until_its_time() as stop:
        left = celery.work_on_message(run_id, RunContext(using=database, stop=stop), opened=opened, again=again)
    if left and not stop.quiet:
        raise Reject("this worker ends", requeue=True)
    if left:
        celery_broker.send(runs.get_run(run_id, using=database), using=database, times=1, again=True)


@shared_task(name=celery_broker.REPORTS_TASK, ignore_result=True)
def make_reports(database: str) -> None:
    """Make the reports that pages ask for."""
    while report_files.make_next(downloads.write, database) is not None:
        pass
