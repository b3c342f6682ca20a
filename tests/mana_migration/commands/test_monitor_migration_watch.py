"""monitor_migration --watch: in lines and as a live screen, until the run is over."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from django.db import OperationalError

from mana_migration.domain.snapshot import RunSnapshot
from mana_migration.management.watching import Watch
from mana_migration.selectors.runs import run_snapshot
from mana_migration.states import RunStatus
from tests.mana_migration.history import NOON, after, done, make_batch, make_run
from tests.support.commands import PROJECT, manage_environment, run_command

pytestmark = pytest.mark.django_db


class Looks:
    """What a watch reads, look after look; an exception is raised, the last one stays."""

    def __init__(self, *looks: RunSnapshot | Exception | None) -> None:
        self.looks = list(looks)

    def __call__(self) -> RunSnapshot | None:
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(look, Exception):
            raise look
        return look


def watched(*looks: RunSnapshot | Exception | None, follow: bool = False, stop_after: int = 20) -> list[str]:
    """Return the lines of a watch; it is stopped by SIGINT after so many lines."""
    lines: list[str] = []

    def write(line: str) -> None:
        lines.append(line)
        if len(lines) == stop_after:
            signal.raise_signal(signal.SIGINT)

    watch = Watch(
        Looks(*looks),
        using="default",
        interval=0.001,
        follow=follow,
        now=lambda: NOON,
        zone=NOON.tzinfo or None,  # type: ignore[arg-type]
    )
    watch.in_lines(write)
    return lines


def seen(run: Any, seconds: float) -> RunSnapshot:
    found = run_snapshot(run_id=run.pk, now=after(seconds))
    assert found is not None
    return found


def lost() -> OperationalError:
    return OperationalError("server closed the connection unexpectedly")


def test_a_watch_writes_a_line_per_look_until_the_run_is_over() -> None:
    run = make_run(status=RunStatus.RUNNING, expected=1000)
    make_batch(run, done(100), start=0, seconds=10)
    first = seen(run, 10)
    make_batch(run, done(900), start=10, seconds=10)
    type(run).objects.filter(pk=run.pk).update(status=RunStatus.COMPLETED, finished_at=after(20))
    lines = watched(first, seen(run, 20))
    assert lines[0].startswith(
        f"12:00:10 run {run.pk} running; 10 %, 100/1,000 users; migrated 100, skipped 0, failed 0;"
    )
    assert "left" in lines[0]
    assert lines[1].startswith(f"12:00:20 run {run.pk} completed; 100 %, 1,000/1,000 users;")
    assert lines[1].endswith("; +900 users since the last check")
    assert lines[2].startswith(f"Run {run.pk}: migration, completed")
    assert len(lines) == 3


def test_a_watch_survives_a_lost_database_and_says_when_it_is_back() -> None:
    run = make_run(status=RunStatus.RUNNING, expected=1000)
    lines = watched(seen(run, 1), lost(), lost(), seen(run, 9), stop_after=5)
    assert lines[1] == (
        "The database is lost since 12:00:00 (server closed the connection unexpectedly); trying again every 0.001 s."
    )
    assert lines[2] == lines[1]
    assert lines[3] == "the database is back; it was gone from 12:00:00"
    assert lines[4].startswith("12:00:09 run")


def test_a_watch_that_is_begun_while_the_database_is_down_waits_for_it() -> None:
    run = make_run(status=RunStatus.RUNNING, expected=1000)
    lines = watched(lost(), lost(), seen(run, 9), stop_after=4)
    assert lines[0] == (
        "The database does not answer since 12:00:00 (server closed the connection unexpectedly); "
        "trying again every 0.001 s."
    )
    assert lines[1] == lines[0]
    assert lines[2] == "the database is back; it was gone from 12:00:00"
    assert lines[3].startswith("12:00:09 run")


def test_nobody_says_that_there_is_no_run_before_the_database_has_said_so() -> None:
    lines = watched(lost(), None, stop_after=3)
    assert [line.partition(" (")[0] for line in lines] == [
        "The database does not answer since 12:00:00",
        "the database is back; it was gone from 12:00:00",
        "There is no run yet; start one with migrate_users.",
    ]


def test_a_server_that_refuses_the_connection_for_good_is_an_error() -> None:
    error = OperationalError("no such table: mana_migration_migrationrun")
    with pytest.raises(OperationalError):
        watched(error)


def test_a_database_that_cannot_answer_is_an_error_even_later() -> None:
    run = make_run(status=RunStatus.RUNNING, expected=1000)
    with pytest.raises(OperationalError):
        watched(seen(run, 1), OperationalError("no such table: mana_migration_migrationrun"))


def test_a_watch_waits_for_a_run_to_start_and_says_so_once() -> None:
    old = make_run()
    closed = seen(old, 1)
    run = make_run(status=RunStatus.RUNNING, expected=10)
    opened = seen(run, 2)
    lines = watched(None, None, closed, closed, opened, stop_after=3)
    assert lines[0] == "There is no run yet; start one with migrate_users."
    assert lines[1] == f"run {old.pk} is over; no run is open; waiting for one to start"
    assert lines[2].startswith(f"12:00:02 run {run.pk} running")


def test_a_watch_of_a_closed_run_by_number_shows_it_and_ends() -> None:
    lines = watched(seen(make_run(), 1), follow=True)
    assert len(lines) == 2
    assert lines[1].startswith("Run ")


def test_watch_of_a_closed_run_ends_with_0() -> None:
    run = make_run()
    result = run_command("monitor_migration", "--watch", "--run", run.pk)
    assert (result.code, f"run {run.pk} completed" in result.out) == (0, True), result


@pytest.mark.once
@pytest.mark.slow
def test_the_live_screen_waits_for_a_database_that_is_down() -> None:
    nowhere = {"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none"}
    ended, shown = _terminal(
        ["monitor_migration", "--watch", "--interval", "0.2"], b"trying again every", signal.SIGINT, nowhere
    )
    assert ended == 130
    assert b"Connection refused" in shown
    assert b"Traceback" not in shown


def _terminal(
    argv: list[str], until: bytes, number: signal.Signals, env: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Run a command on a terminal of its own, signal it once it has shown something, return its code and output."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "manage.py", *argv],
        cwd=PROJECT,
        env=manage_environment({"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"} | (env or {})),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        close_fds=True,
    )
    os.close(follower)
    shown, signalled, deadline = b"", False, time.monotonic() + 120
    while time.monotonic() < deadline:
        if select.select([leader], [], [], 0.2)[0]:
            try:
                shown += os.read(leader, 65_536)
            except OSError:  # the other end is closed
                break
        if not signalled and until in shown:
            process.send_signal(number)
            signalled = True
    os.close(leader)
    return process.wait(timeout=30), shown


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"])
def test_the_live_screen_ends_cleanly_by_a_signal(number: signal.Signals, code: int) -> None:
    run = make_run(status=RunStatus.RUNNING, expected=1000)
    ended, shown = _terminal(["monitor_migration", "--watch", "--interval", "0.2"], f"Run {run.pk}".encode(), number)
    assert ended == code
    assert b"Traceback" not in shown
    assert b"\x1b[?1049l" in shown  # the terminal has its own screen back
    assert shown.rindex(b"Run ") > shown.rindex(b"\x1b[?1049l")  # and the last state below it
    assert b"\x1b[?25h" in shown  # and its cursor


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_the_live_screen_ends_when_the_run_is_over() -> None:
    run = make_run()
    ended, shown = _terminal(["monitor_migration", "--watch", "--run", str(run.pk)], b"\0never", signal.SIGINT)
    assert ended == 0
    assert b"Traceback" not in shown
