"""Take the pictures of docs/images again: real pages of a real run, in the Chromium on the PATH.

Fills a throw-away SQLite file with players, migrates a first part, lets some spend and takes one of them back, then
photographs the pages while a worker is in the middle of the second part.
"""
# ruff: noqa: PLC0415 (Django's models can be imported once the throw-away database is chosen, not before)

import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
IMAGES = PROJECT / "docs" / "images"
USERS = 10_000
WIDTH = 1180
FLAGS = ("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")


def main() -> int:
    """Build the site in a temporary folder, take the pictures, and forget the rest."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("There is no Chromium on the PATH (Debian's package is called chromium).", file=sys.stderr)
        return 1
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "DATABASE_URL": f"sqlite:///{folder}/site.sqlite3",
            "ENV_FILE": os.devnull,
            "DEBUG": "true",
            "MANA_MIGRATION_LOG_DIR": f"{folder}/logs",
            "DJANGO_ALLOW_ASYNC_UNSAFE": "true",
        }
        sys.path.insert(0, str(PROJECT))
        build()
        with process("-m", "gunicorn", "config.wsgi", "--bind", "127.0.0.1:0", "--threads", "4", listens=True) as site:
            photograph(chromium, site)
    for picture in sorted(IMAGES.glob("*.png")):
        print(f"{picture.relative_to(PROJECT)}  {picture.stat().st_size // 1024} KB")
    return 0


def manage(*argv: str) -> None:
    """Run a command; a code of 3 says that some users were left out, which is right here."""
    done = subprocess.run(
        [sys.executable, "manage.py", *argv], cwd=PROJECT, check=False, stdout=subprocess.DEVNULL, text=True
    )
    if done.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(argv)} ended with {done.returncode}")


@contextmanager
def process(*argv: str, listens: bool = False) -> Iterator[str]:
    """Run a Python process for the length of the block; return where it listens, if it does."""
    running = subprocess.Popen([sys.executable, *argv], cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    try:
        address = ""
        while listens and not address:
            line = running.stderr.readline() if running.stderr else ""
            if not line:
                raise SystemExit(f"{' '.join(argv)} ended")
            found = re.search(r"Listening at: (\S+)", line)
            address = found[1] if found else ""
        yield address
    finally:
        running.terminate()
        running.communicate()


def build() -> None:
    """Make a site with a first part migrated and the second part waiting for a worker."""
    manage("migrate", "--verbosity", "0")
    import django

    django.setup()
    from django.contrib.auth import get_user_model

    get_user_model().objects.create_superuser("olga", "olga@example.org", "secret")
    make_players()
    manage("migrate_users", "--skip-invalid", "--limit", "3000", "--no-input")
    spend()


def make_players() -> None:
    """Make players with balances as they are: most have a little, few have a lot, some are wrong."""
    from django.contrib.auth import get_user_model

    from wishes.models import Wallet

    chance = random.Random(7)  # noqa: S311 (the same pictures every time)
    model = get_user_model()
    players = model.objects.bulk_create(model(username=f"player-{number:05}") for number in range(1, USERS + 1))
    Wallet.objects.bulk_create(
        Wallet(
            user=player,
            green=-3 if number % 90 == 4 else int(chance.paretovariate(1.2) * 10) % 5000,
            blue=int(chance.paretovariate(1.3) * 2) % 900,
            red=chance.choice((0, 0, 0, 1, 1, 2, 5)),
        )
        for number, player in enumerate(players, 1)
        if number % 90 != 9  # never touched a wish
    )


def spend() -> None:
    """Let some users spend a part of their mana."""
    from wishes.models import Wallet
    from wishes.services import spend_mana

    rich = Wallet.objects.filter(migrated_at__isnull=False, mana__gt=500, green=0).order_by("pk")
    for number, wallet in enumerate(rich[:40]):
        spend_mana(wallet.pk, amount=wallet.mana // 3, reference=f"shop:order-{1000 + number}")


def take_back() -> None:
    """Take one user back who asked for it, and try another who cannot be converted."""
    from mana_migration.domain.options import RollbackOptions
    from mana_migration.services import operation
    from mana_migration.services.context import Actor, RunContext
    from mana_migration.services.rollback import Rollback
    from wishes.models import Wallet

    manage("migrate_users", "--user-id", "player-00004", "--no-input")  # has a negative balance
    asked = Wallet.objects.get(user__username="player-00007")
    options = RollbackOptions(users=(str(asked.pk),), on_shortfall="write-off", reason="support case 4711")
    operation.execute(Rollback(options), RunContext(actor=Actor("olga", "web-1")))


def open_second_part() -> int:
    """Open a run that takes about a minute, with something to see among its events."""
    from mana_migration.domain.options import Controls, MigrationOptions
    from mana_migration.services import runs
    from mana_migration.services.context import Actor, RunContext
    from mana_migration.services.executors import background
    from mana_migration.services.migration import Migration

    olga = Actor("olga", "web-1")
    options = MigrationOptions(skip_invalid=True, controls=Controls(batch_size=40, delay=0.15))
    run = background.open_run(Migration(options, "the second part"), RunContext(actor=olga))
    runs.pause_run(run.pk, actor=olga, reason="wait for the backup")
    runs.resume_run(run.pk, actor=olga, reason="the backup is done")
    return run.pk


def photograph(chromium: str, site: str) -> None:
    """Take every picture."""
    from playwright.sync_api import sync_playwright

    from mana_migration.models import MigrationRun
    from mana_migration.services import runs
    from mana_migration.services.context import current_actor
    from wishes.models import ManaEntry

    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, *sandbox])
        page = browser.new_page(base_url=site, viewport={"width": WIDTH, "height": 860})
        page.goto("/admin/login/?next=/migration/")
        page.fill("#id_username", "olga")
        page.fill("#id_password", "secret")
        page.click("input[type=submit]")
        run = open_second_part()
        with process("manage.py", "work_migration", "--interval", "0.2"):
            wait_for_share(run, 0.6)
            take(page, f"/migration/runs/{run}/", "live.png", full=True)
            take(page, "/migration/", "overview.png", full=True)
            page.goto("about:blank")  # the pages of an open run load again when it ends
            runs.change_controls(run, {"delay": 0, "batch_size": 500}, actor=current_actor())
            while MigrationRun.objects.get(pk=run).is_open:
                time.sleep(0.2)
        take(page, f"/migration/runs/{run}/report", "report.png", full=False)
        spender = ManaEntry.objects.filter(kind="spend").earliest("pk").user_id
        take(page, f"/migration/users/{spender}/", "explanation.png", full=True)
        largest = MigrationRun.objects.filter(kind="migration", planned_users=3000).earliest("pk")
        page.goto(f"/migration/runs/{largest.pk}/")
        page.get_by_role("link", name="Roll back").click()
        page.get_by_label("Reason").wait_for()
        page.screenshot(path=IMAGES / "rollback.png", full_page=True)
        take_back()
        page.set_viewport_size({"width": WIDTH + 160, "height": 860})
        take(page, "/admin/mana_migration/migratinguser/", "admin-users.png", full=False)
        browser.close()


def take(page: Any, address: str, name: str, *, full: bool) -> None:
    """Take the picture of a page, the whole of it or what fits the window."""
    page.goto(address)
    page.screenshot(path=IMAGES / name, full_page=full)


def wait_for_share(run: int, share: float) -> None:
    """Wait until a run has handled so much of its users."""
    from mana_migration.selectors.runs import run_snapshot

    while True:
        seen = run_snapshot("default", run)
        if seen is None or not seen.is_open or (seen.progress.share or 0) >= share:
            return
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
