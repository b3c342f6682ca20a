"""The daily log files: one JSON object a line, no personal data.

Each line is one ``os.write`` on a descriptor opened with O_APPEND, so that several processes share
a file without tearing lines.  Dates and times are UTC.  A full disk never stops money work: a line
that cannot be written is counted and lost.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TextIO

from mana_migration import conf
from mana_migration.errors import PreflightError

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}

MIGRATION, ROLLBACK = "migration", "rollback"

_ROOT: Final = "mana_migration"
_DATED: Final = re.compile(r"(?:migration|rollback)-(?P<day>\d{4}-\d\d-\d\d)(?:\.\d+)?\.log")
_log = logging.getLogger(f"{_ROOT}.work")

#: Keys that a context may have; anything else could carry a person's data.
CONTEXT_KEYS: Final = frozenset(
    {
        "run", "batch", "kind", "event", "status", "users", "selected", "migrated", "rolled_back", "skipped", "failed",
        "green", "blue", "red", "mana", "shortfall", "seconds", "error_class", "errors", "skips", "attempt", "record",
        "setting", "old", "new", "reason", "wait", "size", "check", "count", "command", "exit_code", "phase", "dry_run",
        "rows", "imported", "bad", "lost_lines", "value", "limit",
    }
)  # fmt: skip


class JsonFormatter(logging.Formatter):
    """Format a record as one line of JSON: timestamp, level, message, context.

    ``common`` is part of every line's context.
    """

    def __init__(self, common: Mapping[str, Any]) -> None:
        super().__init__()
        self._common = dict(common)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end; control characters are escaped by JSON."""
        context = getattr(record, "context", {})
        return json.dumps(
            {
                "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
                "level": "WARN" if record.levelname == "WARNING" else record.levelname,
                "message": record.getMessage(),
                "context": self._common | {key: value for key, value in context.items() if key in CONTEXT_KEYS},
            },
            default=str,
        )


class DailyFileHandler(logging.Handler):
    """Append to ``<folder>/<kind>-YYYY-MM-DD.log``, a new file each UTC day.

    A folder and a file that it makes are the owner's alone; those that are there keep their modes.  Where the day's
    file is another operating-system user's, who does not share it, this user has one of their own, ``….UID.log``.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        super().__init__()
        self.folder, self.kind = folder, kind
        self.lost_lines = 0
        self.failure = ""  # why the file could not be opened at first
        self._day = ""
        self._descriptor = -1

    def path(self, moment: datetime) -> Path:
        """Return the file that a line of this moment goes to, unless it is another user's."""
        return self.folder / f"{self.kind}-{moment:%Y-%m-%d}.log"

    def open(self, moment: datetime) -> None:
        """Open the file of this moment's day.

        Raises:
            OSError: the folder or the file cannot be made or written.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.path(moment)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags, 0o600)
        except PermissionError:
            descriptor = os.open(path.with_suffix(f".{os.geteuid()}.log"), flags, 0o600)
        self.close_file()
        self._descriptor, self._day = descriptor, f"{moment:%Y-%m-%d}"
        for name in self._remove_old(moment):
            message = f"removed {name}, older than {conf.log_days()} days (MANA_MIGRATION_LOG_DAYS)"
            record = logging.LogRecord(_log.name, logging.INFO, __file__, 0, message, None, None)
            record.created = moment.timestamp()
            self.emit(record)

    def _remove_old(self, moment: datetime) -> list[str]:
        """Remove this tool's files of days longer ago than the site keeps them, nothing else; return their names."""
        kept = conf.log_days()
        if not kept:
            return []
        oldest = f"{moment - timedelta(days=kept):%Y-%m-%d}"
        removed = []
        for entry in sorted(self.folder.iterdir()):
            if (dated := _DATED.fullmatch(entry.name)) and dated["day"] < oldest:
                with suppress(OSError):  # another process was faster, or it is not ours to remove
                    entry.unlink()
                    removed.append(entry.name)
        return removed

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            moment = datetime.fromtimestamp(record.created, UTC)
            if self._descriptor < 0 or f"{moment:%Y-%m-%d}" != self._day:
                self.open(moment)
            os.write(self._descriptor, (self.format(record) + "\n").encode())
        except OSError:
            self.lost_lines += 1

    def change_kind(self, kind: str) -> None:
        """Write to the file of another kind from the next line on."""
        if kind != self.kind:
            self.kind, self._day = kind, ""

    def close_file(self) -> None:
        """Close the current file, if one is open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def close(self) -> None:
        """Close the handler and its file."""
        self.close_file()
        super().close()


def configure(kind: str, level: str, *, database: str | None = None, needed: bool = True) -> DailyFileHandler:
    """Send what this process logs to the daily file of ``kind``, from this level up.

    ``database``, an alias, is kept with each line: runs of two databases may have the same number.
    The folder is ``MANA_MIGRATION_LOG_DIR``.  Replaces the handler of an earlier call.  Where the file is
    not ``needed``, lines that cannot be written are lost, and counted.

    Raises:
        PreflightError: the folder or the file cannot be written; nothing was begun.
    """
    logger = logging.getLogger(_ROOT)
    release()
    handler = DailyFileHandler(conf.log_dir(), kind)
    handler.setFormatter(JsonFormatter({} if database is None else {"database": database}))
    handler.setLevel(LEVELS[level])
    try:
        handler.open(datetime.now(UTC))
    except OSError as error:
        handler.failure = str(error.strerror)
        if needed:
            raise PreflightError(
                f"the log folder {handler.folder} cannot be written ({error.strerror}); "
                "make it writable or set MANA_MIGRATION_LOG_DIR to another folder"
            ) from error
    logger.addHandler(handler)
    logger.setLevel(LEVELS[level])
    logger.propagate = False
    return handler


def show(stream: TextIO) -> None:
    """Write what is logged to a stream as well, for ``--verbosity 2``, until ``release``."""
    handler = _Shown(stream)
    handler.setFormatter(_ShownFormatter())
    logging.getLogger(_ROOT).addHandler(handler)


class _Shown(logging.StreamHandler[TextIO]):
    """A handler that ``release`` takes away."""


class _ShownFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        context = {key: value for key, value in getattr(record, "context", {}).items() if key in CONTEXT_KEYS}
        return " ".join([record.getMessage(), *(f"{key}={value}" for key, value in context.items())])


def files_of_days(days: Collection[str]) -> list[Path]:
    """Return this machine's log files of these days (YYYY-MM-DD, UTC), in the order of their names."""
    folder = conf.log_dir()
    if not folder.is_dir():
        return []
    dated = ((path, _DATED.fullmatch(path.name)) for path in sorted(folder.iterdir()))
    return [path for path, match in dated if match and match["day"] in days]


@contextmanager
def of_this_thread(kind: str, *, database: str) -> Iterator[None]:
    """Send what this thread logs to the daily file of ``kind`` meanwhile: a server has a thread for each request.

    Lines that cannot be written are lost.
    """
    logger = logging.getLogger(_ROOT)
    if any(isinstance(handler, DailyFileHandler) for handler in logger.handlers if handler.filters == []):
        yield  # a command has chosen its file
        return
    thread = threading.get_ident()
    handler = DailyFileHandler(conf.log_dir(), kind)
    handler.setFormatter(JsonFormatter({"database": database}))
    handler.addFilter(lambda record: record.thread == thread)
    level = logger.level
    logger.addHandler(handler)
    if not logger.isEnabledFor(logging.INFO):
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


@contextmanager
def written_to(kind: str) -> Iterator[None]:
    """Send what a block logs to the daily file of ``kind``, where this process writes one at all."""
    handlers = [handler for handler in logging.getLogger(_ROOT).handlers if isinstance(handler, DailyFileHandler)]
    before = [handler.kind for handler in handlers]
    for handler in handlers:
        handler.change_kind(kind)
    try:
        yield
    finally:
        for handler, old in zip(handlers, before, strict=True):
            handler.change_kind(old)


def release() -> None:
    """Take away and close the handlers that ``configure`` added."""
    logger = logging.getLogger(_ROOT)
    for handler in list(logger.handlers):
        if isinstance(handler, DailyFileHandler | _Shown):
            logger.removeHandler(handler)
            handler.close()
    logger.propagate = True


def writes(level: int) -> bool:
    """Say whether a line of this level would be written."""
    return _log.isEnabledFor(level)


def write(level: int, message: str, **context: Any) -> None:
    """Log one line with its context; keys outside ``CONTEXT_KEYS`` are dropped."""
    _log.log(level, message, extra={"context": context})


def run_event(run_id: int, kind: str, details: Mapping[str, Any]) -> None:
    """Log that something happened to a run."""
    write(logging.INFO, f"run {run_id}: {kind.replace('_', ' ')}", run=run_id, event=kind, **details)
