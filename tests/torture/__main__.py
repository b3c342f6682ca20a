"""The long tests, with sizes: ``python -m tests.torture machine --steps 500000``; see ``make torture``.

Each section prints what it does and, at the end, a row of figures for docs/reliability.md. It ends with 1 if anything
did not hold. A failure names the seed that it happens again with.
"""

import argparse
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.support.postgres import Postgres
from tests.torture import sections
from tests.torture.jobs import BY_NAME
from tests.torture.sections import Options, Section

PROJECT = Path(__file__).resolve().parent.parent.parent
FIGURES = PROJECT / "var" / "torture" / "figures.jsonl"


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    what: str
    database: str
    figures: str
    seconds: float
    ended: str
    ok: bool


def main(arguments: list[str] | None = None) -> int:
    """Run the sections that the command line names."""
    options = parse(arguments)
    rows = []
    for name in options.sections:
        section = sections.SECTIONS[name]
        for database in [one for one in options.databases if one in section.databases]:
            rows.append(run(name, section, database, options))
            FIGURES.parent.mkdir(parents=True, exist_ok=True)
            with FIGURES.open("a") as stream:
                stream.write(json.dumps(asdict(rows[-1])) + "\n")
    print(table(rows))  # noqa: T201
    return 0 if all(row.ok for row in rows) else 1


def parse(arguments: list[str] | None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", choices=[*sections.SECTIONS, []], help="which; none is all of them")
    parser.add_argument("--db", choices=("sqlite", "postgres", "both"), default="both")
    parser.add_argument("--seed", type=int, default=20261123, help="of everything that is random")
    defaults = Options()
    for name, text in sections.SIZES.items():
        default = getattr(defaults, name)
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default {default:,})")
    parser.add_argument(
        "--commands",
        type=_commands,
        default=defaults.commands,
        metavar="NAME[,NAME...]",
        help=f"those whose statements fail, of: {', '.join(BY_NAME)} (default: all)",
    )
    read = parser.parse_args(arguments)
    databases = ("sqlite", "postgres") if read.db == "both" else (read.db,)
    sizes = {name: getattr(read, name) for name in sections.SIZES}
    return Options(
        sections=tuple(read.sections or sections.SECTIONS),
        databases=databases,
        seed=read.seed,
        commands=read.commands,
        **sizes,
    )


def _commands(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if wrong := [name for name in names if name not in BY_NAME]:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(wrong)}; choose from {', '.join(BY_NAME)}")
    return names


def run(name: str, section: Section, database: str, options: Options) -> Row:
    """Run one section on one database, whatever comes of it."""
    begun = time.monotonic()

    def tell(text: str) -> None:
        seconds = time.monotonic() - begun
        sys.stderr.write(f"{name}, {database}, {seconds:,.0f} s: {text}\n")
        sys.stderr.flush()

    with server_for(database, crashes=name == "stops") as (label, server):
        try:
            figures, ok = section.run(database, server, options, tell), True
        except Exception as error:
            traceback.print_exc()
            figures, ok = f"FAILED: {str(error).splitlines()[0] if str(error) else type(error).__name__}", False
    now = datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M")
    return Row(section.what, label, figures, round(time.monotonic() - begun, 1), now, ok)


@contextlib.contextmanager
def server_for(database: str, *, crashes: bool) -> Iterator[tuple[str, Postgres | None]]:
    """Return the name of the database as the table gives it, and a server if one is needed.

    Only a server that crashes needs to be durable: what the others' clients commit outlives these anyhow.
    """
    if database == "sqlite":
        import sqlite3

        yield f"SQLite {sqlite3.sqlite_version}", None
        return
    with Postgres(durable=crashes) as server:
        yield f"PostgreSQL {server.version}", server


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| test | database | figures | seconds | ended (UTC) |", "| --- | --- | --- | ---: | --- |"]
    lines += [f"| {row.what} | {row.database} | {row.figures} | {row.seconds:,.0f} | {row.ended} |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    os.chdir(PROJECT)
    sys.exit(main())
