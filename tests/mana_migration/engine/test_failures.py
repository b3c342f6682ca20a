"""What an error of the database means for the work: only what is about the users may cost a user."""

from __future__ import annotations

import socket
import sqlite3

import pytest
from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, OperationalError

from mana_migration.engine.failures import Failure, classify, describe, kind_of
from tests.support.driver import psycopg

CONNECT = 'connection to server at "db.example" (192.0.2.7), port 5432 failed: '

#: libpq's own words, which carry no SQLSTATE, from before, during and after the life of a connection.
LOST = (
    f"{CONNECT}Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?\n",
    f"{CONNECT}No route to host",
    f"{CONNECT}timeout expired",
    f"{CONNECT}FATAL:  the database system is starting up",
    f"{CONNECT}FATAL:  the database system is shutting down",
    f"{CONNECT}FATAL:  the database system is in recovery mode",
    f"{CONNECT}FATAL:  the database system is not yet accepting connections\nDETAIL:  Consistent recovery state ...",
    f"{CONNECT}FATAL:  sorry, too many clients already",
    f"{CONNECT}FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
    'connection to server on socket "/run/.s.PGSQL.5432" failed: No such file or directory',
    'could not translate host name "db.example" to address: Temporary failure in name resolution',
    "server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally",
    "SSL SYSCALL error: EOF detected",
    "SSL SYSCALL error: Connection reset by peer",
    "SSL connection has been closed unexpectedly",
    "could not receive data from server: Connection timed out",
)
REFUSED = (
    f'{CONNECT}FATAL:  password authentication failed for user "mana"',
    f'{CONNECT}FATAL:  database "mana" does not exist',
    f'{CONNECT}FATAL:  no pg_hba.conf entry for host "192.0.2.1", user "mana", database "mana", no encryption',
    f'{CONNECT}FATAL:  role "mana" is not permitted to log in',
)


def wrapped(cause: Exception, kind: type[Exception] = OperationalError) -> Exception:
    """Return an error as Django wraps those of a driver."""
    error = kind(*cause.args)
    error.__cause__ = cause
    return error


def of_server(state: str, base: type[psycopg.Error] = psycopg.OperationalError) -> psycopg.Error:
    """Return an error of the server with its SQLSTATE."""
    return type("ServerError", (base,), {"pgcode": state, "sqlstate": state})("a text that nobody reads")


@pytest.mark.parametrize("text", LOST)
def test_an_error_of_the_connection_is_no_failure_of_anybody(text: str) -> None:
    assert kind_of(wrapped(psycopg.OperationalError(text))) is Failure.CONNECTION


def test_a_connection_lost_while_a_result_was_read_is_no_failure_of_anybody() -> None:
    text = "error with status PGRES_TUPLES_OK and no message from the libpq"
    assert kind_of(wrapped(psycopg.DatabaseError(text), DatabaseError)) is Failure.CONNECTION
    assert kind_of(wrapped(psycopg.InterfaceError("connection already closed"), InterfaceError)) is Failure.CONNECTION


def test_what_the_driver_says_of_a_closed_port_is_no_failure_of_anybody() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(host="127.0.0.1", port=taken.getsockname()[1], connect_timeout=5)
    assert kind_of(wrapped(caught.value)) is Failure.CONNECTION


@pytest.mark.parametrize("text", REFUSED)
def test_a_server_that_will_not_have_us_is_not_waited_for(text: str) -> None:
    assert kind_of(wrapped(psycopg.OperationalError(text))) is Failure.ENVIRONMENT


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("40001", Failure.TRANSIENT),
        ("40P01", Failure.TRANSIENT),
        ("55P03", Failure.TRANSIENT),
        ("57P01", Failure.CONNECTION),
        ("57P02", Failure.CONNECTION),
        ("57P03", Failure.CONNECTION),
        ("57P05", Failure.CONNECTION),
        ("25P03", Failure.CONNECTION),
        ("08006", Failure.CONNECTION),
        ("08P01", Failure.CONNECTION),
        ("53300", Failure.CONNECTION),
        ("53100", Failure.ENVIRONMENT),
        ("58030", Failure.ENVIRONMENT),
        ("25006", Failure.ENVIRONMENT),
        ("28000", Failure.ENVIRONMENT),
        ("3D000", Failure.ENVIRONMENT),
        ("3F000", Failure.ENVIRONMENT),
        ("42P01", Failure.ENVIRONMENT),
        ("42703", Failure.ENVIRONMENT),
        ("42501", Failure.ENVIRONMENT),
        ("XX001", Failure.ENVIRONMENT),
        ("XX002", Failure.ENVIRONMENT),
        ("57014", Failure.DATA),
        ("22003", Failure.DATA),
        ("P0001", Failure.DATA),
    ],
)
def test_what_the_server_says_is_judged_by_its_code(state: str, expected: Failure) -> None:
    assert kind_of(wrapped(of_server(state))) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("database is locked", Failure.TRANSIENT),
        ("database table is locked: wishes_wallet", Failure.TRANSIENT),
        ("database or disk is full", Failure.ENVIRONMENT),
        ("attempt to write a readonly database", Failure.ENVIRONMENT),
        ("no such table: wishes_wallet", Failure.ENVIRONMENT),
        ("no such column: mana", Failure.ENVIRONMENT),
        ("database disk image is malformed", Failure.ENVIRONMENT),
        ("unable to open database file", Failure.ENVIRONMENT),
        ("disk I/O error", Failure.ENVIRONMENT),
        ("interrupted", Failure.DATA),
    ],
)
def test_what_sqlite_says_is_judged_by_its_words(text: str, expected: Failure) -> None:
    assert kind_of(wrapped(sqlite3.OperationalError(text))) is expected


@pytest.mark.parametrize("text", ["disk is full", "no such table", "connection refused"])
def test_words_of_a_constraint_or_a_value_are_not_mistaken_for_the_databases(text: str) -> None:
    assert kind_of(IntegrityError(text)) is Failure.DATA
    assert kind_of(DataError(text)) is Failure.DATA


def test_a_batch_that_is_too_large_is_about_its_users() -> None:
    error = DatabaseError("integer overflow in the sums of a batch")
    assert kind_of(error) is Failure.DATA
    assert classify(error) == "overflow"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (wrapped(of_server("22003"), DataError), "overflow"),
        (wrapped(of_server("23505"), IntegrityError), "duplicate"),
        (wrapped(of_server("23514"), IntegrityError), "constraint"),
        (wrapped(of_server("57014")), "statement_timeout"),
        (wrapped(of_server("55P03")), "locked"),
        (wrapped(of_server("40P01")), "locked"),
        (wrapped(of_server("P0001")), "database_error"),
        (wrapped(of_server("23503"), IntegrityError), "integrity"),
        (IntegrityError("wishes_wallet.mana takes whole numbers only"), "overflow"),
        (DataError("bigint out of range"), "overflow"),
        (IntegrityError("UNIQUE constraint failed: wishes_manaentry.reference"), "duplicate"),
        (IntegrityError("CHECK constraint failed: wishes_wallet_mana_not_negative"), "constraint"),
        (OperationalError("database is locked"), "locked"),
        (IntegrityError("refused"), "integrity"),
        (DatabaseError("refused"), "database_error"),
    ],
)
def test_a_record_keeps_a_class_of_the_error(error: Exception, expected: str) -> None:
    assert classify(error) == expected


def test_the_description_is_one_line_without_the_rows_contents() -> None:
    text = "new row violates check constraint\nDETAIL:  Failing row contains (7, canary@example.org)."
    assert describe(IntegrityError(text)) == "new row violates check constraint"
    assert describe(DatabaseError()) == "DatabaseError"
    assert describe(DatabaseError("x" * 1000)) == "x" * 1000
    assert describe(DatabaseError("x" * 20_000)).endswith("x… (20,000 characters in all)")
