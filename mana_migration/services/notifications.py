"""Short messages about mass runs: to the addresses of ``MANA_MIGRATION_NOTIFY``, and as Django signals.

# Note [Delivery never holds up a run]
Messages go through a queue to a thread of their own, so that a mail server that is slow, wrong or down costs the run
nothing.  A message that cannot be delivered is logged.  When a command ends, it waits a few seconds for messages that
are still on their way.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from django.db import Error, transaction
from django.dispatch import Signal
from django.urls import NoReverseMatch, reverse

from mana_migration import conf, signals
from mana_migration.domain.words import counted
from mana_migration.engine import totals
from mana_migration.models import MigrationRun
from mana_migration.services import logs
from mana_migration.states import EventKind, RunKind

#: Seconds that one delivery may take, and that a command waits for its messages when it ends.
DELIVERY_SECONDS: Final = 15.0
EXIT_SECONDS: Final = 3.0

#: Messages that may wait for delivery; more are dropped and logged.
QUEUE_SIZE: Final = 100

#: Seconds of waiting (for a lost database, or one under load) after which a notification is sent.
LONG_WAIT_SECONDS: Final = 60.0

_SIGNALS: Final[dict[str, tuple[Signal, str]]] = {
    EventKind.STARTED: (signals.started, "started"),
    EventKind.PAUSED: (signals.paused, "is paused"),
    EventKind.RESUMED: (signals.resumed, "was resumed"),
    EventKind.INTERRUPTED: (signals.interrupted, "was interrupted and stays open"),
    EventKind.STOPPED: (signals.stopped, "was stopped"),
    EventKind.BREAKER_TRIPPED: (signals.breaker_tripped, "stopped: the breaker tripped"),
    EventKind.FINISHED: (signals.finished, "finished"),
    EventKind.ROLLED_BACK: (signals.rolled_back, "was rolled back"),
    "waiting": (signals.waiting, "has been waiting for a minute"),
    EventKind.STALLED: (signals.stalled, "makes no progress"),
}


@dataclass(frozen=True, slots=True)
class Message:
    """A notification: its subject and its text, without personal data."""

    title: str
    body: str


def announce(run_id: int, kind: str, *, reason: str = "", using: str) -> None:
    """Send an event of a mass run as signal and notification, once the current transaction is committed.

    Args:
        run_id: the run.
        kind: an ``EventKind``, or ``waiting``; others are not announced.
        reason: why, in a sentence without personal data.
        using: the database's alias.
    """
    if kind in _SIGNALS and (conf.notify() or _SIGNALS[kind][0].has_listeners(MigrationRun)):
        transaction.on_commit(partial(_announce, run_id, kind, reason, using), using=using, robust=True)


class LongWait:
    """Announce, once for each wait, that a run has been waiting for a minute.

    The run is read only where the database answers: it may be what the run waits for.
    """

    def __init__(self, run_id: int, using: str) -> None:
        self._run_id, self._using = run_id, using
        self._since: float | None = None
        self._announced = False

    def continues(self, reason: str) -> None:
        """Note that the run waits, and why."""
        if self._since is None:
            self._since = time.monotonic()
        if not self._announced and time.monotonic() - self._since >= LONG_WAIT_SECONDS:
            self._announced = True
            signal, phrase = _SIGNALS["waiting"]
            run = self._read()
            _send_signal(signal, run, self._using, reason)
            _send(Message(_title(run, phrase, self._using), _body("", reason, run, self._using)))

    def ended(self) -> None:
        """Note that the run works again."""
        self._since, self._announced = None, False

    def _read(self) -> MigrationRun:
        try:
            return MigrationRun.objects.using(self._using).get(pk=self._run_id)
        except (Error, MigrationRun.DoesNotExist):
            return MigrationRun(pk=self._run_id, kind=RunKind.MIGRATION)


def _announce(run_id: int, kind: str, reason: str, using: str) -> None:
    try:
        run = MigrationRun.objects.using(using).get(pk=run_id)
        if run.options.get("users"):
            return  # single users are support's daily work
        figures = _figures(run, using) if kind != EventKind.STARTED else _expected(run)
    except (Error, MigrationRun.DoesNotExist):
        logs.write(logging.WARNING, f"no notification of run {run_id}: it cannot be read", run=run_id, event=kind)
        return
    signal, phrase = _SIGNALS[kind]
    if kind == EventKind.FINISHED:
        phrase = f"finished: {run.get_status_display().lower()}"
    _send_signal(signal, run, using, reason)
    _send(Message(_title(run, phrase, using), _body(figures, reason, run, using)))


def _send_signal(signal: Signal, run: MigrationRun, using: str, reason: str) -> None:
    for receiver, answer in signal.send_robust(sender=MigrationRun, run=run, using=using, reason=reason):
        if isinstance(answer, Exception):
            name = getattr(receiver, "__qualname__", type(receiver).__name__)
            logs.write(
                logging.ERROR,
                f"the signal receiver {name} raised {type(answer).__name__}",
                run=run.pk,
                error_class=type(answer).__name__,
            )


def _title(run: MigrationRun, phrase: str, using: str) -> str:
    return f"{run.get_kind_display()} run {run.pk}{_database(using)} {phrase}"


def _database(using: str) -> str:
    return "" if using == "default" else f" (database {using})"


def _expected(run: MigrationRun) -> str:
    return "" if run.expected is None else f"about {counted(run.expected, 'user')} to handle"


def _figures(run: MigrationRun, using: str) -> str:
    found = totals.run_totals(run, using)
    handled = f"{found.rolled_back:,} rolled back" if run.kind == RunKind.ROLLBACK else f"{found.migrated:,} migrated"
    return f"{handled}, {found.skipped:,} skipped, {found.failed:,} failed, {found.mana:,} mana"


def _body(figures: str, reason: str, run: MigrationRun, using: str) -> str:
    return "\n".join(filter(None, (figures, reason and f"Reason: {reason}", _link("run", run.pk, using))))


def ask_for_approval(request_id: int, kind: str, *, using: str) -> None:
    """Send, once the current transaction is committed, that a mass run waits for a second person's approval."""
    if conf.notify():
        title = f"{kind} request {request_id}{_database(using)} waits for a second person's approval"
        message = Message(title, _link("request", request_id, using))
        transaction.on_commit(partial(_send, message), using=using, robust=True)


def _link(page: str, number: int, using: str) -> str:
    """Return the address of a page; empty without ``MANA_MIGRATION_SITE_URL``, or where no page shows it."""
    site = conf.site_url()
    if not site or using != "default":
        return ""
    try:
        return site.rstrip("/") + reverse(f"mana_migration:{page}", args=[number])
    except NoReverseMatch:
        return ""


# Delivery


class _Outbox:
    """Messages on their way, and the thread that delivers them; see Note [Delivery never holds up a run]."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[Message] = queue.Queue(QUEUE_SIZE)
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def put(self, message: Message) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._deliver_all, name="mana-notifications", daemon=True)
                self._thread.start()
        try:
            self._waiting.put_nowait(message)
        except queue.Full:
            logs.write(logging.ERROR, f"notification dropped, {QUEUE_SIZE} wait already: {message.title}")

    def flush(self, seconds: float) -> bool:
        """Wait until everything is delivered or given up; return whether it is."""
        end = time.monotonic() + seconds
        while self._waiting.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.02)
        return not self._waiting.unfinished_tasks

    def _deliver_all(self) -> None:
        while True:
            message = self._waiting.get()
            try:
                deliver(message)
            except Exception as error:
                name = type(error).__name__
                logs.write(logging.ERROR, f"notification not delivered ({name}): {message.title}", error_class=name)
            finally:
                self._waiting.task_done()


_outbox = _Outbox()


def _new_outbox() -> None:
    global _outbox  # noqa: PLW0603 (threads do not survive a fork)
    _outbox = _Outbox()


os.register_at_fork(after_in_child=_new_outbox)


def _send(message: Message) -> None:
    if conf.notify():
        _outbox.put(message)


def deliver(message: Message) -> list[int]:
    """Deliver a message to every address now and log those that it could not be delivered to.

    Returns the positions of those addresses, counted from 1.
    """
    missed = []
    addresses = servers(conf.notify())
    for position, server in enumerate(addresses, start=1):
        if not _deliver_to(server, message):
            missed.append(position)
            where = f"address {position} of {len(addresses)} in MANA_MIGRATION_NOTIFY"
            logs.write(logging.ERROR, f"notification not delivered to {where}: {message.title}", count=1)
    return missed


def servers(addresses: str | Sequence[str]) -> list[Any]:
    """Return apprise's servers for these addresses; those that it does not understand are left out.

    Raises:
        ImportError: the extra ``notify`` is not installed.
    """
    from apprise import Apprise  # noqa: PLC0415 (an extra)

    found = Apprise()
    with _quiet_library():
        found.add(addresses)
    return list(found)


def _deliver_to(server: Any, message: Message) -> bool:
    from apprise import Apprise, NotifyFormat  # noqa: PLC0415 (an extra)

    one = Apprise()
    one.add(server)
    with _quiet_library():
        return bool(
            one.notify(
                title=message.title, body=message.body or message.title, body_format=NotifyFormat.TEXT,
                timeout=DELIVERY_SECONDS,
            )
        )  # fmt: skip


class _quiet_library(logging.Filter):
    """Keep this thread's log records of apprise, which may hold addresses, from the host's handlers."""

    def __enter__(self) -> None:
        self._thread = threading.get_ident()
        logging.getLogger("apprise").addFilter(self)

    def __exit__(self, *error: object) -> None:
        logging.getLogger("apprise").removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop what this thread logs."""
        return record.thread != self._thread


def flush() -> None:
    """Wait a few seconds for messages on their way; log when one is still undelivered then."""
    if not _outbox.flush(EXIT_SECONDS):
        logs.write(logging.ERROR, f"a notification was not delivered within {EXIT_SECONDS:.0f} s of the command's end")


atexit.register(flush)
