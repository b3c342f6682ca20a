"""A real server process, a real browser, and a page that fails its test for what nobody should see.

Which browser it is, and where these tests are left out, is said in tests/support/browser.py.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser.desk import Desk

PROJECT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def site(django_db_setup: None) -> Iterator[str]:
    """Serve the test database with gunicorn, as in production, and return the address."""
    with served() as address:
        yield address


@pytest.fixture
def site_with_approval(django_db_setup: None) -> Iterator[str]:
    """Serve a site whose mass runs need a second person's approval."""
    with served(MANA_MIGRATION_APPROVAL_HOURS="24") as address:
        yield address


@contextmanager
def served(**env: str) -> Iterator[str]:
    """Serve the test database for the length of the block, with these settings."""
    from tests.support.commands import manage_environment

    command = [sys.executable, "-m", "gunicorn", "config.wsgi", "--bind", "127.0.0.1:0", "--threads", "4"]
    server = subprocess.Popen(
        [*command, "--no-control-socket"],
        cwd=PROJECT,
        env=manage_environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        yield _address(server)
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        assert server.stderr
        server.stderr.close()


def _address(server: subprocess.Popen[bytes]) -> str:
    """Read what the server says until it says where it listens."""
    assert server.stderr
    descriptor, said, deadline = server.stderr.fileno(), b"", time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        if select.select([descriptor], [], [], 0.5)[0]:
            said += os.read(descriptor, 65536)
        if found := re.search(rb"Listening at: (http://[\d.:]+)", said):
            return found[1].decode()
    raise AssertionError(f"gunicorn did not start: {said.decode()[-2000:]}")


@pytest.fixture(scope="session")
def browser_without_scripts(launch_browser: Callable[..., Browser], browser_type_launch_args: Any) -> Iterator[Browser]:
    """Return a browser in which scripts are turned off as a user turns them off, so that <noscript> counts."""
    browser = launch_browser(args=[*browser_type_launch_args["args"], "--blink-settings=scriptEnabled=false"])
    yield browser
    browser.close()


@pytest.fixture
def desk(
    site: str, browser: Browser, transactional_db: None, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Desk]]:
    """Return a function that opens the browser of a new staff account; what went wrong in it fails the test."""
    from tests.browser.desk import Desk

    opened: list[Desk] = []

    def open_desk(*permissions: str, scripts: bool = True, at: str = site, **options: Any) -> Desk:
        chosen = browser if scripts else request.getfixturevalue("browser_without_scripts")
        opened.append(Desk(at, chosen, *permissions, java_script_enabled=scripts, **options))
        return opened[-1]

    yield open_desk
    for each in opened:
        each.close()
    for each in opened:
        assert each.complaints == []


@pytest.fixture
def worker(transactional_db: None) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Return a function that starts a worker process, as the page tells people to; all end with the test."""
    from tests.support.commands import manage_environment

    processes: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "work_migration", "--interval", "0.2"],
            cwd=PROJECT,
            env=manage_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(timeout=60)
