"""Databases that are not what they seem are refused with what to use instead."""

from __future__ import annotations

import sqlite3

import pytest
from django.db import connection

from mana_migration.engine import support


@pytest.mark.django_db
def test_the_database_of_the_tests_is_supported() -> None:
    assert support.unsupported(connection) == ""


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("PostgreSQL 15.14 (Debian 15.14-0+deb12u1) on x86_64-pc-linux-gnu, compiled by gcc", ""),
        ("PostgreSQL 18beta1 on aarch64-apple-darwin", ""),
        ("PostgreSQL 11.2-YB-2024.1.3.0-b0 on x86_64-pc-linux-gnu", "YugabyteDB"),
        ("PostgreSQL 15.2-YB-2.25.0.0-b0 on x86_64-pc-linux-gnu", "YugabyteDB"),
        ("CockroachDB CCL v24.1.0 (x86_64-pc-linux-gnu, built 2024/05/15)", "CockroachDB"),
        ("PostgreSQL 9.4.26 (Greenplum Database 6.25.3 build commit:x)", "Greenplum"),
        ("PostgreSQL 8.0.2 on i686-pc-linux-gnu, compiled by GCC, Redshift 1.0.57", "Redshift"),
        ("PostgreSQL 9.5 on x86_64-pc-linux-gnu (Materialize 0.100.0)", "Materialize"),
        ("EnterpriseThing 3.1", "EnterpriseThing"),
    ],
)
def test_look_alikes_are_known_by_their_version(version: str, name: str) -> None:
    assert support.look_alike(version) == name


@pytest.mark.postgres
@pytest.mark.django_db
def test_distributed_tables_are_refused() -> None:
    with connection.cursor() as cursor:  # Citus keeps its tables here
        cursor.execute("CREATE TABLE pg_dist_partition (logicalrelid regclass)")
        assert support.unsupported(connection) == ""
        cursor.execute("INSERT INTO pg_dist_partition VALUES ('wishes_wallet'), ('auth_user')")
    reason = support.unsupported(connection)
    assert reason.startswith("its tables wishes_wallet are distributed")
    assert "--database all" in reason


@pytest.mark.sqlite
@pytest.mark.django_db
def test_an_old_sqlite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.31.1")
    assert support.unsupported(connection) == "it is SQLite 3.31.1; upgrade to 3.33 or later"
