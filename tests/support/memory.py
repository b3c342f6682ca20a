"""A folder in memory, where nothing waits for a disk; what is in it is gone with the machine."""

import os
import shutil
from pathlib import Path

MEMORY = Path("/dev/shm")


def folder_in_memory(room: int) -> str | None:
    """Return such a folder if it has room for so many bytes, else None."""
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > room:
        return str(MEMORY)
    return None
