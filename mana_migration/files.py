"""New files that an operator asked for: never overwriting, never through a symlink, readable by the owner alone.

A file is written aside in the same folder, flushed to the disk and only then given its name, so that
no reader and no crash ever sees half of it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mana_migration.errors import ReportError

FILE_MODE = 0o600
FOLDER_MODE = 0o700


@contextmanager
def new_file(path: Path, *, make_folder: bool = False) -> Iterator[BinaryIO]:
    """Yield a binary file that gets this name when the block ends well, and is removed when it does not.

    ``make_folder`` creates the folder, readable by the owner alone, where it is missing.

    Raises:
        ReportError: the name is taken (a symlink counts), or the folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        if make_folder:
            path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        if os.path.lexists(path):
            raise FileExistsError(17, "the name is taken", str(path))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(aside, flags, FILE_MODE)
    except OSError as error:
        raise ReportError(_refusal(path, error)) from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), FILE_MODE)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.link(aside, path)  # unlike a rename, refuses a name that was taken meanwhile
    except OSError as error:
        raise ReportError(_refusal(path, error)) from error
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()


def _refusal(path: Path, error: OSError) -> str:
    if isinstance(error, FileExistsError):
        return f"{path} exists already and is never overwritten; give another name"
    return f"{path} cannot be written ({error.strerror or error}); give a name in a folder that can be"


def write_new_file(path: Path, text: str) -> None:
    """Write a small text to a new file.

    Raises:
        ReportError: the name is taken, or the folder cannot be written.
    """
    with new_file(path) as stream:
        stream.write(text.encode())
