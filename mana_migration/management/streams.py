"""Where reports go: a stream onto the command's output, and an end by SIGTERM that leaves nothing half-written."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from django.core.management.base import OutputWrapper


class TextSink(io.BytesIO):
    """A binary stream that hands its UTF-8 on to the command's standard output, which takes text."""

    def __init__(self, output: OutputWrapper) -> None:
        super().__init__()
        self._output = output
        self._decode = codecs.getincrementaldecoder("utf-8")().decode

    def write(self, data: Any) -> int:
        """Write bytes as text."""
        self._output.write(self._decode(bytes(data)), ending="")
        return len(data)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the block, so that no half-written file is left, and end the process with 143."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def forget_readers() -> None:
    """Send what is still to be printed nowhere where the reader has had enough and closed the pipe."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            number = stream.fileno()
            closed = select.poll()
            closed.register(number, 0)  # errors alone
            if any(event & select.POLLERR for _, event in closed.poll(0)):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)
