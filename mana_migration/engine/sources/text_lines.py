"""The lines of a text file, one at a time and never longer than a row can be."""

from __future__ import annotations

import contextlib
import io
import re
from collections import deque
from collections.abc import Sequence
from typing import Final

from mana_migration.engine.sources.input import Input

#: Characters of the longest row that is read, far above any row of balances.
LONGEST_ROW: Final = 131_072

#: What the operator must know of a text whose last line alone has no line end.
LAST_LINE: Final = (
    "the last line has no line end although all others have one: it may have been cut; compare it with the old system"
)

_UNDECODED: Final = re.compile("[\udc80-\udcff]").search


class TextLines:
    """Read lines with their line ends; bytes that are not UTF-8 become surrogates, which ``is_damaged`` finds."""

    def __init__(self, source: Input) -> None:
        self._text = io.TextIOWrapper(source.stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._waiting: deque[str] = deque()
        self._terminated = False
        self.number = 0
        self.cut_last = False

    def next(self) -> str | None:
        """Return the next line, None after the last one.

        A line that is longer than ``LONGEST_ROW`` is cut there, so that it has no line end.
        """
        if self._waiting:
            self.number += 1
            return self._waiting.popleft()
        line = self._text.readline(LONGEST_ROW + 1)
        if line == "":
            return None
        self.number += 1
        if line[-1] in "\r\n":
            self._terminated = True
        elif len(line) > LONGEST_ROW:
            self._skip()
        else:
            # Python hands out the end of the file as a line; where all others have a line end, something may be cut
            self.cut_last = self._terminated
        return line

    def put_back(self, lines: Sequence[str]) -> None:
        """Let the latest lines be read again."""
        self._waiting.extendleft(reversed(lines))
        self.number -= len(lines)

    def detach(self) -> None:
        """Leave the stream to its owner, who closes it."""
        with contextlib.suppress(ValueError):  # detached already
            self._text.detach()

    def _skip(self) -> None:
        """Read up to the end of the line."""
        while (rest := self._text.readline(LONGEST_ROW)) != "" and rest[-1] not in "\r\n":
            pass


def is_damaged(text: str) -> bool:
    """Say whether a text held bytes that are not UTF-8."""
    return not text.isascii() and _UNDECODED(text) is not None
