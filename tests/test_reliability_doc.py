"""docs/reliability.md names only tests that are there, and every fault has one or a reason why not."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PAGE = (PROJECT / "docs" / "reliability.md").read_text()
NAMED = sorted(set(re.findall(r"`(?:tests/)?([\w/]+\.py)::(test_\w+)`", PAGE)))
FILES = sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", PAGE)))
#: Words that stand for a test named on another line, or say why there is none.
INSTEAD = ("the same", "as for", "no test")


def faults() -> list[list[str]]:
    """Return the rows of the tables of faults."""
    found = re.search(r"^## Faults$(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    rows = [line.strip("| ").split(" | ") for line in found[1].splitlines() if line.startswith("| ")]
    return [row for row in rows if row[0] not in ("fault", "---")]


def test_the_tables_of_faults_are_there() -> None:
    assert len(faults()) > 50
    assert all(len(row) == 3 for row in faults())


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_every_test_that_the_page_names_exists(path: str, name: str) -> None:
    assert re.search(rf"^ *(async )?def {name}\(", (PROJECT / "tests" / path).read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", FILES)
def test_every_file_that_the_page_names_exists(path: str) -> None:
    assert (PROJECT / path).is_file()


@pytest.mark.parametrize("row", faults(), ids=lambda row: row[0][:60])
def test_every_fault_has_a_test_or_a_reason(row: list[str]) -> None:
    assert "::test_" in row[2] or any(word in row[2] for word in INSTEAD)
