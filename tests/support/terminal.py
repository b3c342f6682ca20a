"""Commands on a real terminal, whose question is answered."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Mapping

from tests.support.commands import PROJECT, manage_environment


def on_a_terminal(*argv: str, answer: str, env: Mapping[str, str] | None = None) -> tuple[str, int]:
    """Run manage.py on a real terminal, answer its question and return what it showed and its exit code."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "manage.py", *argv],
        cwd=PROJECT,
        env=manage_environment({"TERM": "xterm", "COLUMNS": "120"} | dict(env or {})),
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown, answered = b"", False
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
        if not answered and b"Type yes to continue" in shown:
            answered = True
            os.write(ours, answer.encode())
    os.close(ours)
    return shown.decode(), process.wait(timeout=60)
