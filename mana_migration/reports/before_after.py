"""The list of users by key, with what they had before and after, as CSV."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable
from typing import BinaryIO

from mana_migration.domain.report import BeforeAfter
from mana_migration.reports.cells import csv_cell


def write(users: Iterable[BeforeAfter], stream: BinaryIO) -> int:
    """Write one line per user below a head; return how many users there were."""
    lines, number = csv.writer(codecs.getwriter("utf-8")(stream), lineterminator="\n"), 0
    lines.writerow(BeforeAfter._fields)
    for number, user in enumerate(users, 1):  # noqa: B007 (the count)
        lines.writerow(map(csv_cell, user))
    return number
