"""New files that an operator asked for: never overwriting, never through a symlink, readable by the owner alone.

A file is written aside in the same folder, flushed to the disk and only then given its name, so that
no reader and no crash ever sees half of it.  The folder is held open by its descriptor meanwhile, so
that no other process can swap it for another.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from mana_migration.errors import ReportError

FILE_MODE = 0o600
FOLDER_MODE = 0o700

_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

#: What filesystems without hard links answer.
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextmanager
def new_file(path: Path, *, make_folder: bool = False) -> Iterator[BinaryIO]:
    """Yield a binary file that gets this name when the block ends well, and is removed when it does not.

    ``make_folder`` creates the folder, readable by the owner alone, where it is missing.

    Raises:
        ReportError: the name is taken (a symlink counts), or the folder cannot be written.
    """
    refuse_taken(path, make_folder=make_folder)
    aside = f".{path.name[:100]}.{secrets.token_hex(6)}.part"
    try:
        folder = os.open(path.parent, _FOLDER_FLAGS)
        try:
            with os.fdopen(os.open(aside, _FILE_FLAGS, FILE_MODE, dir_fd=folder), "wb") as stream:
                os.fchmod(stream.fileno(), FILE_MODE)
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            _publish(folder, aside, path.name)
            os.fsync(folder)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(aside, dir_fd=folder)
            os.close(folder)
    except OSError as error:
        raise ReportError(_refusal(path, error)) from error


def refuse_taken(path: Path, *, make_folder: bool = False) -> None:
    """Refuse a name that could not be written, before any work is done for it; ``new_file`` looks once more.

    Raises:
        ReportError: the name is taken (a symlink counts), or the folder cannot be written.
    """
    try:
        if make_folder:
            path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "the name is taken", str(path))
        os.close(os.open(path.parent, _FOLDER_FLAGS))
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    except OSError as error:
        raise ReportError(_refusal(path, error)) from error


def free_name(path: Path) -> Path:
    """Return this path, or the first with a number before its suffix that is not taken: report-2.json."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def write_new_file(path: Path, text: str) -> None:
    """Write a small text to a new file.

    Raises:
        ReportError: the name is taken, or the folder cannot be written.
    """
    with new_file(path) as stream:
        stream.write(text.encode())


def _publish(folder: int, aside: str, name: str) -> None:
    """Give the file its name; unlike a rename, this refuses a name that was taken meanwhile."""
    try:
        os.link(aside, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # no hard links here: take the name with an empty file of our own, then replace that
        os.close(os.open(name, _FILE_FLAGS, FILE_MODE, dir_fd=folder))
        os.replace(aside, name, src_dir_fd=folder, dst_dir_fd=folder)


def _refusal(path: Path, error: OSError) -> str:
    if isinstance(error, FileExistsError):
        return f"{path} exists already and is never overwritten; give another name"
    if path.parent.is_symlink():
        return f"{path.parent} is a symbolic link; give the folder's real path, {path.parent.resolve()}"
    return f"{path} cannot be written ({error.strerror or error}); give a name in a folder that can be"
