"""migrate_users: users that fail, and the breaker that takes a run back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from django.db import connection
from pytest_django import Settings

from mana_migration.models import UserMigration
from tests.factories import make_wallets
from tests.mana_migration.running import (
    balanced,
    cure,
    entries,
    events,
    migrate,
    people,
    refuse_records,
    status,
    told,
    wallet,
)
from tests.support.commands import run_command
from wishes.models import Wallet

pytestmark = pytest.mark.django_db


def test_one_users_error_never_costs_another_and_its_class_is_recorded() -> None:
    keys = people(120)
    refuse_records([keys[7], keys[63]])
    with balanced():
        done = migrate(code=3)
    assert (done["status"], done["users"]["migrated"], done["users"]["failed"]) == ("completed", 118, 2)
    expected = {"postgresql": {"constraint": 2}, "sqlite": {"integrity": 2}}[connection.vendor]
    assert done["errors"] == expected
    for key in (keys[7], keys[63]):
        (record,) = UserMigration.objects.filter(user_id=key)
        assert (record.status, record.error_class, record.error_message) == ("failed", next(iter(expected)), "planted")
        assert wallet(key) == (3, 2, 1, 0, False)


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("state", "error_class"),
    [("23505", "duplicate"), ("22003", "overflow"), ("P0001", "database_error"), ("23503", "integrity")],
)
def test_each_kind_of_error_has_its_class(state: str, error_class: str) -> None:
    keys = people(12)
    refuse_records(keys[:1], state=state)
    with balanced():
        assert migrate(code=3)["errors"] == {error_class: 1}


@pytest.mark.parametrize(
    ("threshold", "failing", "trips"),
    [
        ("10", 10, False),
        ("10", 11, True),
        ("0", 0, False),
        ("0", 1, True),
        ("12.5", 12, False),
        ("12.5", 13, True),
        ("100", 60, False),
    ],
)
def test_the_breaker_trips_above_the_threshold_and_not_at_it(threshold: str, failing: int, trips: bool) -> None:
    keys = people(100)
    refuse_records([0, *keys[100 - failing :]])  # the last ones, so that it is their number that counts
    with balanced():
        done = migrate("--error-threshold", threshold, code=4 if trips else (3 if failing else 0))
    assert done["status"] == ("rolled_back" if trips else "completed")
    assert Wallet.objects.filter(migrated_at__isnull=False).count() == (0 if trips else 100 - failing)


def test_the_breaker_takes_this_run_alone_back() -> None:
    earlier = people(30)
    first = migrate()
    keys = people(100)
    refuse_records(keys[20:40])
    with balanced():
        done = migrate("--batch-size", "10", code=4)
        assert {wallet(key) for key in earlier} == {(0, 0, 0, 1230, True)}
        assert {wallet(key) for key in keys} == {(3, 2, 1, 0, False)}
    assert (status(first["run"]), done["status"]) == ("completed", "rolled_back")
    assert done["rollback"]["status"] == "completed"
    assert done["rollback"]["rolled_back"] == done["users"]["migrated"]
    assert "breaker_tripped" in events(done["run"])
    assert "users attempted" in done["reason"]


def test_the_breaker_looks_as_soon_as_50_were_attempted_even_if_that_batch_was_good() -> None:
    keys = people(400)
    refuse_records(keys[:9])  # 9 of 50 are 18 %, 9 of 400 are not 10 %
    with balanced():
        done = migrate("--batch-size", "10", code=4)
    assert done["users"]["selected"] == 50


def test_the_breaker_holds_until_50_were_attempted() -> None:
    keys = people(300)
    refuse_records(keys[:4])  # all of the first 4, but 8 % of the first 50
    with balanced():
        done = migrate("--batch-size", "2", code=3)
    assert (done["status"], done["users"]["failed"]) == ("completed", 4)


def test_the_breaker_looks_at_the_end_without_a_minimum() -> None:
    keys = people(9)
    refuse_records(keys[:1])
    with balanced():
        done = migrate(code=4)
    assert (done["status"], done["users"]["failed"], done["rollback"]["rolled_back"]) == ("rolled_back", 1, 8)


def test_the_breaker_trips_late_in_a_long_run_by_its_latest_thousand() -> None:
    keys = people(1600)
    refuse_records(keys[1500:])
    with balanced():
        done = migrate("--batch-size", "100", "--error-threshold", "2", code=4)
    assert "latest 1,000" in done["reason"]
    assert 21 <= done["users"]["failed"] <= 23
    assert done["users"]["failed"] * 100 < 2 * done["users"]["selected"]
    assert not Wallet.objects.filter(migrated_at__isnull=False).exists()


def test_no_auto_rollback_stops_and_leaves_what_was_converted() -> None:
    keys = people(100)
    refuse_records(keys[:50:2])
    with balanced():
        done = migrate("--no-auto-rollback", code=4)
    assert done["status"] == "stopped"
    assert done["cause"] == "breaker"
    assert Wallet.objects.filter(migrated_at__isnull=False).count() == done["users"]["migrated"] > 0


def test_users_left_out_on_purpose_do_not_count_for_the_breaker() -> None:
    make_wallets([(-1, 0, 0)] * 40)
    people(20)
    with balanced():
        done = migrate("--skip-invalid", code=3)
    assert (done["status"], done["users"]["skipped"], done["users"]["migrated"]) == ("completed", 40, 20)


def test_users_taken_back_by_the_breaker_migrate_later() -> None:
    keys = people(60)
    refuse_records(keys[:20])
    with balanced():
        migrate(code=4)
        cure()
        done = migrate()
    assert done["users"]["migrated"] == 60
    kinds = [kind for kind, *_ in entries(keys[-1])]
    assert kinds in (["conversion"], ["conversion", "reversal", "conversion"])


def test_users_who_failed_earlier_do_not_keep_the_next_stage_from_starting() -> None:
    keys = people(120)
    refuse_records(keys[:8])
    migrate("--limit", "60", "--error-threshold", "100", code=3)
    with balanced():
        second = migrate("--batch-size", "25", code=3)  # 8 of the first 50 attempted fail again
    assert (second["status"], second["users"]["migrated"], second["users"]["failed"]) == ("completed", 60, 8)
    assert second["failed_again"] == 8


def test_users_who_fail_for_the_first_time_trip_the_breaker_all_the_same() -> None:
    keys = people(120)
    refuse_records(keys[:4])
    migrate("--limit", "60", code=3)
    cure()
    refuse_records([*keys[:4], *keys[60:80]])
    assert migrate("--batch-size", "25", code=4)["status"] == "rolled_back"


def test_users_who_failed_earlier_come_last_so_that_stages_reach_all_others() -> None:
    keys = people(100)
    Wallet.objects.filter(pk__in=keys[:6]).update(green=50)
    failing = [*keys[:6], keys[31], keys[47]]  # more than a stage takes, at the start of the keys' order
    refuse_records(failing)
    stages = []
    with balanced():
        migrate("--limit", "10", "--error-threshold", "100", code=3)
        while Wallet.objects.filter(migrated_at=None).count() > len(failing):
            stage = ("--limit", "10", "--batch-size", "4", "--error-threshold", "100", "--delay", "0")
            expected = told(run_command("migrate_users", *stage, "--dry-run", "--format", "json"))
            done = json.loads(run_command("migrate_users", *stage, "--format", "json").out)
            assert done["users"]["selected"] == expected["users"]["selected"]
            assert done["users"]["failed"] or done["wishes"] == expected["wishes"]
            stages.append((done["users"]["selected"], done.get("failed_again", 0)))
    assert set(stages[:-1]) == {(10, 0)}
    assert set(Wallet.objects.filter(migrated_at=None).values_list("pk", flat=True)) == set(failing)
    cure()
    assert migrate("--limit", "10")["users"]["migrated"] == len(failing)


def test_what_is_logged_says_why_and_the_breakers_rollback_is_in_the_log_of_rollbacks(
    tmp_path: Path, settings: Settings
) -> None:
    settings.MANA_MIGRATION_LOG_DIR = tmp_path
    refuse_records(people(60)[:12])
    done = migrate(code=4)
    lines = {
        path.name.partition("-")[0]: [json.loads(line) for line in path.read_text().splitlines()]
        for path in tmp_path.iterdir()
    }
    of_rollback = [
        kind for kind in lines for line in lines[kind] if line["context"].get("run") == done["rollback"]["run"]
    ]
    assert set(of_rollback) == {"rollback"}
    said = [line["message"] for line in lines["migration"] if line["level"] == "WARN"]
    assert any(message.startswith("batch ") and message.endswith(": planted") for message in said)
    assert all("planted" in message for message in said if message.startswith(("batch ", "record ")))
    assert any(message.startswith("trigger planted on ") for message in said)
