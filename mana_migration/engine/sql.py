"""The statements that a run sends, as ``--show-sql`` prints them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement and what it is for; its parameters are written ``%(name)s``."""

    purpose: str
    sql: str
