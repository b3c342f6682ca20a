"""The state of the database and of this process in a few lines, for the live screen."""

from __future__ import annotations

from datetime import tzinfo

from mana_migration.domain.resources import Resources, Server
from mana_migration.domain.words import counted, size
from mana_migration.reports.formatting import duration, number, one_line, when
from mana_migration.reports.run_lines import Fact
from mana_migration.states import Tone

#: Waits for a lock that the screen names.
WAITS_SHOWN = 2


def resource_facts(found: Resources, zone: tzinfo | None = None) -> list[Fact]:
    """Return what to look at first where a run is slow, compactly."""
    facts, storage = [], [size(found.size)] if found.size is not None else []
    if found.room is not None:
        storage.append(f"{size(found.room)} free on its disk")
    if found.server is not None:
        facts.append(Fact("Database", _sessions(found.server), Tone.WARN if found.server.waiting else Tone.PLAIN))
        storage += [_dead_rows(found.server, zone), _checkpoints(found.server)]
    facts.append(Fact("Storage", ", ".join(storage) or "-"))
    facts.append(Fact("Monitor", f"{size(found.memory)} of memory at its peak, {duration(found.processor)} of CPU"))
    return facts


def _sessions(server: Server) -> str:
    parts = [f"{number(server.connections)} of {counted(server.limit, 'connection')}"]
    waits = f"{counted(server.waiting, 'session')} {'waits' if server.waiting == 1 else 'wait'} for a lock"
    named = ", ".join(
        f"{one_line(wait.waits, 40)} waits for {one_line(wait.holds, 40)} ({duration(wait.seconds)})"
        for wait in server.waits[:WAITS_SHOWN]
    )
    parts.append((f"{waits}: {named}" if named else waits) if server.waiting else "no session waits for a lock")
    if server.longest is not None:
        name, seconds = server.longest
        parts.append(f"longest transaction {duration(seconds)} ({one_line(name, 40)})")
    parts.append(f"replication lag {duration(server.lag)}" if server.replicas else "no replica")
    return "; ".join(parts)


def _dead_rows(server: Server, zone: tzinfo | None) -> str:
    dead = sum(table.dead for table in server.tables)
    words = counted(dead, "dead row")
    if not dead:
        return words
    most = max(server.tables, key=lambda table: table.dead)
    vacuumed = "never vacuumed" if most.vacuumed is None else f"vacuumed {when(most.vacuumed, zone)}"
    return f"{words} (most in {most.name}, {vacuumed})"


def _checkpoints(server: Server) -> str:
    return f"{counted(server.checkpoints, 'checkpoint')} ({number(server.requested)} requested)"
