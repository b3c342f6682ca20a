"""What the live screen says of the database and of its own process."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from mana_migration.domain.resources import LockWait, Resources, Server, Table
from mana_migration.reports.console import screen
from mana_migration.reports.resources import resource_facts
from mana_migration.selectors.runs import run_snapshot
from mana_migration.states import RunStatus, Tone
from tests.mana_migration.history import NOON, done, make_batch, make_run

IDLE = Server(
    connections=7, limit=100, waiting=0, waits=(), longest=None, replicas=0, lag=None,
    tables=(Table("wishes_wallet", 20_000, 0, None),), checkpoints=1, requested=0,
)  # fmt: skip
BUSY = replace(
    IDLE,
    waiting=3,
    waits=[LockWait(f"web {number}", "nightly\njob", 4.21) for number in range(3)],
    longest=("nightly job", 12.0),
    replicas=2,
    lag=0.25,
    tables=(Table("wishes_wallet", 20_000, 10, None), Table("wishes_manaentry", 9, 1_230, NOON)),
    checkpoints=3,
    requested=2,
)
FOUND = Resources(server=IDLE, size=12_000_000, room=3_400_000_000, memory=56_000_000, processor=3.5)


def said(found: Resources) -> dict[str, str]:
    return {fact.label: fact.value for fact in resource_facts(found, NOON.tzinfo)}


def test_a_server_without_load() -> None:
    assert said(FOUND) == {
        "Database": "7 of 100 connections; no session waits for a lock; no replica",
        "Storage": "12.0 MB, 3.4 GB free on its disk, 0 dead rows, 1 checkpoint (0 requested)",
        "Monitor": "56.0 MB of memory at its peak, 3.5 s of CPU",
    }
    assert said(replace(FOUND, server=replace(IDLE, waiting=1)))["Database"].split("; ")[1] == (
        "1 session waits for a lock"
    )


def test_a_server_under_load_names_who_waits_for_whom_for_how_long() -> None:
    found = replace(FOUND, server=BUSY, room=None)
    assert said(found)["Database"] == (
        "7 of 100 connections; 3 sessions wait for a lock: web 0 waits for nightly job (4.2 s), "
        "web 1 waits for nightly job (4.2 s); longest transaction 12 s (nightly job); replication lag 250 ms"
    )
    assert said(found)["Storage"] == (
        "12.0 MB, 1,240 dead rows (most in wishes_manaentry, vacuumed 2026-11-23 12:00:00 UTC), "
        "3 checkpoints (2 requested)"
    )
    assert resource_facts(found)[0].tone is Tone.WARN


def test_sqlite_has_no_server() -> None:
    assert list(said(replace(FOUND, server=None))) == ["Storage", "Monitor"]


@pytest.mark.django_db
@pytest.mark.parametrize("width", [80, 200])
def test_the_live_screen_shows_it_within_its_borders(width: int) -> None:
    run = make_run(status=RunStatus.RUNNING, expected=1_000)
    make_batch(run, done(500))
    seen = run_snapshot()
    assert seen is not None
    console = Console(file=io.StringIO(), width=width)
    console.print(screen(seen, NOON.tzinfo, resources=replace(FOUND, server=BUSY), hint="every 1 s, Ctrl-C ends"))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert {len(line) for line in lines} == {width}
    assert lines[-1].startswith("╰") and lines[-1].endswith("╯")
    assert "every 1 s, Ctrl-C ends" in lines[-1]
    text = " ".join(" ".join(line.strip("│ ").split()) for line in lines)
    assert all(fact in text for fact in said(replace(FOUND, server=BUSY)).values())
