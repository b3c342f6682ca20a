"""Numbers with their nouns."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 user``, ``2,000 users``, ``0 batches``.

    ``plural``: where it is not the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def gettext_noop(text: str) -> str:
    """Mark a text of plain Python for the catalogue: the page that shows it translates it."""
    return text


def size(amount: int) -> str:
    """Return a number of bytes in the unit that suits it: ``12.0 MB``, ``1.3 GB``."""
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.1f} MB"
