"""How long a wallet operation takes on PostgreSQL, without a migration and during one.

    python -m benchmarks.wallet_latency --users 200000 --seconds 30

Clients are processes that keep a steady rate, as a site's traffic does; a latency is counted from the moment at which
the operation was due, so that one slow answer also counts for those that queue behind it. First the site alone, then
the same traffic while ``migrate_users --batch-size 50`` runs. DATABASE_URL names an empty database with the schema;
without it a throw-away server is started, with its defaults for durability.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
FORK = multiprocessing.get_context("fork")
HOT = 8

#: Operations of each client in a phase, however soon the migration ends.
LEAST = 5


def main() -> int:
    """Measure, print one JSON object, and return 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000, help="wallets to migrate meanwhile")
    parser.add_argument("--clients", type=int, default=4, help="processes that use the wallets")
    parser.add_argument("--rate", type=float, default=10.0, help="operations per second of each client")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each phase, at most")
    parser.add_argument("--batch-size", default="50", help="users per batch of the migration")
    parser.add_argument("--target", type=float, default=3.0, help="highest ratio of the 99th percentiles")
    options = parser.parse_args()
    if "DATABASE_URL" in os.environ:
        return measure(options)
    from tests.support.postgres import Postgres

    with Postgres(durable=True) as server:
        os.environ["DATABASE_URL"] = server.url()
        manage("migrate", "--verbosity", "0", "--skip-checks").check_returncode()
        return measure(options)


def manage(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run a management command to its end."""
    return subprocess.run(
        [sys.executable, "manage.py", *argv], cwd=PROJECT, capture_output=True, text=True, check=False
    )


def measure(options: argparse.Namespace) -> int:
    """Run both phases and print what was found."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    outcome = compare(options)
    print(json.dumps(outcome, indent=1))
    return 0 if outcome["ratio_p99"] < options.target else 1


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Run both phases on an empty database and return what was found."""
    keys = populate(options.users)
    with tempfile.TemporaryDirectory(prefix="latency-") as name:
        folder = Path(name)
        quiet = traffic("quiet", options, keys, folder, None)
        migration = subprocess.Popen(
            [sys.executable, "manage.py", "migrate_users", "--batch-size", options.batch_size, "--no-input"],
            cwd=PROJECT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for_first_batch(migration)
        begun = time.monotonic()
        busy = traffic("migrating", options, keys, folder, migration)
        overlap = time.monotonic() - begun
        interrupted = migration.poll() is None
        if interrupted:
            migration.terminate()
        migration.wait()
    ratio = busy["all"]["p99_ms"] / quiet["all"]["p99_ms"]
    return {
        "conditions": conditions(options),
        "quiet": quiet,
        "migrating": busy,
        "ratio_p50": round(busy["all"]["p50_ms"] / quiet["all"]["p50_ms"], 2),
        "ratio_p99": round(ratio, 2),
        "migration": batches(overlap, interrupted=interrupted),
    }


def populate(users: int) -> range:
    """Create users with wishes; return their keys."""
    from django.contrib.auth import get_user_model
    from django.db import connection

    table = get_user_model()._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} (username, password, first_name, last_name, email, is_staff, is_active, "
            "is_superuser, date_joined) SELECT 'user-' || n, '', '', '', '', false, true, false, now() "
            "FROM generate_series(1, %s) n",
            [users],
        )
        cursor.execute(
            "INSERT INTO wishes_wallet (user_id, green, blue, red, mana, updated_at) "
            f"SELECT id, id % 50, id % 7, id % 4, 0, now() FROM {table}"
        )
        cursor.execute(f"SELECT MIN(id), MAX(id) FROM {table}")
        first, last = cursor.fetchone()
    # outside of a transaction
    connection.ensure_connection()
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    return range(first, last + 1)


def wait_for_first_batch(migration: "subprocess.Popen[bytes]") -> None:
    """Wait until the migration has begun to convert."""
    from mana_migration.models import MigrationBatch

    while not MigrationBatch.objects.filter(status="done").exists():
        if migration.poll() is not None:
            sys.exit(f"migrate_users ended with {migration.returncode} before its first batch")
        time.sleep(0.05)


def traffic(
    phase: str, options: argparse.Namespace, keys: range, folder: Path, migration: "subprocess.Popen[bytes] | None"
) -> dict[str, Any]:
    """Run the clients for the length of a phase, or until the migration ends; return the figures."""
    from django.db import connections

    connections.close_all()
    stop = FORK.Event()
    clients = [
        FORK.Process(
            target=client,
            kwargs={
                "phase": phase,
                "number": number,
                "options": options,
                "keys": keys,
                "folder": folder,
                "stop": stop,
            },
        )
        for number in range(options.clients)
    ]
    for process in clients:
        process.start()
    while any(process.is_alive() for process in clients):
        if migration is not None and migration.poll() is not None:
            stop.set()
        time.sleep(0.1)
    found: dict[str, list[float]] = {"all": []}
    for path in folder.glob(f"{phase}-*.json"):
        for operation, seconds in json.loads(path.read_text()):
            found.setdefault(operation, []).append(seconds)
            found["all"].append(seconds)
    return {operation: figures(seconds) for operation, seconds in sorted(found.items())}


def figures(seconds: list[float]) -> dict[str, float]:
    """Return the percentiles of these durations, in milliseconds."""
    cuts = statistics.quantiles(seconds, n=1000)
    return {
        "operations": len(seconds),
        "p50_ms": round(cuts[499] * 1000, 2),
        "p95_ms": round(cuts[949] * 1000, 2),
        "p99_ms": round(cuts[989] * 1000, 2),
        "max_ms": round(max(seconds) * 1000, 2),
    }


def client(*, phase: str, number: int, options: argparse.Namespace, keys: range, folder: Path, stop: Any) -> None:
    """Do one operation after the other at a steady rate, each as it falls due."""
    from wishes import services
    from wishes.errors import InsufficientBalanceError

    chance = random.Random(f"{phase}:{number}")
    found: list[tuple[str, float]] = []
    services.read_balance(keys[0])  # connect
    begun = time.perf_counter() + number / options.clients / options.rate
    for count in range(int(options.seconds * options.rate)):
        due = begun + count / options.rate
        time.sleep(max(0.0, due - time.perf_counter()))
        if stop.is_set() and count >= LEAST:
            break
        user = keys[chance.randrange(HOT)] if chance.random() < 0.2 else chance.choice(keys)
        operation = chance.choice(["read", "earn_wishes", "spend_wishes", "earn_mana", "spend_mana"])
        reference = f"{phase}:{number}:{count}"
        try:
            if operation == "read":
                services.read_balance(user)
            elif operation.endswith("wishes"):
                getattr(services, operation)(user, "green", 1, reference=reference)
            else:
                getattr(services, operation)(user, 5, reference=reference)
        except InsufficientBalanceError:
            pass
        found.append((operation, time.perf_counter() - due))
    (folder / f"{phase}-{number}.json").write_text(json.dumps(found))


def batches(overlap: float, *, interrupted: bool) -> dict[str, Any]:
    """Return what the migration did meanwhile: its speed and its longest batches."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT COUNT(*), SUM(migrated), "
            "percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP "
            "(ORDER BY extract(epoch FROM finished_at - started_at)), "
            "extract(epoch FROM MAX(finished_at) - MIN(started_at)) "
            "FROM mana_migration_migrationbatch WHERE status = 'done'"
        )
        count, migrated, durations, seconds = cursor.fetchone()
    return {
        "batches": count,
        "users": int(migrated),
        "users_per_second": round(float(migrated) / float(seconds)),
        "batch_p50_ms": round(float(durations[0]) * 1000, 1),
        "batch_p99_ms": round(float(durations[1]) * 1000, 1),
        "batch_max_ms": round(float(durations[2]) * 1000, 1),
        "overlap_seconds": round(overlap, 1),
        "still_running_at_the_end": interrupted,
    }


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the figures depend on."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('server_version'), current_setting('synchronous_commit')")
        version, commit = cursor.fetchone()
    return {
        "postgresql": version,
        "synchronous_commit": commit,
        "processors": os.cpu_count(),
        "load_average_before": round(os.getloadavg()[2], 1),
        "users": options.users,
        "clients": options.clients,
        "operations_per_second": options.clients * options.rate,
        "batch_size": options.batch_size,
    }


if __name__ == "__main__":
    sys.exit(main())
