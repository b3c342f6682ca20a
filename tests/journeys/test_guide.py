"""The customer's guide from its first line to its last, with its own option names: guide.txt is what is said.

Each line of guide.txt that begins with ``$`` is given to manage.py; what follows is all that it prints, standard error
after standard output, and its exit code where that is not 0.  Times, speeds, digests and what the machine decides are
written as ``~``.
"""

from __future__ import annotations

import csv
import getpass
import re
import shlex
import socket
from pathlib import Path

import pytest
from pytest_django import Settings

from tests.support.commands import run_command

pytestmark = pytest.mark.django_db(transaction=True, reset_sequences=True)

GUIDE = Path(__file__).with_name("guide.txt")

COLUMNS = (
    "id", "name", "green_balance", "blue_balance", "red_balance", "mana_balance", "legacy_migration_completed",
)  # fmt: skip

#: What is another each time, or on each machine and database.
VARIES = (
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d( UTC)?|\b\d\d:\d\d:\d\d\b|\b[0-9a-f]{64}\b", "~"),
    (r"-report-\d{4}-\d\d-\d\d", "-report-~"),
    (r"[\d.,]+ m?s\b", "~ s"),
    (r"[\d.,]+ (users/min|users per minute|users per second)\b", r"~ \1"),
    (r"(?m)^( *seconds(?: without pauses)? +)[\d.]+$", r"\1~"),
    (rf"\bby {re.escape(getpass.getuser())}\b", "by anna"),
    (rf"\bon {re.escape(socket.gethostname())}\b", "on vm"),
    (r"(?m)^(Performance|Batch durations|Slowest batches|System resources)\n(  .*\n)+", r"\1\n  ~\n"),
)


def write_export(path: Path) -> None:
    """Write what the old system has: 120 users, among them one with a debt, one without wishes and a rich one."""
    special = {7: (-4, 1, 1), 8: (0, 0, 0), 9: (0, 0, 200)}
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for number in range(120):
            wishes = special.get(number, (number % 11, number % 5, number % 3))
            writer.writerow([f"legacy-{number:03}", "a name", *wishes, 0, "false"])


def given(command: str) -> str:
    """Give a command, and return it with all that it prints, without what is another each time."""
    result = run_command(*shlex.split(command))
    said = result.out + result.err + (f"(exit code {result.code})\n" if result.code else "")
    for pattern, replacement in VARIES:
        said = re.sub(pattern, replacement, said)
    return f"$ {command}\n{said}"


def test_the_guides_whole_sequence_says_what_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.chdir(tmp_path)
    settings.MANA_MIGRATION_REPORT_DIR = tmp_path / "reports"
    write_export(tmp_path / "export.csv")
    guide = GUIDE.read_text()
    said = "\n".join(given(command) for command in re.findall(r"^\$ (.*)$", guide, re.MULTILINE))
    new = tmp_path / "guide.txt"
    new.write_text(said.replace(f"{tmp_path}/", ""))
    assert new.read_text().splitlines() == guide.splitlines(), f"{new} is what is said now; read the difference"
