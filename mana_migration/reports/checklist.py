"""The checklist before a migration, on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

_MARKS = {"yes": "yes", "no": "NO", "unknown": "?"}


class Answered(Protocol):
    """A question with its answer."""

    @property
    def question(self) -> str:
        """What is asked."""

    @property
    def answer(self) -> str:
        """Yes, no or unknown."""

    @property
    def detail(self) -> str:
        """What was found; may be empty."""


def as_lines(items: Sequence[Answered], *, go: bool, backup: str) -> Iterator[str]:
    """Write the checklist, its verdict first."""
    open_items = sum(item.answer != "yes" for item in items)
    are = "is" if open_items == 1 else "are"
    verdict = "GO" if go else f"NO GO: {open_items} of {len(items)} questions {are} not answered with yes"
    yield f"Checklist before the migration: {verdict}"
    for item in items:
        yield f"  [{_MARKS[item.answer]:^3}] {item.question} {item.detail}".rstrip()
    if backup:
        yield f"Backup: {backup}"
