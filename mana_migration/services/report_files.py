"""Reports that pages ask for: made by a worker process into the report folder, kept for a day.

# Note [A report holds up no page]
The report of a large run takes seconds, and as long takes the one web process that makes it; so a page asks for it in
the database, as it asks for a run.  A worker process makes it in a thread of its own, also while it works on a run.  It
gives a sign of life every few seconds; what a process that died was making is made by the next one.
"""

from __future__ import annotations

import io
import json
import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from django.db import DatabaseError, InterfaceError, connections, transaction
from django.db.models import Q
from django.db.models.functions import Now

from mana_migration import conf
from mana_migration.domain.report import RunReport, WholeReport
from mana_migration.engine import sessions
from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.errors import MigrationError
from mana_migration.files import new_file
from mana_migration.models import MigrationRun, ReportFile
from mana_migration.selectors.statistics import statistics
from mana_migration.services import logs, reporting, runs
from mana_migration.services.context import StopFlag, ignore
from mana_migration.states import ReportStatus

#: How long a report is kept.
KEPT: Final = timedelta(hours=24)

#: Seconds between two signs of life, and after which a process is taken to have died.
BEAT, SILENT = 5.0, timedelta(seconds=60)

#: Seconds between two polls for reports to make.
POLL_SECONDS: Final = 2.0

Write = Callable[[RunReport | WholeReport, str, BinaryIO], None]
"""Writes a report of a kind to a stream."""

#: The figures of the whole site as JSON, made like a report because every wallet is read for them.
STATISTICS: Final = "statistics"

_PENDING: Final = (ReportStatus.WANTED, ReportStatus.MAKING)


def ask(run_id: int | None, kind: str, *, actor: str, again: bool = False, using: str = "default") -> ReportFile:
    """Ask for a report of a run, or without one of the whole migration; where it is asked for, return that request.

    ``again``: check the run again for it.

    Raises:
        RunNotFoundError: there is no such run.
    """
    with transaction.atomic(using=using):
        run = None if run_id is None else runs.lock_run(run_id, using)
        if run is None:
            MigrationRun.objects.using(using).locked().first()  # so that two who ask at once get the same
        before = latest(run_id, kind, using=using)
        if before is not None and before.status in _PENDING:
            return before
        return ReportFile.objects.using(using).create(run=run, kind=kind, actor=actor, again=again)


def latest(run_id: int | None, kind: str, *, using: str = "default") -> ReportFile | None:
    """Return the latest request of a report that is kept; None where there is none."""
    since = runs.database_now(using) - KEPT
    files = ReportFile.objects.using(using).filter(run_id=run_id, kind=kind, created_at__gt=since)
    return files.order_by("-pk").first()


def path_of(file: ReportFile) -> Path:
    """Return where the file of a report is."""
    return conf.report_dir() / file.name


def make_next(write: Write, using: str = "default") -> ReportFile | None:
    """Make the oldest report that is asked for, and remove those that were kept long enough.

    Returns None where none is asked for.
    """
    _remove_expired(using)
    file = _claim(using)
    if file is None:
        return None
    written, status, reason, name = _Counted(), ReportStatus.READY, "", ""
    with sessions.named(file.description), _signs_of_life(file.pk, written, using):
        try:
            name = _make(file, write, written, using)
        except Exception as error:  # it would end the thread, and the page would wait for ever
            status = ReportStatus.FAILED
            reason = str(error) if isinstance(error, MigrationError) else type(error).__name__
            logs.write(logging.ERROR, "a report could not be made", run=file.run_id, reason=reason)
    ReportFile.objects.using(using).filter(pk=file.pk).update(
        status=status, name=name, reason=reason, written=written.bytes, touched_at=Now()
    )
    return ReportFile.objects.using(using).get(pk=file.pk)


def work(stop: StopFlag, write: Write, *, using: str, notice: Callable[[str], None] = ignore) -> None:
    """Make the reports that pages ask for, again and again, until asked to stop."""
    while not stop.requested:
        made = None
        try:
            made = make_next(write, using)
        except (DatabaseError, InterfaceError):
            connections[using].close()  # lost, which the work on runs says
        if made is None:
            stop.wait(POLL_SECONDS)
        else:
            notice(f"{made.description} ({made.kind}): {made.get_status_display().lower()}")


@contextmanager
def made_beside(stop: StopFlag, write: Write, *, using: str, notice: Callable[[str], None] = ignore) -> Iterator[None]:
    """Have a thread make reports during the block; see Note [A report holds up no page]."""
    over = StopFlag()

    def make() -> None:
        try:
            work(over, write, using=using, notice=notice)
        finally:
            connections[using].close()

    thread = threading.Thread(target=make, name="reports", daemon=True)
    stop.listeners.append(over.request)
    thread.start()
    try:
        yield
    finally:
        stop.listeners.remove(over.request)
        over.request()
        thread.join(BEAT)


def _claim(using: str) -> ReportFile | None:
    died = Q(status=ReportStatus.MAKING) & Q(touched_at__lt=runs.database_now(using) - SILENT)
    with transaction.atomic(using=using):
        wanted = ReportFile.objects.using(using).select_for_update(skip_locked=True, of=("self",))
        file = wanted.filter(Q(status=ReportStatus.WANTED) | died).order_by("pk").first()
        if file is not None:
            file.status = ReportStatus.MAKING
            ReportFile.objects.using(using).filter(pk=file.pk).update(status=file.status, touched_at=Now(), written=0)
        return file


def _make(file: ReportFile, write: Write, written: _Counted, using: str) -> str:
    subject = "all" if file.run_id is None else f"run{file.run_id}"
    path = conf.report_dir() / f"page-report-{subject}-{secrets.token_hex(6)}.{file.kind}"
    if file.kind == STATISTICS:
        with read_only_snapshot(using), new_file(path, make_folder=True) as out:
            written.into(out).write(json.dumps(statistics(using).as_dict()).encode())
        return path.name
    with _report(file, using) as report, new_file(path, make_folder=True) as out:
        write(report, file.kind, written.into(out))
    return path.name


@contextmanager
def _report(file: ReportFile, using: str) -> Iterator[RunReport | WholeReport]:
    """Open what the file is a report of."""
    if file.run_id is None:
        with reporting.whole_report_to_come(using) as found:
            yield found.whole()
    else:
        with reporting.run_report(using, file.run_id, again=file.again) as report:
            yield report


def _remove_expired(using: str) -> None:
    old = ReportFile.objects.using(using).filter(created_at__lte=runs.database_now(using) - KEPT)
    for file in old.exclude(status=ReportStatus.MAKING):
        if file.name:
            path_of(file).unlink(missing_ok=True)
        file.delete(using=using)


class _Counted(io.RawIOBase):
    """A stream that counts what is written through it."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stream: BinaryIO | None = None

    def into(self, stream: BinaryIO) -> BinaryIO:
        """Write into this stream from now on."""
        self._stream = stream
        return cast(BinaryIO, self)

    def writable(self) -> bool:
        """Return that it can be written to."""
        return True

    def write(self, data: Any) -> int:
        """Write and count."""
        assert self._stream is not None  # noqa: S101 (into() was called)
        self.bytes += len(data)
        return self._stream.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _signs_of_life(key: int, written: _Counted, using: str) -> Iterator[None]:
    """Say every few seconds, by a session of its own, that the report is being made and how far it is."""
    over = threading.Event()

    def beat() -> None:
        try:
            while not over.wait(BEAT):
                with suppress(DatabaseError, InterfaceError):
                    ReportFile.objects.using(using).filter(pk=key).update(touched_at=Now(), written=written.bytes)
        finally:
            connections[using].close()

    thread = threading.Thread(target=beat, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
