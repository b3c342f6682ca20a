"""A real server process, a real browser, and a page that fails its test for what nobody should see.

The tests are left out, and the summary says so, where no Chromium is on the PATH, and on PostgreSQL, because the run on
SQLite has them.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser.desk import Desk

FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing but the site can be reached
)
PROJECT = Path(__file__).resolve().parent.parent.parent
LEFT_OUT = pytest.StashKey[str]()


def chromium() -> str | None:
    """Return the browser on the PATH, None if there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the browser tests where there is no browser, and where another run of the same suite has them."""
    if chromium() is None:
        why = "no Chromium on the PATH (Debian's package is called chromium)"
    elif config.getoption("db") == "postgres" and not config.getoption("long"):
        why = "a page is the same on both databases, and the run on SQLite has them (--long runs them here too)"
    else:
        return
    dropped = [item for item in items if item.get_closest_marker("browser")]
    if dropped:
        config.stash[LEFT_OUT] = f"{len(dropped)} browser tests were left out: {why}"
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which tests were left out, and what they need."""
    if LEFT_OUT in config.stash:
        terminalreporter.write_line(config.stash[LEFT_OUT], yellow=True)


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """Use the system's Chromium, quiet and headless, and let Django's ORM be used beside Playwright's event loop."""
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []  # Chromium refuses its sandbox to root
    return browser_type_launch_args | {"executable_path": chromium(), "headless": True, "args": [*FLAGS, *sandbox]}


@pytest.fixture(scope="session")
def site(django_db_setup: None) -> Iterator[str]:
    """Serve the test database with gunicorn, as in production, and return the address."""
    from tests.support.commands import manage_environment

    command = [sys.executable, "-m", "gunicorn", "config.wsgi", "--bind", "127.0.0.1:0", "--threads", "4"]
    server = subprocess.Popen(
        [*command, "--no-control-socket"],
        cwd=PROJECT,
        env=manage_environment(),
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

    def open_desk(*permissions: str, scripts: bool = True, **options: Any) -> Desk:
        chosen = browser if scripts else request.getfixturevalue("browser_without_scripts")
        opened.append(Desk(site, chosen, *permissions, java_script_enabled=scripts, **options))
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
