"""How fast it is, as ratios to what could be written by hand, each from one interleaved run.

    make bench ARGS="--only conversion,workers --users 200000"

Starts a throw-away PostgreSQL and measures on it, with every rule, guard, trigger and constraint in force, which is
looked up before anything is timed. Prints each row as it is found. Ratios are taken in turns, a short while each, and
are medians of those; absolute figures are of this machine and whatever else it does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks import evidence, growth, history, pages, reading, remaining, writing
from benchmarks.fixtures import Stage
from benchmarks.result import Row, Sizes

MEASURES: Final[dict[str, Callable[[Stage, Sizes], Iterator[Row]]]] = {
    "conversion": writing.conversion,
    "evidence": evidence.evidence,
    "orm": writing.orm,
    "workers": writing.workers,
    "dry-run": reading.dry_run,
    "validation": reading.validation,
    "snapshot": reading.snapshot,
    "export": reading.export,
    "import": reading.imports,
    "command": growth.command,
    "growth": growth.growth,
    "waits": growth.waits,
    "databases": growth.databases,
    "history": history.history,
    "pages": pages.pages,
    "start": pages.start,
    "remaining": remaining.remaining,
}


def main() -> int:
    """Measure what was asked for; return 1 if a target was missed."""
    options = parse(sys.argv[1:])
    sizes = Sizes(options.users, options.largest, options.seconds, options.rounds, options.runs)
    rows: list[dict[str, Any]] = []
    with Stage(durable=options.server == "durable") as stage:
        print(stage.conditions)
        print(f"{len(stage.rules):,} triggers, constraints, indexes and other rules are in force in every database")
        for name in options.only:
            print(name, flush=True)
            for row in MEASURES[name](stage, sizes):
                print(row.line(), flush=True)
                rows.append({"measure": name, "server": options.server, **row.as_dict()})
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    missed = [row["what"] for row in rows if row["missed"]]
    print(f"{len(missed)} targets missed: {'; '.join(missed)}" if missed else "no target missed")
    return 1 if missed and options.strict else 0


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=_size, default=Sizes.users, help="users per measurement (default: %(default)s)")
    parser.add_argument(
        "--largest",
        type=_size,
        default=Sizes.largest,
        help="the largest size of those that grow, growth and snapshot (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=float, default=Sizes.seconds, help="seconds of traffic in waits (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        choices=range(1, 100),
        default=Sizes.rounds,
        metavar="N",
        help="turns of those comparisons that start a process each time (default: %(default)s)",
    )
    parser.add_argument(
        "--runs", type=int, default=Sizes.runs, help="runs of a long history, an even number (default: %(default)s)"
    )
    parser.add_argument(
        "--only",
        type=_names,
        default=list(MEASURES),
        metavar="NAME[,NAME...]",
        help=f"measure only these, of: {', '.join(MEASURES)} (default: all)",
    )
    parser.add_argument(
        "--server",
        choices=("volatile", "durable"),
        default="durable",
        help="whether commits survive a crash (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows to this file as well")
    parser.add_argument("--strict", action="store_true", help="end with exit code 1 if a target was missed")
    return parser.parse_args(argv)


def _size(text: str) -> int:
    number = int(text.replace(",", "").replace("_", ""))
    if number < 20:
        raise argparse.ArgumentTypeError(f"{number} users are too few to measure anything; give 20 or more")
    return number


def _names(text: str) -> list[str]:
    names = text.split(",")
    if wrong := [name for name in names if name not in MEASURES]:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(wrong)}; choose from {', '.join(MEASURES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
