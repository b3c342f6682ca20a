"""Make the database that ``tests/journeys/test_upgrade.py`` upgrades, with the code of the release in this folder.

Run it in a checkout of the release before the column ``stop_cause`` (commit 14978de), once for each database:

    DATABASE_URL=sqlite:////tmp/old.sqlite3 python make_dump.py /tmp/old      # then gzip the file
    DATABASE_URL=postgres://... python make_dump.py /tmp/old                  # then pg_dump --inserts | gzip

Run 1 is completed, run 2 rolled back by run 3, run 4 stopped by an operator, run 5 open: interrupted after two batches
of a saved plan.  The folder gets that plan and the archive of run 1.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(sys.argv[1])
USERS = 120
os.environ |= {"DJANGO_SETTINGS_MODULE": "config.settings", "SECRET_KEY": "not-a-secret-" * 5}
os.environ.setdefault("MANA_MIGRATION_LOG_DIR", str(FOLDER / "logs"))
sys.path.insert(0, ".")


def manage(*argv: str, code: int = 0) -> None:
    """Run a command of the old release."""
    done = subprocess.run([sys.executable, "manage.py", *argv], check=False)
    assert done.returncode == code, argv


def main() -> None:
    """Make all of it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    manage("migrate", "-v0")
    import django

    django.setup()
    from django.contrib.auth import get_user_model

    from mana_migration.models import MigrationBatch
    from wishes.models import Wallet

    users = get_user_model().objects.bulk_create(get_user_model()(username=f"user{n}") for n in range(USERS))
    Wallet.objects.bulk_create(Wallet(user=user, green=n % 7, blue=n % 5, red=n % 3) for n, user in enumerate(users))
    migrate = ("migrate_users", "--no-input", "--batch-size", "10", "--delay", "0")
    manage(*migrate, "--limit", "30")
    manage(*migrate, "--limit", "20")
    manage("rollback_migration", "--run", "2", "--no-input")
    interrupt([*migrate[:-1], "0.5"], MigrationBatch, run=4, batches=1)
    manage("migrate_users", "--stop", "4")
    manage("archive_runs", "--run", "1", "--output", str(FOLDER))
    plan = FOLDER / "plan.json"
    plan.unlink(missing_ok=True)
    manage("migrate_users", "--dry-run", "--save-plan", str(plan), "--batch-size", "10", "--delay", "0.5")
    interrupt(["migrate_users", "--no-input", "--plan", str(plan)], MigrationBatch, run=5, batches=2)


def interrupt(argv: list[str], batches_of: type, *, run: int, batches: int) -> None:
    """Start a migration and end it with SIGTERM once so many batches of its run are done."""
    process = subprocess.Popen([sys.executable, "manage.py", *argv])
    while batches_of.objects.filter(run=run, status="done").count() < batches:
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM


main()
