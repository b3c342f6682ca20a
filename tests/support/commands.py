"""Run management commands as an operator would: in this process, or as a real one."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

from django.db import connections

import manage

PROJECT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Result:
    """What a command left behind: its output, its complaints, its exit code."""

    out: str
    err: str
    code: int


class _OpenConnections:
    """Django's connections, but a command that ends does not close them: the test's transaction lives in them."""

    def __getattr__(self, name: str) -> Any:
        return getattr(connections, name)

    def __getitem__(self, alias: str) -> Any:
        return connections[alias]

    def close_all(self) -> None:
        """Leave them open."""


class _Terminal(io.StringIO):
    """Standard input at which someone sits."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@contextlib.contextmanager
def answering(answer: str) -> Iterator[None]:
    """Let commands of this process ask on a terminal, and give them this answer."""
    with mock.patch("sys.stdin", _Terminal(f"{answer}\n")):
        yield


def run_command(*argv: object) -> Result:
    """Run "manage.py ARGV" in this process, as manage.py does, and return its outcome; unexpected errors are raised."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("django.core.management.base.connections", _OpenConnections()),
        mock.patch("django.setup"),  # done already; again, it would take away the log handlers of caplog
    ):
        try:
            manage.main(["manage.py", *map(str, argv)])
        except SystemExit as stop:
            if isinstance(stop.code, str):  # sys.exit("message")
                err.write(f"{stop.code}\n")
                code = 1
            else:
                code = stop.code or 0
    return Result(out.getvalue(), err.getvalue(), code)


def run_manage(*argv: object, env: Mapping[str, str] | None = None, timeout: float = 120) -> Result:
    """Run "manage.py ARGV" as a process of its own on the test database, which shows it committed data only."""
    done = subprocess.run(
        [sys.executable, "manage.py", *map(str, argv)],
        cwd=PROJECT,
        env=manage_environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Result(done.stdout, done.stderr, done.returncode)


def manage_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a manage.py process that works on the test database."""
    inherited = {name: value for name, value in os.environ.items() if name != "DJANGO_ALLOW_ASYNC_UNSAFE"}
    return inherited | {"DATABASE_URL": database_url()} | dict(env or {})


def database_url(alias: str = "default") -> str:
    """Return the address of a test database as it is now."""
    settings = connections[alias].settings_dict
    if connections[alias].vendor == "sqlite":
        return f"sqlite:///{settings['NAME']}"
    user, password = quote(settings["USER"], safe=""), quote(settings["PASSWORD"], safe="")
    credentials = f"{user}:{password}" if password else user
    port = f":{settings['PORT']}" if settings["PORT"] else ""
    return f"postgres://{credentials}@{quote(settings['HOST'], safe='')}{port}/{settings['NAME']}"
