"""The browser of all tests marked browser, wherever they stand: the system's Chromium.

They are left out, and the summary says so, where no Chromium is on the PATH, and on PostgreSQL, because the run on
SQLite has them.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest

FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing but the site can be reached
)
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
