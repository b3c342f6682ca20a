"""A tour: import 10,000 legacy users into a throw-away SQLite file, migrate them, prove the sums, roll back, compare.

Runs the very commands that an operator types, and shows each. Ends with exit code 1 if one of them did not end as it
should.
"""

import hashlib
import os
import secrets
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from legacy_export import write
from places import PROJECT, shown, var

VAR = var()
DATABASE = VAR / "demo.sqlite3"
EXPORT = VAR / "demo-export.csv"
REJECTS = VAR / "demo-rejects.csv"
USERS = 10_000

ENVIRONMENT = os.environ | {
    "DATABASE_URL": f"sqlite:///{DATABASE}",
    "ENV_FILE": os.devnull,  # the demo does not depend on this site's .env
    "MANA_MIGRATION_LOG_DIR": str(VAR / "demo-logs"),
    "MANA_MIGRATION_REPORT_DIR": str(VAR / "demo-reports"),
    "PYTHONUNBUFFERED": "1",
    "SECRET_KEY": secrets.token_urlsafe(64),  # no one signs in to the demo
}

DONE, REFUSED, DONE_IN_PART = 0, 1, 3

# (why, command, exit codes that are right here)
IMPORT = (
    ("The tables.", "migrate --verbosity 0", {DONE}),
    (
        "What would the import do? The export is as dirty as real ones: bad rows are listed, nothing is written.",
        f"import_balances {shown(EXPORT)} --dry-run",
        {DONE_IN_PART, REFUSED},
    ),
    (
        "Import the good rows; the bad ones go to a file, each with its reason.",
        f"import_balances {shown(EXPORT)} --skip-bad-rows --rejects {shown(REJECTS)}",
        {DONE, DONE_IN_PART},
    ),
)
MIGRATE = (
    ("What would the migration do, and what is in its way?", "migrate_users --dry-run", {DONE, DONE_IN_PART, REFUSED}),
    (
        "Migrate: what can be fixed is fixed and recorded, users that cannot be are left out and listed.",
        "migrate_users --auto-fix --skip-invalid --no-input",
        {DONE, DONE_IN_PART},
    ),
    ("Was any value created or lost?", "validate_migration", {DONE, DONE_IN_PART}),
)
BACK = (("Roll everything back, auto-fix's corrections included.", "rollback_migration --all --no-input", {DONE}),)
AGAIN = (
    (
        "Users that were rolled back can be migrated again.",
        "migrate_users --auto-fix --skip-invalid --no-input",
        {DONE, DONE_IN_PART},
    ),
    ("The run, afterwards.", "monitor_migration", {DONE}),
)

PYTHON = shown(Path(sys.executable))
NEXT = f"""
What to look at next. Tell the commands where the demo's data is:

    export DATABASE_URL=sqlite:///{shown(DATABASE)}

    {PYTHON} manage.py createsuperuser
    make run                                                    then http://127.0.0.1:8000/admin/
    {PYTHON} manage.py monitor_migration --report --export html --output {shown(VAR / "demo-report.html")}
    {PYTHON} manage.py rollback_migration --all --dry-run
    {PYTHON} manage.py rollback_migration --all --no-input
"""


def forget() -> None:
    """Remove what an earlier demo left."""
    for leftover in VAR.glob(f"{DATABASE.name}*"):
        leftover.unlink()
    REJECTS.unlink(missing_ok=True)


def run(why: str, command: str, right: set[int]) -> bool:
    """Show and run one command; return whether it ended as it should."""
    print(f"\n# {why}\n$ python manage.py {command}", flush=True)
    code = subprocess.run(
        [sys.executable, "manage.py", *shlex.split(command)], cwd=PROJECT, env=ENVIRONMENT, check=False
    ).returncode
    if code not in right:
        expected = " or ".join(map(str, sorted(right)))
        print(f"\nThe demo stops here: exit code {code}, expected {expected}.", file=sys.stderr)
        return False
    if code:
        print(f"(exit code {code})", flush=True)
    return True


def checksum() -> str:
    """Return the SHA-256 of all wallets."""
    with closing(sqlite3.connect(DATABASE)) as connection:
        wallets = connection.execute(
            "SELECT user_id, green, blue, red, mana, migrated_at FROM wishes_wallet ORDER BY user_id"
        ).fetchall()
    print(f"\n# Checksum of {len(wallets):,} wallets: {(found := hashlib.sha256(repr(wallets).encode()).hexdigest())}")
    return found


def main() -> int:
    """Run the tour."""
    forget()
    write(EXPORT, USERS, dirty=True)
    print(f"# A legacy export of {USERS:,} users: {shown(EXPORT)}")
    if not all(run(*step) for step in IMPORT):
        return 1
    before = checksum()
    if not all(run(*step) for step in (*MIGRATE, *BACK)):
        return 1
    if checksum() != before:
        print("\nThe demo stops here: the wallets are not as they were before the migration.", file=sys.stderr)
        return 1
    print("# The same as before the migration, negative and unbacked balances included.")
    if not all(run(*step) for step in AGAIN):
        return 1
    print(NEXT, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
