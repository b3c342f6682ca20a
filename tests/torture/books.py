"""What there is to see in a database once something has happened to it: do the books balance, and what do they say?"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator
from typing import Any

from django.contrib.auth import get_user_model
from django.db import connections
from django.db.models import QuerySet

from mana_migration.engine.totals import folded_figures
from mana_migration.models import IntegrityFix, MigrationRun, UserMigration
from tests.support import oracle
from tests.torture.children import use
from wishes.models import ManaEntry, Wallet, WishEntry

#: Records of users for whom there was nothing to do: a command given twice leaves such ones.
NOTHING_DONE = ("already_migrated", "not_migrated", "no_wallet")


def inspect(database: str, orphans: Collection[object] = ()) -> dict[str, Any]:
    """Return what is wrong with a database, what it must keep and what it says."""
    use(database)
    return {
        "violations": [str(violation) for violation in oracle.violations(orphans=orphans)],
        "endowment": dataclasses.asdict(oracle.endowment()),
        "dump": dump(),
        "workers": len(set(MigrationRun.objects.latest().batches.exclude(worker="").values_list("worker", flat=True)))
        if MigrationRun.objects.exists()
        else 0,
        "open": list(MigrationRun.objects.filter(finished_at=None).values_list("status", flat=True)),
    }


def wallets(database: str) -> dict[str, str]:
    """Return the SHA-256 of every wallet's key and balances, in the order of keys, and the number of those migrated."""
    use(database)
    digest = hashlib.sha256()
    count = migrated = 0
    for key, green, blue, red, mana, moment in _rows(
        "SELECT user_id, green, blue, red, mana, migrated_at FROM wishes_wallet ORDER BY user_id"
    ):
        digest.update(json.dumps([str(key), green, blue, red, mana, moment is not None]).encode() + b"\n")
        count += 1
        migrated += moment is not None
    return {"sha256": digest.hexdigest(), "users": str(count), "migrated": str(migrated)}


def _rows(sql: str) -> Iterator[tuple[Any, ...]]:
    with connections["default"].cursor() as cursor:
        cursor.execute(sql)
        while rows := cursor.fetchmany(5000):
            yield from rows


def dump() -> dict[str, Any]:
    """Return everything that two equal outcomes agree on: no moments, no machines, no numbers given by the database.

    Runs are numbered by their order, as far as they did anything, users by their names, and batches left out: how often
    something was tried again is nobody's balance.
    """
    runs = _runs()
    names = {run["id"]: run["name"] for run in runs}
    model = get_user_model()
    users = {str(key): str(name) for key, name in model.objects.values_list("pk", model.USERNAME_FIELD)}

    def rows(queryset: QuerySet[Any], *columns: str) -> list[list[Any]]:
        """Return the columns of each row, after the name of its user."""
        return [[users[str(user)], *rest] for user, *rest in queryset.values_list("user_id", *columns)]

    entries = rows(ManaEntry.objects.order_by("pk"), "amount", "balance_after", "kind", "reference")
    records = rows(
        UserMigration.objects.exclude(error_class__in=NOTHING_DONE), "run_id", "reversal_run_id", "status", "green",
        "blue", "red", "mana_before", "mana_credited", "error_class", "mana_debited", "shortfall",
    )  # fmt: skip
    wallets = rows(Wallet.objects, "green", "blue", "red", "mana", "migrated_at")
    return {
        "wallets": sorted([*balances, moment is not None] for *balances, moment in wallets),
        # each user's in their order
        "mana": sorted(
            ([*entry, _reference(reference, names, users)] for *entry, reference in entries), key=lambda entry: entry[0]
        ),
        "wishes": sorted(
            [*entry, _reference(reference, names, users)]
            for *entry, reference in rows(WishEntry.objects, "colour", "amount", "kind", "reference")
        ),
        "records": sorted([user, names[run], *rest, names.get(back, "")] for user, run, back, *rest in records),
        "fixes": sorted(
            rows(IntegrityFix.objects, "check_id", "green_change", "blue_change", "red_change", "mana_change")
        ),
        "runs": [[run["name"], run["kind"], run["status"], run["totals"]] for run in runs],
    }


def _runs() -> list[dict[str, Any]]:
    """Return the runs that did something, named by kind and order."""
    found: list[dict[str, Any]] = []
    for run in MigrationRun.objects.order_by("pk"):
        totals = folded_figures(run, "default")["totals"]
        nothing_done = sum(totals["skips"].get(reason, 0) for reason in NOTHING_DONE)
        if totals["selected"] == nothing_done and not run.is_open:
            continue
        name = f"{run.kind} {len(found) + 1}"
        found.append({"id": run.pk, "name": name, "kind": run.kind, "status": run.status, "totals": totals})
    return found


def _reference(reference: str, names: dict[int, str], users: dict[str, str]) -> str:
    """Return a reference with the names of its run and its user, and without the number of its fix."""
    head, *parts = reference.split(":")
    if parts[:1] == ["fix"]:  # a number that a killed transaction took is not given again
        return ":".join([head, "fix", *parts[2:]])
    if head == "opening":
        return f"{head}:{users[parts[0]]}"
    if head not in ("conversion", "reversal"):
        return reference
    return f"{head}:{names.get(int(parts[0]), parts[0])}:{users[parts[1]]}"
