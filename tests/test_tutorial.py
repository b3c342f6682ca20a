"""The tutorial is done as a reader does it: its files are written, its commands given, its outputs compared."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support import packages

pytestmark = [pytest.mark.own_database, pytest.mark.sqlite]  # the tutorial is on SQLite

PAGE = packages.PROJECT / "docs" / "tutorial.md"

#: What the environment of the test holds already.
SETS_UP = ("python3 -m venv", ". .venv/", "python -m pip")

BLOCK = re.compile(r"^```(\{code-block\} \w+|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_step_of_the_tutorial_works_as_it_says(tmp_path: Path) -> None:
    python = packages.environment()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "MANA"))}
    environment["PATH"] = f"{python.parent}:{environment['PATH']}"
    (python.parent / "django-admin").write_text('#!/bin/sh\nexec python -m django "$@"\n')
    (python.parent / "django-admin").chmod(0o755)
    given = 0
    for kind, text in BLOCK.findall(PAGE.read_text()):
        if kind != "console":
            write(tmp_path, text)
            continue
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, flags=re.MULTILINE):
            if command.startswith(SETS_UP):
                continue
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            expected = shown.splitlines()
            code = int(expected.pop().strip("()").split()[-1]) if "(exit code" in shown else 0
            assert done.returncode == code, f"{command}: {done.stdout}{done.stderr}"
            found = [" ".join(line.split()) for line in done.stdout.splitlines()]
            assert [line for line in expected if " ".join(line.split()) not in found] == [], done.stdout
            given += 1
    assert given == 14
    assert (tmp_path / "report.html").exists()


def write(folder: Path, block: str) -> None:
    """Write a file as its caption says: anew, or at the end of the one that is there."""
    caption, content = re.fullmatch(r":caption: ([^\n]*)\n\n(.*)", block, flags=re.DOTALL).groups()  # type: ignore[union-attr]
    name, _, where = caption.partition(", ")
    path = folder / name
    before = path.read_text() if where == "at its end" else ""
    path.write_text(f"{before}\n{content}" if before else content)
