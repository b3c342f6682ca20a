"""Browsers that watch a run while others ask for reports, served by gunicorn with threads; the start of commands."""

from __future__ import annotations

import http.client
import itertools
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.commands import environment, manage, measured
from benchmarks.fixtures import PROJECT, Stage, expect
from benchmarks.result import Row, Sizes

#: Browsers that poll, and seconds between two polls of each.
BROWSERS: Final = 30
MANY: Final = 100
POLL_SECONDS: Final = 2.0

#: Seconds that 95 % of the polls may take, that any answer may, that a whole monitor_migration and a first line may.
MOST_POLL, MOST_ANSWER, MOST_MONITOR, MOST_FIRST_LINE = 0.2, 2.0, 0.4, 0.5


@dataclass(frozen=True, slots=True)
class Site:
    """Where the site is served, and the processes that do it."""

    port: int
    pids: list[int]


def pages(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Measure how long polls of a run's page wait, without and with reports and downloads beside them."""
    stage.empty()
    stage.fill(sizes.users)
    manage("migrate_users", "--batch-size", "1000", "--no-input")
    run, cookie = _run(), session_cookie()
    fragment = f"/migration/runs/{run}/fragment"
    mixed = [fragment, "/migration/", f"/migration/runs/{run}/", "/migration/users/", "/admin/wishes/wallet/"]
    with served() as site:
        port = site.port
        for _ in range(10):  # every process has imported what it needs
            for path in mixed:
                get(port, path, cookie)
        quiet = _polls(port, run, cookie, sizes.seconds, [fragment], reports=False)
        busy = _polls(port, run, cookie, sizes.seconds, [fragment], reports=True)
        many = _polls(port, run, cookie, sizes.seconds, mixed, browsers=MANY, reports=False)
    yield Row(
        what="95th percentile of polls beside two reports and two downloads, in times of 200 ms",
        users=sizes.users,
        ratio=_percentile(busy) / MOST_POLL,
        most=1.0,
        figures={
            "polls": len(busy),
            "without, ms": round(_percentile(quiet) * 1000),
            "with, ms": round(_percentile(busy) * 1000),
            "longest, ms": round(max(busy) * 1000),
        },
    )
    yield Row(
        what=f"longest answer to {MANY} browsers on different pages, in times of 2 s",
        users=sizes.users,
        ratio=max(many) / MOST_ANSWER,
        most=1.0,
        figures={"answers": len(many), "95th percentile, ms": round(_percentile(many) * 1000)},
    )


def start(stage: Stage, sizes: Sizes) -> Iterator[Row]:
    """Measure a look at a run as a whole process, and the time to the first line of a migration."""
    stage.empty()
    stage.fill(sizes.users)
    manage("migrate_users", "--limit", "1", "--no-input")
    for what, argv, measure, most in (
        ("a whole monitor_migration", ["monitor_migration"], lambda *words: measured(*words)[0], MOST_MONITOR),
        ("first line of migrate_users", ["migrate_users", "--limit", "1", "--no-input"], _first_line, MOST_FIRST_LINE),
    ):
        found = [(measure(*argv), _processor_seconds(*argv)) for _ in range(5)]
        seconds, processor = (min(values) for values in zip(*found, strict=True))
        yield Row(
            what=f"{what}, in times of {most} s",
            users=sizes.users,
            ratio=seconds / most,
            most=1.0,
            # of the whole process, which other work on the machine does not change
            figures={"s": round(seconds, 2), "processor time, s": round(processor, 2)},
        )


def _processor_seconds(*argv: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    manage(*argv)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _first_line(*argv: str) -> float:
    begun = time.perf_counter()
    command = [sys.executable, "manage.py", *argv]
    with subprocess.Popen(command, cwd=PROJECT, env=environment(), stdout=subprocess.PIPE) as process:
        expect(process.stdout is not None and bool(process.stdout.readline()), "nothing was printed")
        seconds = time.perf_counter() - begun
        process.communicate()
    return seconds


def _run() -> int:
    from mana_migration.models import MigrationRun

    return int(MigrationRun.objects.latest("pk").pk)


def session_cookie() -> str:
    """Return the session cookie of a superuser who is signed in."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
    from django.contrib.sessions.backends.db import SessionStore

    user = get_user_model().objects.create_superuser("watcher", password="!")  # noqa: S106 (of a throw-away database)
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return f"sessionid={session.session_key}"


@contextmanager
def served() -> Iterator[Site]:
    """Serve the site as the docs recommend, with one worker process for reports beside it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    served_by = {**environment(), "HTTPS_ONLY": "false", "DEBUG": "true"}
    commands = (
        ["-m", "gunicorn", "--workers", "2", "--threads", "8", "--bind", f"127.0.0.1:{port}", "config.wsgi"],
        ["manage.py", "work_migration"],
    )
    processes = [
        subprocess.Popen(
            [sys.executable, *command], cwd=PROJECT, env=served_by, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command in commands
    ]  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield Site(port, [process.pid for process in processes])
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def _polls(
    port: int, run: int, cookie: str, seconds: float, paths: list[str], *, browsers: int = BROWSERS, reports: bool
) -> list[float]:
    """Return how long each answer took while so many browsers asked for these pages in turn."""
    taken: list[float] = []
    errors: list[str] = []
    end = time.monotonic() + seconds

    def watch(place: int) -> None:
        time.sleep(POLL_SECONDS * place / browsers)
        for path in itertools.cycle(paths[place % len(paths) :] + paths[: place % len(paths)]):
            if time.monotonic() >= end:
                return
            begun = time.perf_counter()
            status = get(port, path, cookie)
            taken.append(time.perf_counter() - begun)
            if status != 200:
                errors.append(str(status))
            time.sleep(POLL_SECONDS)

    def ask(kind: str) -> None:
        while time.monotonic() < end:
            address = f"/migration/runs/{run}/report{kind}"
            status = get(port, address, cookie, method="POST")
            if status not in (200, 302):
                errors.append(str(status))
            get(port, address, cookie)
            time.sleep(0.5)

    kinds = ("", "", "/csv", "/csv") if reports else ()
    threads = [threading.Thread(target=watch, args=(place,)) for place in range(browsers)]
    threads += [threading.Thread(target=ask, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect(not errors, f"pages answered {', '.join(sorted(set(errors)))}")
    return taken


def get(port: int, path: str, cookie: str, *, method: str = "GET") -> int:
    """Ask for a page as a browser would, and return the status of the answer."""
    token = "x" * 32
    headers = {"Cookie": f"{cookie}; csrftoken={token}", "X-CSRFToken": token}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def _percentile(values: list[float]) -> Any:
    return statistics.quantiles(values, n=20)[-1]
