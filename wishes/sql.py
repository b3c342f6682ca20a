"""SQL as text that a reader can follow and a DBA can run."""

from __future__ import annotations

from textwrap import dedent


def block(template: str, **parts: str) -> str:
    """Return a dedented block of SQL with its parts filled in.

    Args:
        template: SQL in which ``{name}`` stands for a part.  A line that holds nothing but an empty part is dropped.
        parts: SQL by name; the lines of a part get the indentation of the line that it is on.
    """
    lines = []
    for line in dedent(template).strip().splitlines():
        if parts.get(line.strip()[1:-1], "x") == "":
            continue
        margin = "\n" + " " * (len(line) - len(line.lstrip()))
        lines.append(line.format(**{name: part.replace("\n", margin) for name, part in parts.items()}))
    return "\n".join(lines)


def all_of(*conditions: str) -> str:
    """Return conditions joined by AND, one a line and indented as behind a WHERE; empty ones are left out."""
    return "\n  AND ".join(condition.replace("\n", "\n  ") for condition in conditions if condition)


def listed(*items: str) -> str:
    """Return expressions or assignments, one a line."""
    return ",\n".join(items)
