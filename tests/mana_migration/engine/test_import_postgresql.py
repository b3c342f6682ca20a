"""A legacy PostgreSQL database is read in one read-only snapshot and named without its password."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from hypothesis import given, settings

from mana_migration.domain.import_results import ImportOptions, ImportSummary
from mana_migration.domain.legacy import COLUMNS, UnpaidFlag
from mana_migration.engine.sources import open_source
from mana_migration.engine.sources import postgresql as source_module
from mana_migration.errors import SourceError
from mana_migration.services import imports
from mana_migration.services.context import Actor
from tests.mana_migration.engine.test_sources import HEADER, read_or_bad, tables, whole
from tests.support.commands import database_url
from tests.support.driver import psycopg
from tests.support.legacy import legacy_database, legacy_rows
from tests.support.oracle import assert_books_balance
from tests.support.postgres import Postgres
from wishes.models import Wallet

COLOURS = ("green", "blue", "red")
ODD = """
CREATE TABLE odd (id text, green_balance numeric, blue_balance float8, red_balance boolean, mana_balance text,
                  legacy_migration_completed text, "Legacy Name" text);
INSERT INTO odd VALUES ('a', 5.00, 7, null, null, 'No', 'Alice'), (null, 'NaN', 0.5, true, '5', 'perhaps', 'Bob'),
                       ('c', 1e30, 9007199254740992, false, '', null, 'Carol');
"""


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the address of a PostgreSQL server: that of the tests, or one for SQLite's tests alone."""
    if request.config.getoption("db") == "postgres":
        yield database_url()
        return
    with Postgres() as own:
        yield own.url()


@pytest.fixture(scope="module")
def legacy(server: str) -> Iterator[str]:
    with legacy_database(server, users=2_000, dirty=True, sql=ODD) as address:
        yield address


def bring_in(address: str, **options: Any) -> ImportSummary:
    return imports.import_balances(ImportOptions(source=address, **options), actor=Actor("tester", "host"))


def refused(address: str, match: str, **options: Any) -> str:
    with (
        pytest.raises(SourceError, match=match) as caught,
        open_source(address, **({"columns": COLUMNS} | options)) as source,
    ):
        list(source.rows())
    return str(caught.value)


@pytest.mark.django_db
def test_a_legacy_database_arrives_to_the_unit(legacy: str) -> None:
    done = bring_in(legacy, unpaid=UnpaidFlag.PENDING)
    paid = "legacy_migration_completed IS TRUE AND NOT (mana_balance = 0 AND green_balance = 5)"
    kept = ", ".join(f"CASE WHEN {paid} THEN 0 ELSE coalesce({colour}_balance, 0) END" for colour in COLOURS)
    rows = legacy_rows(legacy, f"SELECT id::text, {kept}, coalesce(mana_balance, 0), {paid} FROM users")
    expected = {row[0]: row[1:] for row in rows}
    found = Wallet.objects.values_list(
        f"user__{get_user_model().USERNAME_FIELD}", "green", "blue", "red", "mana", "migrated_at"
    )
    assert {name: (*balances, moment is not None) for name, *balances, moment in found} == expected
    assert (done.rows, done.imported, done.bad) == (2_000, 2_000, 0)
    assert done.nulls["blue"] == 20
    assert done.unpaid == 20
    orphans = [row[0] for row in legacy_rows(legacy, "SELECT id::text FROM users WHERE mana_balance = 500")]
    names = Wallet.objects.filter(**{f"user__{get_user_model().USERNAME_FIELD}__in": orphans})
    assert_books_balance(orphans=[wallet.pk for wallet in names])


@pytest.mark.django_db
def test_columns_of_other_types_are_read_without_coercion(legacy: str) -> None:
    done = bring_in(legacy, table="odd", skip_bad_rows=True)
    assert Wallet.objects.values_list("green", "blue", "red", "mana").get() == (5, 7, 0, 0)
    assert {row.row: row.reasons for row in done.rejected} == {
        2: ("out_of_range", "inexact", "boolean", "not_a_number"),
        3: ("missing_id", "not_finite", "fraction", "boolean", "not_a_number", "unknown_flag"),
    }


def test_nothing_can_be_written_to_a_legacy_database(legacy: str) -> None:
    with open_source(legacy, columns=COLUMNS) as source:
        next(source.rows())
        connection = source._connection  # type: ignore[attr-defined]
        with connection.cursor() as cursor, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            cursor.execute("DELETE FROM users")


def test_rows_that_appear_while_reading_are_not_seen(legacy: str) -> None:
    with open_source(legacy, columns=COLUMNS) as source:
        rows = source.rows()
        next(rows)
        writer = psycopg.connect(legacy)
        writer.autocommit = True
        try:
            with writer.cursor() as cursor:
                cursor.execute("INSERT INTO users (id) VALUES ('ffffffff-ffff-ffff-ffff-ffffffffffff')")
            assert sum(1 for _ in rows) == 1_999
        finally:
            with writer.cursor() as cursor:
                cursor.execute("DELETE FROM users WHERE id = 'ffffffff-ffff-ffff-ffff-ffffffffffff'")
            writer.close()


def test_rows_are_fetched_a_few_at_a_time(legacy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "CHUNK", 10)
    with open_source(legacy, columns=COLUMNS) as source:
        keys = [values[0] for _, values in source.rows()]
    assert len(keys) == 2_000
    assert keys == sorted(keys)


def test_a_table_in_a_schema_with_an_odd_name_is_found(server: str) -> None:
    names = [f'"{name}"' for name in COLUMNS.values()]
    table = f'CREATE SCHEMA old; CREATE TABLE old."We""ird%s" ({", ".join(f"{name} text" for name in names)})'
    with (
        legacy_database(server, sql=table) as address,
        open_source(address, table='old.We"ird%s', columns=COLUMNS) as source,
    ):
        assert list(source.rows()) == []


def test_what_is_not_there_is_refused_in_one_line(legacy: str, server: str) -> None:
    assert "\n" not in refused(legacy, "no such table", table="nobody")
    refused(legacy, "no such table", table="nowhere.users")
    refused(legacy, "no column 'green'.*found id, telegram_id", columns=COLUMNS | {"green": "green"})
    refused(server.rpartition("/")[0] + "/no_such_database", "no such database")


def test_an_unreadable_table_is_refused(legacy: str) -> None:
    owner = psycopg.connect(legacy)
    owner.autocommit = True
    with owner.cursor() as cursor:
        cursor.execute("CREATE ROLE reader LOGIN PASSWORD 'secret'")
    try:
        address = legacy.replace("//postgres@", "//reader:secret@")
        assert "secret" not in refused(address, "grant SELECT")
    finally:
        with owner.cursor() as cursor:
            cursor.execute("DROP ROLE reader")
        owner.close()


def test_a_server_that_goes_away_is_one_line(legacy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "CHUNK", 10)
    with (
        pytest.raises(SourceError, match="lost after row 10 ") as caught,
        open_source(legacy, columns=COLUMNS) as source,
    ):
        rows = source.rows()
        for _ in range(10):
            next(rows)
        pid = source._connection.info.backend_pid  # type: ignore[attr-defined]
        legacy_rows(legacy, f"SELECT pg_terminate_backend({pid}, 5000)")
        next(rows)
    assert "\n" not in str(caught.value)


def test_text_beyond_ascii_arrives(server: str) -> None:
    names = ", ".join(f"0 AS {name}" for name in list(COLUMNS.values())[1:5])
    table = f"CREATE TABLE users AS SELECT 'J\u00fcrgen' AS id, {names}, false AS legacy_migration_completed"
    with legacy_database(server, sql=table) as address, open_source(address, columns=COLUMNS) as source:
        assert [values[0] for _, values in source.rows()] == ["J\u00fcrgen"]


@pytest.fixture(scope="module")
def copying(server: str) -> Iterator[Any]:
    """A cursor on a database with an empty table for COPY."""
    columns = (
        "id text, name text, green_balance bigint, blue_balance bigint, red_balance bigint, mana_balance bigint, "
        "legacy_migration_completed boolean"
    )
    with legacy_database(server, sql=f"CREATE TABLE users ({columns})") as address:
        connection = psycopg.connect(address)
        with connection.cursor() as cursor:
            yield cursor
        connection.close()


#: How COPY may write a table, how the file is called, and what the import must be told.
COPIES = [
    ("FORMAT text", "e.tsv", "\t", {}),
    ("FORMAT csv", "e.csv", ",", {}),
    ("FORMAT csv, DELIMITER ';', FORCE_QUOTE *", "e.csv", ";", {}),
    ("FORMAT csv, DELIMITER '|', NULL '\\N'", "e.csv", "|", {}),
    ("FORMAT csv, DELIMITER E'\t', ESCAPE '\\', FORCE_QUOTE *", "e.tsv", "\t", {"backslash": "escape"}),
    ("FORMAT csv, ESCAPE '\\', FORCE_QUOTE *", "e.csv", ",", {"backslash": "escape"}),
    ("FORMAT text, DELIMITER '|'", "e.csv", "|", {"backslash": "escape"}),
]


@pytest.mark.parametrize("copy", COPIES, ids=[form for form, *_ in COPIES])
@settings(whole, max_examples=15)
@given(tables)
def test_what_copy_writes_is_read_back(
    copying: Any, tmp_path: Path, copy: tuple[str, str, str, dict[str, str]], rows: list[Any]
) -> None:
    form, name, delimiter, options = copy
    if form == "FORMAT text, DELIMITER '|'":  # there a quotation mark that begins a field may enclose it
        rows = [row for row in rows if not row[1].startswith('"')]
    copying.execute("TRUNCATE users")
    for row in rows:
        copying.execute("INSERT INTO users VALUES (%s, %s, %s, %s, %s, %s, %s)", row)
    quote = '"' if "FORCE_QUOTE" in form else ""
    path = tmp_path / name
    with path.open("wb") as file:
        file.write((delimiter.join(f"{quote}{column}{quote}" for column in HEADER) + "\n").encode())
        statement = f"COPY users TO STDOUT WITH ({form})"
        if hasattr(copying, "copy_expert"):
            copying.copy_expert(statement, file)
        else:  # psycopg 3
            with copying.copy(statement) as parts:
                for part in parts:
                    file.write(part)
    read_or_bad(path, rows, lambda value: str(value).lower()[0] if isinstance(value, bool) else str(value), **options)


@pytest.mark.django_db
def test_the_old_ledger_is_read_from_the_same_snapshot(server: str) -> None:
    ledger = """
        CREATE TABLE transactions (user_id uuid, transaction_category text, mana_amount integer);
        INSERT INTO transactions SELECT id, 'migration', 50 FROM users
        WHERE legacy_migration_completed AND (mana_balance > 0 OR telegram_id % 2 = 0);
    """
    with legacy_database(server, users=2_000, dirty=True, sql=ledger) as address:
        unpaid = "legacy_migration_completed AND mana_balance = 0 AND green_balance + blue_balance + red_balance > 0"
        counts = dict(legacy_rows(address, f"SELECT telegram_id % 2, count(*) FROM users WHERE {unpaid} GROUP BY 1"))
        done = bring_in(address, ledger="transactions", skip_bad_rows=True)
    assert done.ledger is not None
    assert done.ledger["paid_and_spent"] == counts[0]
    assert done.reasons == {"never_paid": counts[1]}
    assert_books_balance(orphans=list(Wallet.objects.filter(mana=500, migrated_at=None).values_list("pk", flat=True)))
