"""With the keys that a distributed database needs, everything works as before (on one node: there is no cluster)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import IntegrityError, connections

from tests.journeys.test_end_to_end import write_export
from tests.support.commands import PROJECT
from tests.support.databases import own_database
from tests.support.oracle import assert_books_balance, endowment
from tests.support.processes import run
from wishes import services
from wishes.errors import ReferenceConflictError
from wishes.models import ManaEntry, Wallet

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]

SCRIPT = PROJECT / "scripts" / "distribute_by_user.sql"


@pytest.fixture
def rekeyed(tmp_path: Path) -> Iterator[None]:
    """Let the suite's processes work on a copy of the database whose keys the script has changed."""
    with own_database(tmp_path, copy=True) as own, pytest.MonkeyPatch.context() as patch:
        patch.setitem(connections["default"].settings_dict, "NAME", own["NAME"])
        with connections["default"].cursor() as cursor:
            cursor.execute(SCRIPT.read_text())
        yield
        connections["default"].close()


@pytest.mark.usefixtures("rekeyed")
def test_every_unique_key_of_the_users_tables_begins_with_the_user() -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "SELECT i.indexrelid::regclass::text, a.attname FROM pg_index i "
            "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
            "WHERE i.indisunique AND i.indrelid IN ('wishes_wallet'::regclass, 'wishes_manaentry'::regclass, "
            "'wishes_wishentry'::regclass, 'mana_migration_usermigration'::regclass)"
        )
        keys = dict(cursor.fetchall())
    assert len(keys) == 8
    assert set(keys.values()) == {"user_id"}


@pytest.mark.usefixtures("rekeyed")
def test_the_way_of_a_migration_is_the_same(tmp_path: Path) -> None:
    export = tmp_path / "legacy.csv"
    write_export(export, 120)
    assert run("import_balances", export).code == 0
    before = endowment()
    done = json.loads(run("migrate_users", "--auto-fix", "--delay", "0", "--format", "json").out)
    assert done["status"] == "completed"
    assert done["users"]["migrated"] == 117
    one, other = (Wallet.objects.get(user__username=f"legacy-{number:04}") for number in (10, 12))
    services.spend_mana(one.pk, 10, reference="order:1")
    services.spend_mana(one.pk, 10, reference="order:1")  # a retry
    with pytest.raises(ReferenceConflictError):
        services.spend_mana(other.pk, 10, reference="order:1")
    back = json.loads(run("rollback_migration", "--all", "--no-input", "--format", "json").out)
    assert back["users"]["rolled_back"] == 116
    assert run("validate_migration", "--post-migration").code == 0
    assert_books_balance(expected=before)
    entry = ManaEntry.objects.filter(user_id=one.pk, kind="conversion").values().get()
    with pytest.raises(IntegrityError, match="reference_key"):
        ManaEntry.objects.create(**{**entry, "id": entry["id"] + 1_000_000})


def test_the_part_for_a_cluster_names_the_users_tables_and_is_not_executed() -> None:
    text = SCRIPT.read_text()
    for table in ("wishes_wallet", "wishes_manaentry", "wishes_wishentry", "mana_migration_usermigration"):
        assert f"--     SELECT create_distributed_table('{table}', 'user_id'" in text
