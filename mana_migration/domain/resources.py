"""What the database and this process have to work with, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


class Figure(NamedTuple):
    """A figure of the database or of this process: what it is, its value (None: not known), and its unit or context."""

    what: str
    value: int | float | None
    unit: str


class LockWait(NamedTuple):
    """A session that waits for a lock and one that holds it, by application name; seconds, None where hidden."""

    waits: str
    holds: str
    seconds: float | None


class Table(NamedTuple):
    """One of our tables: rows that are live and dead by the server's estimate, and its latest vacuum, None for none."""

    name: str
    live: int
    dead: int
    vacuumed: datetime | None


@dataclass(frozen=True, slots=True)
class Server:
    """The state of a PostgreSQL server; ``longest`` is the application and the seconds of the longest transaction."""

    connections: int
    limit: int
    waiting: int
    waits: Sequence[LockWait]
    longest: tuple[str, float | None] | None
    replicas: int
    lag: float | None
    tables: Sequence[Table]
    checkpoints: int
    requested: int


@dataclass(frozen=True, slots=True)
class Resources:
    """The server (None for SQLite), bytes of the database and free on its disk where known, and this process."""

    server: Server | None
    size: int | None
    room: int | None
    memory: int
    processor: float

    def figures(self) -> list[Figure]:
        """Return all of it as figures, for a report."""
        found = [] if self.server is None else _server_figures(self.server)
        if self.size is not None:
            found.append(Figure("size of the database", self.size, "bytes"))
        if self.room is not None:
            found.append(Figure("room on its disk", self.room, "bytes"))
        return [
            *found,
            Figure("memory of this process at its peak", self.memory, "bytes"),
            Figure("processor time of this process", _rounded(self.processor), "seconds"),
        ]


def _server_figures(server: Server) -> list[Figure]:
    found = [
        Figure("connections", server.connections, f"of {server.limit:,}"),
        Figure("sessions that wait for a lock", server.waiting, ""),
        *(Figure(f"{wait.waits} waits for {wait.holds}", _rounded(wait.seconds), "seconds") for wait in server.waits),
    ]
    if server.longest is not None:
        name, seconds = server.longest
        found.append(Figure(f"longest transaction ({name})", _rounded(seconds), "seconds"))
    found.append(Figure("replicas", server.replicas, ""))
    if server.replicas:
        found.append(Figure("replication lag", _rounded(server.lag), "seconds"))
    for table in server.tables:
        last = "never vacuumed" if table.vacuumed is None else f"last vacuum {table.vacuumed:%Y-%m-%d %H:%M:%S %Z}"
        found.append(Figure(f"dead rows of {table.name}", table.dead, f"beside {table.live:,} live ones, {last}"))
    return [*found, Figure("checkpoints", server.checkpoints, f"{server.requested:,} of them requested, not timed")]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
