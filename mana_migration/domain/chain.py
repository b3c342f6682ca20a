"""The frozen encoding of the tamper evidence: lines, digests and links, as plain text and SHA-256.

# Note [The chain]
Each record has a line of text; each batch a digest, which is the SHA-256 of the lines of its users
in the order of their keys, each ended by a newline; each batch done gets a link, which is the
SHA-256 of the link before it, the batch's number, its digest and its figures.  The first link of a
run hangs on the run's own line: its kind, its frozen rates and options.  The last link is the
*head*: with a copy of it kept elsewhere one can see later whether anything was changed, however
thoroughly.  A record's mark, a short hash of its line, proves nothing by itself; it says which
record it was when a batch's digest no longer fits, and is no part of the encoding.

The engine computes the same in SQL (``mana_migration.engine.chain``); this module is what it is
checked against, and tests hold vectors.  The encoding must never change: a new one would get a new
first field.  A key comes last in its line, because it alone may hold any character that UTF-8 can
encode.  A lone surrogate is no such character: neither database stores one, so a line that holds
one was never written by a run and is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

#: Hex digits of a mark, at most.
MARK_LENGTH: Final = 16

#: A batch's figures in the order of its link.
LINKED_FIGURES: Final = (
    "selected", "migrated", "rolled_back", "skipped", "failed", "green", "blue", "red", "mana", "shortfall",
)  # fmt: skip

#: How a record's status at its creation is written; a conversion stays one when it is reversed.
OUTCOMES: Final = {"migrated": "converted", "rolled_back": "converted", "failed": "failed", "skipped": "skipped"}


def sha256(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, as 64 hex digits.

    Raises:
        ValueError: the text holds a lone surrogate, which UTF-8 cannot encode.
    """
    return hashlib.sha256(_utf8(text)).hexdigest()


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        # Without the text, which may be a username.
        raise ValueError(f"lone surrogate at position {error.start}: neither database can store such a key") from None


def record_line(
    *, run: int, outcome: str, green: int, blue: int, red: int, mana_before: int, mana_credited: int,
    error_class: str, user: str,
) -> str:  # fmt: skip
    """Return the line of a record as its run wrote it; ``user`` is the key's text in that database."""
    return f"record|{run}|{outcome}|{green}|{blue}|{red}|{mana_before}|{mana_credited}|{error_class}|{user}"


def reversal_line(
    *, run: int, origin: int, green: int, blue: int, red: int, debited: int, shortfall: int, user: str
) -> str:
    """Return the line of a reversal: by which run, of a conversion of which run, wishes back, mana taken, lacking."""
    return f"reversal|{run}|{origin}|{green}|{blue}|{red}|{debited}|{shortfall}|{user}"


def mark(line: str) -> str:
    """Return the mark of a line where the database has none of its own: the start of the line's SHA-256."""
    return sha256(line)[:MARK_LENGTH]


def digest(lines: Iterable[str]) -> str:
    """Return the digest of a batch from the lines of its users, in the order of their keys.

    Raises:
        ValueError: a line holds a lone surrogate, which UTF-8 cannot encode.
    """
    found = hashlib.sha256()
    for line in lines:
        found.update(_utf8(f"{line}\n"))
    return found.hexdigest()


def first_link(*, run: int, kind: str, rates: Mapping[str, int], options: Mapping[str, Any]) -> str:
    """Return what the first batch's link of a run hangs on."""
    frozen = json.dumps([rates, options], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return sha256(f"run|{run}|{kind}|{frozen}")


def next_link(previous: str, number: int, batch_digest: str, figures: Mapping[str, Any]) -> str:
    """Return the link of batch ``number``, counted from 1; ``figures`` holds at least ``LINKED_FIGURES``."""
    values = "|".join(str(figures[name]) for name in LINKED_FIGURES)
    return sha256(f"batch|{previous}|{number}|{batch_digest}|{values}")


def next_fix_link(previous: str, fix: Mapping[str, Any]) -> str:
    """Return the link of an integrity fix, which hangs on that of the fix before it; empty: on nothing.

    ``fix`` holds its check, user (text), before, after, the four changes, what it undoes and its actor.
    """
    return sha256(f"fix|{previous}|{_as_text(fix)}")


def first_event_link(run: Mapping[str, Any]) -> str:
    """Return what the first event of a run hangs on: what is written of the run when it is created."""
    return sha256(f"run and its events|{_as_text(run)}")


def next_event_link(previous: str, event: Mapping[str, Any]) -> str:
    """Return the link of an event: its kind, actor, message and details, behind that of the run's event before it."""
    return sha256(f"event|{previous}|{_as_text(event)}")


def _as_text(values: Mapping[str, Any]) -> str:
    kept = json.loads(json.dumps(dict(values)))  # as a database returns it: with texts for keys
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


@dataclass(frozen=True, slots=True)
class Break:
    """Where a chain does not hold: the run, the batch and the record where they are known, and what is wrong."""

    run: int | None
    batch: int | None
    record: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a run's chain: how many links it has and the last of them."""

    run: int
    links: int
    head: str


@dataclass(slots=True)
class Walk:
    """What walking the chains found.

    ``unseen``: users whose records were deleted by rollbacks with --no-preserve-logs, so that nothing can
    be compared.  ``undigested``: batches that were done before there were digests.  ``met``: where
    the head that was searched for is, as run and batch number.
    """

    breaks: list[Break] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    unseen: int = 0
    undigested: int = 0
    met: tuple[int, int] | None = None
