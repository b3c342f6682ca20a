"""Every benchmark runs, does the work that it says, and measures databases in which every rule is on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

psycopg2 = pytest.importorskip("psycopg2", reason="the benchmarks compare with scripts that use psycopg2")

from benchmarks.__main__ import MEASURES, parse  # noqa: E402
from benchmarks.result import Row  # noqa: E402
from benchmarks.rules import WeakenedError, refuse_weakened, rules_in_force  # noqa: E402

PROJECT = Path(__file__).resolve().parent.parent.parent

#: What each benchmark compares with, as its figures are named: without it a ratio says nothing.
COMPARED = {
    "conversion": "at_once, users/s",
    "evidence": "without, users/s",
    "orm": "loop, users/s",
    "workers": "at_once, users/s",
    "dry-run": "bare SELECT, ms",
    "validation": "bare queries, ms",
    "snapshot": "batches",
    "export": "COPY, s",
    "import": "COPY alone, s",
    "command": "conversion, s",
    "growth": "migrate, MiB",
    "waits": "without, p99_ms",
    "databases": "users/s",
    "history": "after 2 runs, s",
    "pages": "without, ms",
    "start": "s",
    "remaining": "looks",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Run all benchmarks at a tiny size and return their rows by name."""
    file = tmp_path_factory.mktemp("bench") / "rows.json"
    sizes = [
        "--users",
        "120",
        "--largest",
        "120",
        "--seconds",
        "0.5",
        "--rounds",
        "1",
        "--runs",
        "4",
        "--server",
        "volatile",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *sizes, "--json", str(file)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(file.read_text()):
        found.setdefault(row["measure"], []).append(row)
    return found


@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", MEASURES)
def test_a_benchmark_compares_at_a_tiny_size(results: dict[str, list[dict[str, Any]]], name: str) -> None:
    """What is measured is not the point here: a hundred users take no time."""
    assert all(row["ratio"] > 0 for row in results[name])
    assert COMPARED[name] in {figure for row in results[name] for figure in row["figures"]}


@pytest.mark.postgres
@pytest.mark.django_db
@pytest.mark.parametrize(
    "weaken",
    [
        "ALTER TABLE wishes_wallet DISABLE TRIGGER wishes_wallet_no_stale_write",
        "DROP TRIGGER wishes_manaentry_no_change ON wishes_manaentry",
        "ALTER TABLE mana_migration_usermigration DISABLE TRIGGER ALL",
        "ALTER TABLE wishes_wallet DROP CONSTRAINT wishes_wallet_mana_not_negative",
        "DROP INDEX mana_migration_one_live_record",
        "CREATE OR REPLACE FUNCTION wishes_refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "SET session_replication_role = replica",
    ],
)
def test_a_database_that_enforces_less_than_migrate_made_it_is_not_measured(weaken: str) -> None:
    sound = rules_in_force(connection)
    refuse_weakened(sound, rules_in_force(connection), "site")
    try:
        with connection.cursor() as cursor:
            cursor.execute(weaken)
        with pytest.raises(WeakenedError, match="database site does not enforce what it must"):
            refuse_weakened(sound, rules_in_force(connection), "site")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SET session_replication_role = DEFAULT")


@pytest.mark.postgres
@pytest.mark.django_db
def test_no_session_is_handed_out_that_fires_no_triggers(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.fixtures import Stage

    stage = Stage.__new__(Stage)
    parts = {name: value for name, value in connection.get_connection_params().items() if isinstance(value, str | int)}
    connect = psycopg2.connect
    monkeypatch.setattr(
        Stage, "server", type("Server", (), {"url": staticmethod(lambda database: "")})(), raising=False
    )
    monkeypatch.setattr(psycopg2, "connect", lambda url: connect(**parts))
    stage.rules = rules_in_force(connection)
    stage.connect().close()
    monkeypatch.setattr(
        psycopg2, "connect", lambda url: connect(**parts, options="-c session_replication_role=replica")
    )
    with pytest.raises(WeakenedError):
        stage.connect()


def test_a_row_says_whether_its_target_is_missed() -> None:
    assert Row("a", 1, ratio=0.89, least=0.9).missed
    assert not Row("a", 1, ratio=0.9, least=0.9).missed
    assert Row("a", 1, ratio=1.6, most=1.5).missed
    assert not Row("a", 1).missed
    assert "MISSED" in Row("a", 1, ratio=1.6, most=1.5).line()


def test_an_unknown_benchmark_is_named_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--only", "conversion,speed"])
    assert "there is no speed; choose from conversion, evidence, orm" in capsys.readouterr().err


@pytest.mark.postgres
@pytest.mark.slow
def test_a_soak_prints_what_grew() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--minutes", "0", "--users", "120"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 cycle, " in done.stdout
    for name in ("migrate_users --limit 50", "rollback_migration --all", "memory, MiB", "open files"):
        assert name in done.stdout
