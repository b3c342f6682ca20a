"""docs/reliability.md and docs/evidence/faults.md name only tests that exist; each fault has a test or a reason."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PAGE = (PROJECT / "docs" / "reliability.md").read_text()
FAULTS = (PROJECT / "docs" / "evidence" / "faults.md").read_text()
NAMED = sorted(set(re.findall(r"`(?:tests/)?([\w/]+\.py)::(test_\w+)`", FAULTS)))
FILES = sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", PAGE)))
#: Words that stand for a test named on another line, or say why there is none.
INSTEAD = ("as above", "as for", "no test")


def faults() -> list[list[str]]:
    """Return the rows of the tables of faults."""
    rows = [line.strip("| ").split(" | ") for line in FAULTS.splitlines() if line.startswith("| ")]
    return [row for row in rows if row[0] not in ("fault", "---")]


def test_the_tables_of_faults_are_there() -> None:
    assert len(faults()) > 50
    assert all(len(row) == 2 for row in faults())


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_every_test_that_the_page_names_exists(path: str, name: str) -> None:
    assert re.search(rf"^ *(async )?def {name}\(", (PROJECT / "tests" / path).read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", FILES)
def test_every_file_that_the_page_names_exists(path: str) -> None:
    assert (PROJECT / path).is_file()


@pytest.mark.parametrize("row", faults(), ids=lambda row: row[0][:60])
def test_every_fault_has_a_test_or_a_reason(row: list[str]) -> None:
    assert "::test_" in row[1] or any(word in row[1] for word in INSTEAD)
