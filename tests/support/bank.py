"""The bank test: many processes use the wallets of a site while it is migrated and rolled back, and nothing is lost.

    python -m tests.support.bank --operations 100000

prints one JSON object, and ends with 0 if the books balanced at every look and every journal agrees with the ledgers.
DATABASE_URL names an empty PostgreSQL database with the schema; without it a throw-away server is started.
``--without lock|reference|guard`` takes one protection away: then the books must not balance.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent.parent
MIGRATE = ("migrate_users", "--batch-size", "25", "--delay", "0.02", "--no-input")
ROLL_BACK = ("rollback_migration", "--all", "--batch-size", "25", "--no-input")
#: Done, and done but some users kept their mana, because they had spent it.
GOOD_CODES = (0, 3)
USERS, HOT, WITHOUT_WALLET = 1000, 8, 50
FORK = multiprocessing.get_context("fork")


def main(arguments: list[str] | None = None) -> int:
    """Run the test that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=100_000, help="of all processes together")
    parser.add_argument("--tellers", type=int, default=8, help="processes that use the wallets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes of each migration and rollback")
    parser.add_argument("--without", choices=("lock", "reference", "guard"), help="take a protection away")
    options = parser.parse_args(arguments)
    if "DATABASE_URL" in os.environ:
        return start(options)
    from tests.support.postgres import Postgres

    with Postgres() as server:
        os.environ["DATABASE_URL"] = server.url()
        manage("migrate", "--verbosity", "0", "--skip-checks").check_returncode()
        return start(options)


def manage(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run a management command as an operator does."""
    return subprocess.run(
        [sys.executable, "manage.py", *argv], cwd=PROJECT, capture_output=True, text=True, check=False
    )


def start(options: argparse.Namespace) -> int:
    """Set Django up in this process, run the test and print its outcome."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    with tempfile.TemporaryDirectory(prefix="bank-") as folder:
        outcome = Bank(options, Path(folder)).run()
    print(json.dumps(outcome, indent=1))  # noqa: T201
    return 0 if outcome["ok"] else 1


class Bank:
    """Everything around the tellers: the users, the commands, the auditor and the reckoning."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.commands: list[dict[str, Any]] = []
        self.stop = FORK.Event()
        self.shared = ("--workers", str(options.workers)) if options.workers > 1 else ()

    def run(self) -> dict[str, Any]:
        """Run the test and return its outcome."""
        from django.db import connections

        from tests.support import oracle

        users = open_accounts()
        expected = oracle.endowment()
        (self.folder / "endowment.json").write_text(json.dumps(dataclasses.asdict(expected)))
        if self.options.without:
            self.command(*MIGRATE[:1], "--no-input")
            take_away(self.options.without)
        connections.close_all()  # nothing open may be inherited
        begun = time.monotonic()
        tellers = self.fork_tellers(users)
        auditor = FORK.Process(target=audit, args=(self.folder, self.stop))
        auditor.start()
        turn = 0
        while any(teller.is_alive() for teller in tellers):
            self.command(*(MIGRATE, ROLL_BACK)[turn % 2], *self.shared)
            turn += 1
        for teller in tellers:
            teller.join()
        seconds = time.monotonic() - begun
        self.command(*MIGRATE)
        self.stop.set()
        auditor.join()
        return self.reckon(tellers, auditor, seconds, expected)

    def fork_tellers(self, users: list[Any]) -> list[BaseProcess]:
        """Start the tellers, each a process of its own."""
        from tests.support.teller import Teller

        count = self.options.tellers
        barrier = FORK.Barrier(count)
        share = -(-self.options.operations // count)

        def work(number: int) -> None:
            try:
                Teller(
                    number,
                    seed=self.options.seed,
                    users=users,
                    hot=HOT,
                    operations=share,
                    folder=self.folder,
                    barrier=barrier,
                ).run()
            except BaseException:
                barrier.abort()
                raise

        tellers: list[BaseProcess] = [FORK.Process(target=work, args=(number,)) for number in range(count)]
        for teller in tellers:
            teller.start()
        return tellers

    def command(self, *argv: str) -> None:
        """Run a command and note how it ended."""
        done = manage(*argv)
        noted: dict[str, Any] = {"command": argv[0], "code": done.returncode}
        if done.returncode not in GOOD_CODES:
            noted["output"] = (done.stdout + done.stderr)[-600:]
        self.commands.append(noted)

    def reckon(self, tellers: list[BaseProcess], auditor: BaseProcess, seconds: float, expected: Any) -> dict[str, Any]:
        """Compare the journals with the ledgers, ask the oracle once more, and put everything together."""
        from tests.support import oracle

        counts: Counter[str] = Counter()
        unexpected: list[str] = []
        for summary in sorted(self.folder.glob("teller-*.json")):
            told = json.loads(summary.read_text())
            counts.update(told["counts"])
            unexpected += told["unexpected"]
        crashed = [process.exitcode for process in (*tellers, auditor) if process.exitcode]
        audit_found = json.loads((self.folder / "audit.json").read_text()) if not auditor.exitcode else {}
        found = {
            "crashed": crashed,
            "unexpected": unexpected[:20],
            "violations": [str(violation) for violation in oracle.violations(expected=expected)][:20],
            "violations_seen_on_the_way": audit_found.get("violations", ["the auditor crashed"])[:20],
            **compare_with_ledgers(self.folder),
            "commands_that_failed": [noted for noted in self.commands if noted["code"] not in GOOD_CODES],
            "stale_saves_accepted": counts.pop("stale save accepted", 0),
        }
        return {
            "ok": not any(found.values()),
            "operations": self.options.operations,
            "seconds": round(seconds, 1),
            "operations_per_second": round(self.options.operations / seconds),
            "shared_runs": shared_runs(),
            "snapshots": audit_found.get("snapshots", 0),
            "commands": dict(Counter(f"{noted['command']} {noted['code']}" for noted in self.commands)),
            "counts": dict(sorted(counts.items())),
            **found,
        }


def open_accounts() -> list[Any]:
    """Create the users, most with wishes, some with mana, a few without a wallet; return their keys."""
    from django.contrib.auth import get_user_model

    from wishes import services
    from wishes.models import Wallet

    model = get_user_model()
    model.objects.bulk_create([model(username=f"bank-{number}") for number in range(USERS)])
    keys = list(model.objects.filter(username__startswith="bank-").order_by("pk").values_list("pk", flat=True))
    Wallet.objects.bulk_create(
        [
            Wallet(user_id=key, green=number % 50, blue=number % 7, red=number % 4)
            for number, key in enumerate(keys[: USERS - WITHOUT_WALLET])
        ]
    )
    for number, key in enumerate(keys[:100]):
        services.earn_mana(key, 100 + number, reference=f"opened:{number}")
    return keys


def take_away(protection: str) -> None:
    """Remove what the negative controls show to be needed."""
    from django.db import connection

    from wishes import services
    from wishes.models import Wallet

    if protection == "lock":
        services._locked = Wallet.objects.using
        return
    with connection.cursor() as cursor:
        if protection == "guard":
            cursor.execute("DROP TRIGGER wishes_wallet_no_stale_write ON wishes_wallet")
        else:
            cursor.execute(
                "SELECT conrelid::regclass, conname FROM pg_constraint WHERE contype = 'u' "
                "AND conrelid IN ('wishes_manaentry'::regclass, 'wishes_wishentry'::regclass)"
            )
            for table, name in cursor.fetchall():
                cursor.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')


def shared_runs() -> int:
    """Return how many runs several processes have worked on."""
    from django.db.models import Count

    from mana_migration.models import MigrationRun

    processes = Count("batches__worker", distinct=True)
    return MigrationRun.objects.filter(batches__selected__gt=0).annotate(found=processes).filter(found__gt=1).count()


def audit(folder: Path, stop: Any) -> None:
    """Look at everything in one snapshot, again and again: every rule must hold at every commit."""
    from tests.support import oracle

    expected = oracle.Endowment(**json.loads((folder / "endowment.json").read_text()))
    snapshots, found = 0, []
    pause = 0.0
    while not stop.wait(pause):
        begun = time.monotonic()
        found += [str(violation) for violation in oracle.violations(expected=expected)]
        found = found[:50]
        snapshots += 1
        pause = time.monotonic() - begun  # leave half of a processor to the others
    (folder / "audit.json").write_text(json.dumps({"snapshots": snapshots, "violations": found}))


def compare_with_ledgers(folder: Path) -> dict[str, list[str]]:
    """Return what was told to have succeeded and is not booked, and what is booked otherwise or more than once."""
    from wishes.models import ManaEntry, WishEntry

    told: Counter[tuple[Any, ...]] = Counter()
    for journal in folder.glob("teller-*.journal"):
        for line in journal.read_text().splitlines():
            told[tuple(json.loads(line))] += 1
    columns = ("reference", "user_id", "kind", "currency", "amount", "balance_after")
    booked: Counter[tuple[Any, ...]] = Counter()
    for reference, user, kind, amount, balance in ManaEntry.objects.filter(kind__in=["earn", "spend"]).values_list(
        "reference", "user_id", "kind", "amount", "balance_after"
    ):
        if not reference.startswith("opened:"):
            booked[reference, str(user), kind, "mana", amount, balance] += 1
    for reference, user, kind, colour, amount, balance in WishEntry.objects.values_list(
        "reference", "user_id", "kind", "colour", "amount", "balance_after"
    ):
        booked[reference, str(user), kind, colour, amount, balance] += 1
    names = Counter(entry[0] for entry in booked.elements())
    return {
        "lost": [str(dict(zip(columns, entry, strict=True))) for entry in (told - booked)][:20],
        "never_told": [str(dict(zip(columns, entry, strict=True))) for entry in (booked - told)][:20],
        "paid_twice": [reference for reference, times in names.items() if times > 1][:20],
    }


if __name__ == "__main__":
    sys.exit(main())
