"""Standard output and standard error that may fail, and an end by SIGTERM that leaves nothing half-written."""

from __future__ import annotations

import codecs
import errno
import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

from django.core.management.base import OutputWrapper

_STANDARD: Final = (0, 1, 2)


class OutputLostError(OSError):
    """Standard output cannot be written: its disk is full, or it is closed."""


class _Closed:
    """What takes the place of a stream that was closed when the process was started."""

    def write(self, text: str) -> None:
        raise OSError(errno.EBADF, "it is closed")

    def flush(self) -> None:
        pass


class OutputStream:
    """A text stream that remembers whether output was lost, and writes what its encoding lacks as escapes.

    After the first failure the rest of what is printed goes nowhere, so that the end of the process does not fail
    on it once more.  A reader who closed the pipe, such as head(1), has had enough: nothing is lost.

    Args:
        stream: where to write; None where the process was started with it closed.
        raises: whether a failure is raised, so that a report ends; otherwise it is only remembered.
    """

    def __init__(self, stream: Any, *, raises: bool) -> None:
        self._stream: Any = _Closed() if stream is None else stream
        self._raises = raises
        self.failure = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def buffer(self) -> OutputBytes:
        """Return the stream of bytes behind this one."""
        return OutputBytes(self, self._stream.buffer)

    def write(self, text: str) -> int:
        """Write text.

        Raises:
            OutputLostError: it cannot be written.
            BrokenPipeError: the reader is gone.
        """
        with self.watched():
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:
                self._stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        return len(text)

    def flush(self) -> None:
        """Flush the stream; raises as ``write`` does."""
        with self.watched():
            self._stream.flush()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Remember a failure to write in the block."""
        try:
            yield
        except BrokenPipeError:
            self._discard()
            if self._raises:
                raise
        except OSError as error:
            self.failure = error.strerror or str(error)
            self._discard()
            if self._raises:
                raise OutputLostError(self.failure) from error

    def _discard(self) -> None:
        """Send what is still to be printed nowhere."""
        with suppress(OSError, ValueError, AttributeError):
            number = self._stream.fileno()
            if number in _STANDARD:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)


class OutputBytes:
    """The bytes of an ``OutputStream``, for exports."""

    def __init__(self, owner: OutputStream, stream: Any) -> None:
        self._owner, self._stream = owner, stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, data: Any) -> int:
        """Write bytes; raises as ``OutputStream.write`` does."""
        with self._owner.watched():
            self._stream.write(data)
        return len(data)


def occupy_closed_descriptors() -> None:
    """Open what the process was started without, so that no file of ours gets the number of standard output."""
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one


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
