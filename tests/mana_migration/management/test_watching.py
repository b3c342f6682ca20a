"""What is written to a terminal that shows a run."""

import io
import itertools
import re
from datetime import UTC

import pytest
from django.db import ProgrammingError
from rich.console import Console
from rich.text import Text

from mana_migration.domain.resources import Resources
from mana_migration.management import watching
from mana_migration.management.watching import Watch, _Screen
from tests.mana_migration.history import NOON

NO_LOAD = Resources(server=None, size=1, room=1, memory=1, processor=1.0)


def written(screen: _Screen, file: io.StringIO, *lines: str) -> str:
    """Draw these lines and return what was written for it."""
    file.seek(0)
    file.truncate()
    screen.draw(Text("\n".join(lines)))
    return file.getvalue()


def test_only_lines_that_changed_are_written_again() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=40, height=10)
    screen = _Screen(console)
    first = written(screen, file, "run 7", "10 users", "as of 12:00")
    assert all(line in first for line in ("run 7", "10 users", "as of 12:00"))
    assert written(screen, file, "run 7", "10 users", "as of 12:00") == ""
    again = written(screen, file, "run 7", "20 users", "as of 12:00")
    assert "20 users" in again
    assert "run 7" not in again
    shorter = written(screen, file, "run 7", "20 users")
    assert shorter == "\x1b[3;1H\x1b[J"
    console.width = 30
    assert "run 7" in written(screen, file, "run 7", "20 users")


def test_what_is_too_long_for_the_terminal_is_cut_above_its_last_line() -> None:
    file = io.StringIO()
    screen = _Screen(Console(file=file, force_terminal=True, width=40, height=3))
    shown = written(screen, file, "run 7", "10 users", "an event", "as of 12:00, Ctrl-C ends")
    assert re.findall(r"\dH([^\x1b]+)", shown) == ["run 7", "10 users", "as of 12:00, Ctrl-C ends"]


class Readings:
    """Readings of the state of the database, which are counted; an exception is raised."""

    def __init__(self, *found: Resources | Exception) -> None:
        self.found, self.count = list(found), 0

    def __call__(self) -> Resources:
        self.count += 1
        found = self.found.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def resources_shown(measure: Readings, *, polls: int) -> list[Resources | None]:
    """Return what as many polls of a watch show of the state of the database."""
    watch = Watch(
        lambda: None, using="default", interval=0.001, follow=False, now=lambda: NOON, zone=UTC, measure=measure
    )
    return [view.resources for view in itertools.islice(watch.views(), polls)]


def test_the_state_of_the_database_is_read_once_in_some_seconds() -> None:
    measure = Readings(NO_LOAD, NO_LOAD)
    assert resources_shown(measure, polls=20) == [NO_LOAD] * 20
    assert measure.count == 1


def test_a_state_that_cannot_be_read_does_not_end_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "RESOURCES_EVERY", 0.0)
    measure = Readings(NO_LOAD, ProgrammingError("permission denied for view pg_stat_replication"), NO_LOAD)
    assert resources_shown(measure, polls=3) == [NO_LOAD, None, NO_LOAD]
