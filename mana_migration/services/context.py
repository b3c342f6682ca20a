"""How whoever starts work attends to it: asks for its end, is told of its progress."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypedDict

from mana_migration.domain.results import ProgressCallback
from mana_migration.services import runs

#: Seconds that a wait lasts at most before it looks again: Python hears of a signal that comes in the very instant
#: before a wait begins only when that wait ends.
LONGEST_DEAF: Final = 0.25


def _closed_gate() -> threading.Lock:
    gate = threading.Lock()
    gate.acquire()
    return gate


@dataclass(slots=True)
class StopFlag:
    """Ask a worker to end after the batch in hand; wakes it from any wait.

    A signal handler may ask at any moment, also while this thread is about to wait: an ``Event``
    would wait for its own lock then, and until Python 3.13 a ``SimpleQueue`` waits for ever if the
    time is up before it has begun to wait.  A bare lock does neither.
    """

    _gate: threading.Lock = field(default_factory=_closed_gate)
    """Held until the end is asked for; whoever waits tries to get it."""
    requested: bool = False
    """Whether the end was asked for."""
    signal: int = 0
    quiet: bool = False
    """Whether the end is none that anybody should hear of: somebody else goes on at once."""
    listeners: list[Callable[[], None]] = field(default_factory=list)
    """Called when the end is asked for, possibly in a signal handler."""

    def request(self, signal: int = 0) -> None:
        """Ask for the end, by this signal number."""
        self.signal, self.requested = signal, True
        self._open()
        for listener in self.listeners:
            listener()

    def wait(self, seconds: float) -> bool:
        """Wait, at most until the end is asked for; return whether it was."""
        end = time.monotonic() + seconds
        while not self.requested and (left := end - time.monotonic()) > 0:
            if self._gate.acquire(timeout=min(left, LONGEST_DEAF)):
                self._open()  # for whoever else waits
        return self.requested

    def _open(self) -> None:
        with contextlib.suppress(RuntimeError):  # it was open
            self._gate.release()


class RunContext(TypedDict, total=False):
    """How whoever starts work attends to it: keyword arguments that are handed on as they came.

    ``using``: database alias; default: ``default``.  ``stop``: asks for the end after the batch in
    hand.  ``progress``: told of committed batches and waits.  ``expecting``: told how many users are left when
    the work begins.  ``notice``: told, in sentences, what was found and decided.
    """

    using: str
    stop: StopFlag | None
    progress: ProgressCallback | None
    expecting: runs.Expecting
    notice: runs.Notice
