"""Write a legacy export: a CSV file with the balances of N users, the same rows for the same N every time.

Wealth is skewed as it is in life: many users near zero, a few with a lot. With --dirty, the troubles of real exports
are spread over the rows, each kind at its own places.
"""

import argparse
import csv
import hashlib
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

COLUMNS = (
    "id",
    "name",
    "green_balance",
    "blue_balance",
    "red_balance",
    "mana_balance",
    "legacy_migration_completed",
)
Row = dict[str, object]

EVERY = 997  # a kind of trouble comes once in as many rows; a prime, so that kinds and amounts mix


def clean_row(number: int) -> Row:
    """Return the row of one user."""
    identity = uuid.UUID(hashlib.md5(f"user-{number}".encode(), usedforsecurity=False).hexdigest())
    return {
        "id": str(identity),
        "name": f"User {number}",
        "green_balance": round((number * 7919 % 10007 / 10007) ** 4 * 2000),
        "blue_balance": number * 31 % 101 % 50 if number % 3 == 0 else 0,
        "red_balance": number * 17 % 13 % 6 if number % 11 == 0 else 0,
        "mana_balance": 0,
        "legacy_migration_completed": "f",
    }


def _worth(row: Row) -> int:
    worth = {"green_balance": 10, "blue_balance": 100, "red_balance": 1000}
    return sum(rate * int(str(row[column])) for column, rate in worth.items())


# What can be wrong with a row, in the order of the places (number % EVERY) where it is: one entry, one kind.
TROUBLES: tuple[Callable[[Row], Row], ...] = (
    # Users that exist and have trouble: these are imported, and found by the integrity checks.
    lambda row: {"green_balance": -7},  # debt
    lambda row: {"blue_balance": ""},  # never written
    lambda row: {"red_balance": 2_147_483_647},  # the limit of a 4-byte column
    lambda row: {"red_balance": 150},  # worth more than 100,000 mana
    lambda row: {"mana_balance": 500},  # mana without a migration
    lambda row: {"legacy_migration_completed": ""},  # neither yes nor no
    lambda row: {"legacy_migration_completed": "t", "mana_balance": _worth(row)},  # paid, wishes left in place
    lambda row: {"legacy_migration_completed": "t", "green_balance": 5},  # flagged, but never paid
    # Names that attack the program that prints them.
    lambda row: {"name": "<script>alert(1)</script>"},
    lambda row: {"name": '=HYPERLINK("http://example.invalid";"x")'},
    lambda row: {"name": 'line\nbreak, comma "quote"'},
    lambda row: {"name": ""},
    # Rows that are no user: these are refused.
    lambda row: {"green_balance": "twelve"},
    lambda row: {"blue_balance": "1.5"},
    lambda row: {"red_balance": "NaN"},
    lambda row: {"id": ""},
    lambda row: {"green_balance": 2**63},  # beyond BIGINT
    lambda row: {"id": clean_row(1)["id"]},  # somebody else's id
)


def rows(users: int, *, dirty: bool) -> Iterator[Row]:
    """Yield the rows of an export."""
    for number in range(1, users + 1):
        row = clean_row(number)
        place = number % EVERY - 2  # row 1 stays clean: its id is the one that comes twice
        if dirty and 0 <= place < len(TROUBLES):
            row |= TROUBLES[place](row)
        yield row


def write(path: Path, users: int, *, dirty: bool) -> None:
    """Write an export to a file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows(users, dirty=dirty))


def main(arguments: list[str]) -> int:
    """Parse the arguments and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the CSV file to write")
    parser.add_argument("--users", type=int, default=10_000, metavar="N", help="how many rows (default: %(default)s)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--dirty", action="store_true", help="with the troubles of real exports")
    kind.add_argument("--clean", action="store_false", dest="dirty", help="without them (the default)")
    options = parser.parse_args(arguments)
    if options.users < 0:
        parser.error(f"--users {options.users}: give 0 or more")
    write(options.path, options.users, dirty=options.dirty)
    print(f"{options.path}: {options.users:,} rows{', dirty' if options.dirty else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
