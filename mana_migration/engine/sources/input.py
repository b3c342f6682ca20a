"""Opening what SOURCE names: a file, a packed file, a pipe or standard input, as one stream of bytes.

A pipe is opened once and read as it comes.  A file that changes while it is read is refused, because what was read of
it is neither its old nor its new content.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import os
import select
import stat
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from django.db import connections

from mana_migration.errors import SourceError

#: Formats that are read from a stream, and can therefore be packed or piped.
STREAMED: Final = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".yaml", ".yml")

#: Seconds to wait for the first byte of a named pipe.
PIPE_PATIENCE: Final = 60.0

_BUFFER: Final = 1 << 16
_GZIP: Final = b"\x1f\x8b"
_WIDE: Final = (b"\xff\xfe", b"\xfe\xff")
_REPLACEMENT: Final = "\ufffd".encode()
_JUNK: Final = ("__MACOSX/", ".DS_Store")


class Input:
    """An open stream, the name that messages show, and the ending that says what is in it ("" where unknown).

    ``file``: the file that the stream is, or is unpacked from; None for standard input.
    """

    def __init__(self, stream: Any, name: str, suffix: str, *, file: BinaryIO | None = None) -> None:
        self.name, self.suffix, self.file = name, suffix, file
        is_plain = file is not None and stream is file and stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        self.stream = stream if is_plain else io.BufferedReader(_Whole(stream), _BUFFER)
        self._before = _fingerprint(file)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what can go wrong while reading into one clear line.

        Raises:
            SourceError: the stream breaks off, is damaged or cannot be read.
        """
        with reading(self.name):
            yield

    def check_unchanged(self) -> None:
        """Refuse a file that was written to since it was opened.

        Raises:
            SourceError: its size or its time of change is another.
        """
        if _fingerprint(self.file) != self._before:
            raise SourceError(f"{self.name} changed while it was read; import it when it is finished")

    def refuse_binary(self) -> None:
        """Refuse what is not UTF-8 text by its first bytes.

        Raises:
            SourceError: the text is UTF-16, or no text.
        """
        with self.reading():
            start = self.stream.peek(4096)[:4096]
        if start.startswith(_WIDE) or _looks_wide(start):
            raise SourceError(f"{self.name} is UTF-16 or UTF-32 text; save it as UTF-8 (in a spreadsheet: CSV UTF-8)")
        if b"\0" in start or start.startswith((b"PK\x03\x04", _GZIP)):
            raise SourceError(f"{self.name} is a binary file, not text; give it the ending of what it is")

    def close(self) -> None:
        """Close the stream and what it is read from."""
        self.stream.close()
        if self.file is not None:
            self.file.close()


class Utf8:
    """The bytes of a stream as UTF-8; ``damaged``: some are none, and became U+FFFD."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.damaged = False

    def read(self, size: int) -> bytes:
        """Return the next bytes, none at the end."""
        while data := self._stream.read(size):
            if found := self._decoder.decode(data).encode():
                self.damaged = self.damaged or _REPLACEMENT in found
                return found
        rest = self._decoder.decode(b"", final=True).encode()
        self.damaged = self.damaged or bool(rest)
        return rest

    def spoils(self, entry: dict[str, Any]) -> bool:
        """Say whether a text of an entry may have had bytes that are not UTF-8."""
        return self.damaged and any(isinstance(text, str) and "\ufffd" in text for text in entry.values())


class _Whole(io.RawIOBase):
    """Fill each buffer as far as the stream goes, so that its beginning is more than a pipe's first write."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read up to the size of the buffer."""
        size = 0
        while size < len(buffer) and (data := self._stream.read(len(buffer) - size)):
            buffer[size : size + len(data)] = data
            size += len(data)
        return size


@contextlib.contextmanager
def reading(name: object) -> Iterator[None]:
    """Turn what can go wrong with a file into one clear line.

    Raises:
        SourceError: the file is not there, is not a file, breaks off or cannot be read.
    """
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{name}: no such file; check the path") from None
    except IsADirectoryError:
        raise SourceError(f"{name} is a folder; give a file in it") from None
    except PermissionError:
        raise SourceError(f"{name}: this user may not read it; change its permissions or run as another user") from None
    except UnicodeDecodeError:
        raise SourceError(f"{name} is not UTF-8 text; save it as UTF-8 (in a spreadsheet: CSV UTF-8)") from None
    except EOFError:
        raise SourceError(f"{name} breaks off; copy it again") from None
    except (zlib.error, zipfile.BadZipFile, gzip.BadGzipFile):
        raise SourceError(f"{name} is damaged; copy it again") from None
    except OSError as error:
        raise SourceError(f"{name} cannot be read: {error.strerror or error}") from None


def open_input(address: str) -> Input:
    """Open a path, or standard input for ``-``; the caller closes it.

    Raises:
        SourceError: it is not there, cannot be read, or is an archive of several files.
    """
    if address == "-":
        return _unpacked(Input(sys.stdin.buffer, "standard input", ""))
    path = Path(address)
    with reading(address):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError
        _refuse_own_database(path)
        if path.suffix.lower() == ".zip" and not stat.S_ISREG(mode):
            raise SourceError(f"{address}: a zip archive cannot be read from a pipe or a device; save it as a file")
        stream: Any = _open_pipe(path) if stat.S_ISFIFO(mode) else path.open("rb", _BUFFER)
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return _zipped(path, stream)
    if suffix == ".gz":
        suffix = Path(path.stem).suffix.lower()
        if suffix and suffix not in STREAMED:
            stream.close()
            raise SourceError(f"{address}: only text is read from a packed file; unpack it and give the file")
        with reading(address):
            start = stream.peek(2)[:2]
        if start and start != _GZIP:
            stream.close()
            raise SourceError(f"{address} is not packed, although it ends in .gz; rename it to what it is")
        packed = Input(gzip.GzipFile(fileobj=stream), address, suffix, file=stream)
        return packed if suffix else _unpacked(packed)
    found = Input(stream, address, suffix, file=stream)
    return _unpacked(found) if not suffix or (stat.S_ISFIFO(mode) and suffix not in STREAMED) else found


def _refuse_own_database(path: Path) -> None:
    """Refuse the file of a database of this site without opening it.

    To close any descriptor of it drops all locks that this process has on it.
    """
    names = [str(one.settings_dict["NAME"]) for one in connections.all() if one.vendor == "sqlite"]
    for name in [name + part for name in names for part in ("", "-wal", "-shm", "-journal")]:
        if Path(name).exists() and path.samefile(name):
            raise SourceError(
                f"{path} is the database of this site; for a legacy table in it give sqlite:///{path} and --table"
            )


def _open_pipe(path: Path) -> BinaryIO:
    """Open a named pipe without waiting for ever for a program that writes to it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    watch = select.poll()
    watch.register(descriptor, select.POLLIN | select.POLLHUP)
    if not watch.poll(PIPE_PATIENCE * 1000):
        os.close(descriptor)
        raise SourceError(f"{path} is a pipe that nothing was written to for {PIPE_PATIENCE:.0f} s; start its writer")
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "rb")


def _unpacked(found: Input) -> Input:
    """Recognise what a pipe without an ending holds: JSON, or a table as text; either may be packed."""
    with found.reading():
        start = found.stream.peek(4096)
        if start.startswith(_GZIP):
            found = Input(gzip.GzipFile(fileobj=found.stream), found.name, "", file=found.file)
            start = found.stream.peek(4096)
    found.suffix = ".json" if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{") else ".csv"
    return found


def _zipped(path: Path, stream: BinaryIO) -> Input:
    with reading(path):
        try:
            archive = zipfile.ZipFile(stream)
            files = [
                part for part in archive.infolist()
                if not part.is_dir() and not any(junk in part.filename for junk in _JUNK)
            ]  # fmt: skip
            if not files:
                raise SourceError(f"{path} holds no file; pack it again")
            if len(files) > 1:
                raise SourceError(f"{path} holds {len(files):,} files; unpack it and give one of them")
            suffix = Path(files[0].filename).suffix.lower()
            if suffix not in STREAMED:
                raise SourceError(f"{path}: only text is read from a packed file; unpack it and give the file")
            if files[0].flag_bits & 1:
                raise SourceError(f"{path} is encrypted; unpack it and give the file")
            return Input(archive.open(files[0]), str(path), suffix, file=stream)
        except NotImplementedError:
            raise SourceError(f"{path} is packed in a way that cannot be read; unpack it and give the file") from None
        except BaseException:
            stream.close()
            raise


def _fingerprint(file: BinaryIO | None) -> tuple[int, int] | None:
    if file is None:
        return None
    found = os.fstat(file.fileno())
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _looks_wide(start: bytes) -> bool:
    """Say whether text looks like UTF-16 without its mark: every other byte of the beginning is 0."""
    some = start[:200]
    return len(some) > 3 and any(some) and (not any(some[1::2]) or not any(some[::2]))
