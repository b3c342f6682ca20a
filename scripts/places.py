"""Where the scripts keep their files: var/ of the checkout, or a new folder where that is read-only."""

import os
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def var() -> Path:
    """Return var/ of the checkout, or a new folder where the checkout is read-only."""
    folder = PROJECT / "var"
    if not os.access(folder if folder.exists() else PROJECT, os.W_OK):
        return Path(tempfile.mkdtemp(prefix="mana-"))
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def shown(path: Path) -> str:
    """Return a path as one types it in the checkout."""
    return str(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path)
