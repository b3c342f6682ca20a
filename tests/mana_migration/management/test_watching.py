"""What is written to a terminal that shows a run."""

import io

from rich.console import Console
from rich.text import Text

from mana_migration.management.watching import _Screen


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
