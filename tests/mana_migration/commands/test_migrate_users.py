"""migrate_users: what is converted, what each option does, what is told."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from mana_migration.models import IntegrityFix, MigrationRun, RunEvent, UserMigration
from tests.factories import UserFactory, WalletFactory, make_wallets
from tests.mana_migration.running import (
    balanced,
    cure,
    entries,
    events,
    keys_of,
    migrate,
    people,
    records,
    refusal,
    refuse_records,
    roll_back,
    status,
    told,
    wallet,
)
from tests.support.commands import run_command
from tests.support.oracle import assert_books_balance, assert_nothing_changes
from wishes import services
from wishes.models import ManaEntry, Wallet

pytestmark = pytest.mark.django_db


# --- The old converter's stated results -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("green", "blue", "red", "mana"),
    [
        (10, 5, 2, 2_600),
        (100, 50, 10, 16_000),
        (1, 0, 0, 10),
        (0, 1, 0, 100),
        (0, 0, 1, 1_000),
        (999_999, 999_999, 999_999, 1_109_998_890),
    ],
)
def test_wishes_become_the_mana_that_they_are_worth(green: int, blue: int, red: int, mana: int) -> None:
    key = WalletFactory(green=green, blue=blue, red=red).pk
    with balanced():
        done = migrate()
    assert done["mana"] == mana
    assert done["wishes"] == {"green": green, "blue": blue, "red": red}
    assert done["users"] == {"selected": 1, "migrated": 1, "rolled_back": 0, "skipped": 0, "failed": 0}
    assert (done["kind"], done["status"], done["dry_run"]) == ("migration", "completed", False)
    assert (done["errors"], done["skipped"], done["shortfall"]) == ({}, {}, 0)
    assert wallet(key) == (0, 0, 0, mana, True)
    assert entries(key) == [("conversion", mana, mana)]


def test_a_user_without_wishes_is_migrated_with_a_record_and_no_ledger_entry() -> None:
    key = WalletFactory(green=0, blue=0, red=0).pk
    with balanced():
        done = migrate()
    assert (done["users"]["migrated"], done["mana"]) == (1, 0)
    assert wallet(key) == (0, 0, 0, 0, True)
    assert entries(key) == []
    record = UserMigration.objects.get(user_id=key)
    assert (record.status, record.mana_credited, record.error_class) == ("migrated", 0, "")


def test_a_batch_of_three_adds_up_and_averages_6200() -> None:
    make_wallets([(10, 5, 2), (100, 50, 10), (0, 0, 0)])
    with balanced():
        done = migrate()
    assert (done["users"]["migrated"], done["mana"]) == (3, 18_600)
    assert done["mana"] / done["users"]["migrated"] == 6_200


def test_migrating_twice_converts_once() -> None:
    key = WalletFactory().pk
    with balanced():
        migrate()
        second = migrate()
    assert (second["users"]["selected"], second["status"]) == (0, "completed")
    assert entries(key) == [("conversion", 1230, 1230)]
    assert records(key) == [("migrated", "")]


def test_mana_that_was_earned_before_is_kept() -> None:
    key = WalletFactory().pk
    services.earn_mana(key, 70, reference="welcome")
    with balanced():
        migrate()
    assert wallet(key) == (0, 0, 0, 1300, True)
    record = UserMigration.objects.get(user_id=key)
    assert (record.mana_before, record.mana_credited, record.green, record.blue, record.red) == (70, 1230, 3, 2, 1)


def test_a_user_without_a_wallet_has_nothing_to_migrate_and_stops_nobody() -> None:
    UserFactory()
    people(2)
    with balanced():
        assert migrate()["users"]["selected"] == 2


def test_a_site_without_users_is_migrated_at_once() -> None:
    done = migrate()
    assert (done["status"], done["users"]["selected"], done["users_per_minute"]) == ("completed", 0, 0)


def test_the_rates_of_the_settings_are_frozen_on_the_run(settings: Any) -> None:
    settings.WISHES_RATES = {"green": 1, "blue": 20, "red": 300}
    people(1)
    with balanced():
        done = migrate()
    assert done["mana"] == 3 + 40 + 300
    assert MigrationRun.objects.get(pk=done["run"]).rates == {"green": 1, "blue": 20, "red": 300}


# --- Named users ------------------------------------------------------------------------------------------------------


def test_a_named_user_is_converted_alone() -> None:
    first, second = people(2)
    with balanced():
        done = migrate("--user-id", f"pk:{first}")
    assert (done["users"]["migrated"], done["status"]) == (1, "completed")
    assert (wallet(first)[4], wallet(second)[4]) == (True, False)


def test_users_are_named_by_username_too_and_several_at_once() -> None:
    keys = people(3)
    name = Wallet.objects.get(pk=keys[1]).user.get_username()
    with balanced():
        done = migrate("--user-id", f"pk:{keys[0]}", "--user-id", name, "--user-id", f"pk:{keys[0]}")
    assert done["users"]["migrated"] == 2
    assert [wallet(key)[4] for key in keys] == [True, True, False]


def test_an_unknown_user_among_the_named_ones_converts_nobody() -> None:
    (key,) = people(1)
    with assert_nothing_changes():
        message = refusal(run_command("migrate_users", "--user-id", f"pk:{key}", "--user-id", "nobody-like-this"))
    assert "nobody-like-this" in message


def test_a_named_user_who_is_migrated_already_is_no_failure() -> None:
    (key,) = people(1)
    with balanced():
        migrate("--user-id", f"pk:{key}")
        done = migrate("--user-id", f"pk:{key}")
    assert (done["users"]["migrated"], done["users"]["skipped"]) == (0, 1)
    assert done["skipped"] == {"already_migrated": 1}
    assert entries(key) == [("conversion", 1230, 1230)]


def test_a_named_user_without_a_wallet_is_told() -> None:
    user = UserFactory()
    with balanced():
        done = migrate("--user-id", f"pk:{user.pk}", code=3)
    assert done["skipped"] == {"no_wallet": 1}
    assert not UserMigration.objects.exists()


def test_a_named_user_who_fails_is_reported_and_costs_no_other() -> None:
    good, bad = people(2)
    refuse_records([bad])
    with balanced():
        done = migrate("--user-id", f"pk:{bad}", "--user-id", f"pk:{good}", code=3)
    assert (done["users"]["migrated"], done["users"]["failed"], done["status"]) == (1, 1, "completed")
    assert sum(done["errors"].values()) == 1
    assert (wallet(good)[4], wallet(bad)[4]) == (True, False)
    assert records(bad)[0][0] == "failed"


def test_named_failures_never_trip_a_breaker() -> None:
    keys = people(60)
    refuse_records(keys)
    with balanced():
        done = migrate(*itertools.chain.from_iterable(("--user-id", f"pk:{key}") for key in keys), code=3)
    assert (done["users"]["failed"], done["status"]) == (60, "completed")


def test_a_named_user_with_a_negative_balance_fails_alone() -> None:
    key = WalletFactory(green=-1).pk
    with balanced():
        done = migrate("--user-id", f"pk:{key}", code=3)
    assert done["errors"] == {"negative_balance": 1}
    assert wallet(key) == (-1, 2, 1, 0, False)


def test_a_named_user_is_fixed_first_if_asked() -> None:
    key, other = WalletFactory(green=-1).pk, WalletFactory(green=-9).pk
    with balanced():
        done = migrate("--user-id", f"pk:{key}", "--auto-fix")
    assert (done["users"]["migrated"], done["mana"]) == (1, 1200)
    assert list(IntegrityFix.objects.values_list("user_id", "run_id")) == [(key, done["run"])]
    assert wallet(other)[0] == -9


def test_a_named_user_whose_mana_no_entry_backs_is_not_converted() -> None:
    key = WalletFactory(mana=77).pk
    with balanced(orphans=[key]):
        done = migrate("--user-id", f"pk:{key}", code=3)
    assert done["errors"] == {"orphaned_mana": 1}
    assert wallet(key) == (3, 2, 1, 77, False)


def test_named_users_are_refused_while_a_rollback_is_open() -> None:
    people(3)
    migrate()
    key = people(1)[0]
    MigrationRun.objects.create(kind="rollback", status="running", options={"everything": True}, host="db-1")
    with assert_nothing_changes():
        assert "rollback run" in refusal(run_command("migrate_users", "--user-id", f"pk:{key}"))


# --- Findings ---------------------------------------------------------------------------------------------------------


def test_error_level_findings_refuse_the_run() -> None:
    people(2)
    WalletFactory(blue=-2)
    WalletFactory(mana=5)
    with assert_nothing_changes():
        message = refusal(run_command("migrate_users"))
    assert "negative_balance 1" in message
    assert "orphaned_mana 1" in message
    assert "--auto-fix" in message


def test_skip_invalid_leaves_those_users_out_with_the_reason() -> None:
    good = people(2)
    negative, orphan = WalletFactory(blue=-2).pk, WalletFactory(mana=5).pk
    huge = WalletFactory(red=2**63 - 1).pk
    with balanced(orphans=[orphan]):
        done = migrate("--skip-invalid", code=3)
    assert (done["status"], done["users"]["migrated"], done["users"]["skipped"]) == ("completed", 2, 3)
    assert done["skipped"] == {"negative_balance": 1, "orphaned_mana": 1, "overflow": 1}
    assert [wallet(key)[4] for key in (*good, negative, orphan, huge)] == [True, True, False, False, False]
    assert records(orphan) == [("skipped", "orphaned_mana")]


def test_auto_fix_clears_what_has_one_answer_and_keeps_before_and_after() -> None:
    people(1)
    negative, orphan = WalletFactory(blue=-2).pk, WalletFactory(mana=5).pk
    with balanced():
        done = migrate("--auto-fix")
        assert (done["status"], done["users"]["migrated"], done["mana"]) == ("completed", 3, 1230 + 1030 + 1230)
    fixes = {fix.user_id: fix for fix in IntegrityFix.objects.filter(run=done["run"])}
    assert (fixes[negative].before["blue"], fixes[negative].after["blue"]) == (-2, 0)
    assert (fixes[orphan].before["mana"], fixes[orphan].after["mana"]) == (5, 0)


def test_auto_fix_refuses_what_it_cannot_clear() -> None:
    WalletFactory(red=2**63 - 1)
    message = run_command("migrate_users", "--auto-fix")
    assert message.code == 1
    assert "overflow 1" in message.err
    assert not MigrationRun.objects.exists()


def test_a_large_conversion_is_pointed_out_and_done() -> None:
    WalletFactory(green=0, blue=0, red=101)
    with balanced():
        findings = {found["id"]: found["count"] for found in migrate("--dry-run")["findings"]}
        assert findings["large_conversion"] == 1
        assert migrate()["mana"] == 101_000


# --- Limits of BIGINT -------------------------------------------------------------------------------------------------

HIGHEST = 2**63 - 1


@pytest.mark.parametrize(
    ("balances", "mana"),
    [
        ((HIGHEST // 10, 0, 0), HIGHEST // 10 * 10),
        ((0, 0, HIGHEST // 1000), HIGHEST // 1000 * 1000),
        ((HIGHEST % 10, 0, HIGHEST // 1000), HIGHEST // 1000 * 1000 + HIGHEST % 10 * 10),
        ((80, 0, HIGHEST // 1000, 7), HIGHEST // 1000 * 1000 + 800),  # 9223372036854775807 exactly
    ],
)
def test_the_largest_balances_are_converted_exactly(balances: tuple[int, ...], mana: int) -> None:
    (made,) = make_wallets([balances[:3]])
    before = balances[3] if len(balances) > 3 else 0
    if before:
        services.earn_mana(made.pk, before, reference="opened")
    with balanced():
        done = migrate()
    assert done["mana"] == mana
    assert wallet(made.pk) == (0, 0, 0, mana + before, True)


@pytest.mark.parametrize(
    "balances",
    [(HIGHEST, 0, 0), (0, HIGHEST, 0), (0, 0, HIGHEST), (HIGHEST, HIGHEST, HIGHEST), (HIGHEST // 10 + 1, 0, 0)],
)
def test_a_worth_beyond_the_limit_is_a_failure_and_never_a_clipped_number(balances: tuple[int, int, int]) -> None:
    good = people(1)[0]
    (made,) = make_wallets([balances])
    with balanced():
        done = migrate("--user-id", f"pk:{made.pk}", "--user-id", f"pk:{good}", code=3)
    assert done["errors"] == {"overflow": 1}
    assert wallet(made.pk) == (*balances, 0, False)
    assert wallet(good)[4]


def test_mana_and_credit_together_beyond_the_limit_are_an_overflow() -> None:
    key = WalletFactory(green=1, blue=0, red=0).pk
    services.earn_mana(key, HIGHEST - 9, reference="opened")
    with balanced():
        assert "overflow 1" in run_command("migrate_users").err
        done = migrate("--user-id", f"pk:{key}", code=3)
    assert done["errors"] == {"overflow": 1}
    assert wallet(key) == (1, 0, 0, HIGHEST - 9, False)


def test_a_batch_whose_sums_leave_the_range_is_halved_and_the_run_stays_exact() -> None:
    red = HIGHEST // 1000
    keys = keys_of(make_wallets([(0, 0, red)] * 7))
    with balanced():
        done = migrate()
        assert (done["users"]["migrated"], done["mana"], done["wishes"]["red"]) == (7, 7 * red * 1000, 7 * red)
        back = roll_back("--all")
        assert (back["users"]["rolled_back"], back["mana"], back["wishes"]["red"]) == (7, 7 * red * 1000, 7 * red)
    assert {wallet(key) for key in keys} == {(0, 0, red, 0, False)}


# --- Dry run ----------------------------------------------------------------------------------------------------------

DRY = [
    (),
    ("--skip-invalid",),
    ("--auto-fix",),
    ("--auto-fix", "--skip-invalid"),
    ("--limit", "3"),
    ("--cohort", "50%"),
    ("--retry-failed",),
    ("--batch-size", "auto", "--error-threshold", "0", "--no-auto-rollback"),
    ("--validate-only",),
]


@pytest.fixture
def town() -> list[Any]:
    """Users in every state that a dry run can meet."""
    done = people(3)
    migrate()
    roll_back("--user-id", f"pk:{done[0]}")
    failing = people(1)
    refuse_records(failing)
    migrate(code=4)  # one of one failed: the breaker's last look
    cure()
    WalletFactory(green=-4)
    WalletFactory(mana=9)
    UserFactory()
    return done + failing + people(4)


@pytest.mark.parametrize("options", DRY, ids=" ".join)
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_dry_run_changes_no_row_of_any_table(town: list[Any], options: tuple[str, ...], form: str) -> None:
    with assert_nothing_changes():
        result = run_command("migrate_users", "--dry-run", "--format", form, *options)
    assert result.code in (0, 3)
    assert result.err == ""
    if form == "json":
        found = told(result, result.code)
        assert (found["dry_run"], found["run"]) == (True, None)


@pytest.mark.parametrize("options", [("--user-id", "{0}"), ("--user-id", "{7}"), ("--user-id", "{7}", "--auto-fix")])
def test_a_dry_run_for_named_users_changes_nothing(town: list[Any], options: tuple[str, ...]) -> None:
    named = [option.format(*(f"pk:{key}" for key in town)) for option in options]
    with assert_nothing_changes():
        found = migrate("--dry-run", *named)
    assert found["users"]["selected"] == 1


def test_a_dry_run_promises_what_the_run_then_does() -> None:
    make_wallets([(number, number % 3, number % 2) for number in range(137)])
    WalletFactory(green=-1)
    promised = migrate("--dry-run", "--skip-invalid")
    with balanced():
        done = migrate("--skip-invalid", "--batch-size", "10", code=3)
    for name in ("users", "wishes", "mana", "errors", "skipped"):
        assert promised[name] == done[name], name


@pytest.mark.parametrize("options", [(), ("--auto-fix",), ("--limit", "2"), ("--cohort", "30%")], ids=" ".join)
def test_a_dry_run_promises_what_each_option_does(options: tuple[str, ...]) -> None:
    make_wallets([(number, 2, 1) for number in range(40)])
    if options == ("--auto-fix",):
        WalletFactory(red=-1)
    promised = migrate("--dry-run", *options)
    with balanced():
        done = migrate(*options)
    assert [promised[name] for name in ("users", "wishes", "mana")] == [
        done[name] for name in ("users", "wishes", "mana")
    ]


def test_a_dry_run_that_is_blocked_says_so_with_exit_code_3() -> None:
    WalletFactory(green=-1)
    found = migrate("--dry-run", code=3)
    assert "--skip-invalid" in found["blocked"]
    assert {finding["id"]: finding["count"] for finding in found["findings"]}["negative_balance"] == 1


def test_a_dry_run_says_that_other_rates_would_be_refused(settings: Any) -> None:
    make_wallets([(1, 0, 0), (2, 0, 0)])
    migrate("--limit", "1")
    settings.WISHES_RATES = {"green": 11, "blue": 100, "red": 1000}
    assert "10/100/1000, the rates in force are 11/100/1000" in migrate("--dry-run", code=3)["blocked"]


def test_a_dry_run_lists_the_largest_conversions_and_the_expected_duration() -> None:
    keys = keys_of(make_wallets([(0, 0, number) for number in range(12)]))
    found = migrate("--dry-run")
    assert found["largest"][0] == {"user": str(keys[-1]), "green": 0, "blue": 0, "red": 11, "mana": 11_000}
    assert [row["red"] for row in found["largest"]] == [11, 10, 9, 8, 7, 6, 5, 4, 3, 2]
    assert found["expected_seconds"] >= 0
    assert found["expected_rate"]["users_per_second"] > 0
    lines = run_command("migrate_users", "--dry-run").out
    for words in ("nothing was written", "largest conversions", "duration", "findings:", "without --dry-run"):
        assert words in lines


def test_validate_only_runs_the_checks_and_nothing_else() -> None:
    people(2)
    WalletFactory(green=-1)
    with assert_nothing_changes():
        found = migrate("--validate-only", code=3)
    assert found["largest"] == []
    assert {finding["id"] for finding in found["findings"]} >= {"negative_balance", "overflow", "no_wallet"}


def test_validate_only_is_content_with_a_clean_database() -> None:
    people(2)
    assert migrate("--validate-only")["blocked"] == ""


@pytest.mark.postgres
def test_postgresql_itself_refuses_to_write_in_a_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from mana_migration.services import validation

    people(2)
    original = validation.precheck

    def writing(using: str) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE wishes_wallet SET green = green + 1")
        return original(using)

    monkeypatch.setattr(validation, "precheck", writing)
    with assert_nothing_changes():
        result = run_command("migrate_users", "--dry-run")
    assert result.code == 1
    assert "read-only transaction" in result.err


# --- Stages -----------------------------------------------------------------------------------------------------------


def test_limit_converts_that_many_and_the_next_run_goes_on() -> None:
    keys = people(25)
    with balanced():
        first = migrate("--limit", "10", "--batch-size", "4")
        assert (first["users"]["migrated"], first["status"]) == (10, "completed")
        assert [wallet(key)[4] for key in keys] == [True] * 10 + [False] * 15
        second = migrate("--limit", "10")
        third = migrate()
    assert [second["users"]["migrated"], third["users"]["migrated"]] == [10, 5]


def test_a_cohort_is_the_same_users_each_time_and_grows_with_its_share() -> None:
    people(300)
    with balanced():
        share = migrate("--dry-run", "--cohort", "20%")["users"]["selected"]
        assert 20 < share < 110
        assert migrate("--cohort", "20%")["users"]["migrated"] == share
        assert migrate("--cohort", "20%")["users"]["migrated"] == 0
        larger = migrate("--cohort", "50%")["users"]["migrated"]
        assert 90 < share + larger < 220
        assert migrate("--cohort", "100%")["users"]["migrated"] == 300 - share - larger


@pytest.mark.parametrize("also", [(), ("--auto-fix",), ("--limit", "3"), ("--cohort", "50%")])
def test_retry_failed_opens_no_run_where_nobody_failed(also: tuple[str, ...]) -> None:
    people(3)  # not migrated, but they never failed either
    with assert_nothing_changes():
        told_ = run_command("migrate_users", "--retry-failed", *also)
        found = migrate("--retry-failed", *also)
        dry = run_command("migrate_users", "--retry-failed", *also, "--dry-run")
    assert (told_.code, told_.err) == (0, "")
    assert told_.out == (
        "nobody who failed in an earlier run is left to be migrated: no run was opened, nothing was changed\n"
    )
    assert (found["run"], found["status"], found["users"]["selected"]) == (None, "nothing_to_do", 0)
    assert (dry.code, dry.out.splitlines()[-1]) == (
        0,
        "nobody who failed in an earlier run is left to be migrated: the same command would open no run",
    )


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_retry_failed_opens_no_run_with_several_workers_either() -> None:
    people(3)
    done = run_command("migrate_users", "--retry-failed", "--workers", "2")
    assert (done.code, MigrationRun.objects.count()) == (0, 0)
    assert "no run was opened" in done.out


def test_retry_failed_expects_those_who_failed_and_not_everybody() -> None:
    keys = people(200)
    refuse_records(keys[:3])
    migrate("--limit", "100", code=3)
    cure()
    assert "is open on" in run_command("migrate_users", "--retry-failed", "--limit", "50").out
    assert MigrationRun.objects.latest("id").expected == 3


def test_retry_failed_takes_up_those_who_failed_and_nobody_else() -> None:
    keys = people(20)
    refuse_records(keys[:1])
    assert migrate(code=3)["users"]["failed"] == 1
    cure()
    new = people(2)
    with balanced():
        done = migrate("--retry-failed")
        assert (done["users"]["selected"], done["users"]["migrated"]) == (1, 1)
    assert records(keys[0])[0][0] == "failed"
    assert wallet(keys[0])[4]
    assert not any(wallet(key)[4] for key in new)


def test_a_plain_run_takes_up_those_who_failed_as_well() -> None:
    keys = people(20)
    refuse_records(keys[:1])
    with balanced():
        migrate(code=3)
        cure()
        assert migrate()["users"]["migrated"] == 1


# --- Failures and the breaker -----------------------------------------------------------------------------------------


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
    assert done["reason"].startswith("breaker tripped")
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


# --- Rates ------------------------------------------------------------------------------------------------------------


def test_other_rates_are_refused_while_conversions_at_the_old_ones_live(settings: Any) -> None:
    keys = people(3)
    migrate("--user-id", f"pk:{keys[0]}")
    settings.WISHES_RATES = {"green": 10, "blue": 100, "red": 999}
    with assert_nothing_changes():
        for argv in ((), ("--user-id", f"pk:{keys[1]}")):
            message = refusal(run_command("migrate_users", *argv))
            assert "10/100/1000" in message
            assert "10/100/999" in message


def test_a_later_run_without_users_does_not_hide_the_old_rates(settings: Any) -> None:
    people(1)
    migrate()
    settings.WISHES_RATES = None
    migrate()
    settings.WISHES_RATES = {"green": 11, "blue": 100, "red": 1000}
    refusal(run_command("migrate_users"))


@pytest.mark.parametrize("how", [("--all",), ("--since", "2020-01-01")])
def test_other_rates_are_fine_once_everything_was_taken_back(settings: Any, how: tuple[str, ...]) -> None:
    people(3)
    first = migrate()["run"]
    roll_back(*how)
    assert status(first) == "rolled_back"
    settings.WISHES_RATES = {"green": 1, "blue": 1, "red": 1}
    assert migrate()["mana"] == 3 * 6
    assert_books_balance()


# --- An open run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def open_run() -> MigrationRun:
    """A run that was left open: nobody works on it."""
    return MigrationRun.objects.create(
        kind="migration",
        status="running",
        options={"limit": 20, "skip_invalid": False, "retry_failed": False, "cohort": None, "auto_rollback": True,
                 "users": [], "plan_digest": "", "auto_fix": False},
        rates={"green": 10, "blue": 100, "red": 1000},
        controls={"batch_size": 5, "delay": 0.0, "error_threshold": "25"},
        actor="olga",
        host="db-1",
        expected=20,
    )  # fmt: skip


def test_the_same_command_goes_on_with_the_open_run_and_says_so(open_run: MigrationRun) -> None:
    people(30)
    with balanced():
        result = run_command("migrate_users", "--limit", "20")
    assert result.code == 0
    assert f"run {open_run.pk}, opened " in result.out
    assert "on db-1, last progress not yet: going on" in result.out
    assert status(open_run.pk) == "completed"
    assert Wallet.objects.filter(migrated_at__isnull=False).count() == 20
    assert "joined" in events(open_run.pk)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--limit", "21"), ("limit is 20", "not 21")),
        (("--cohort", "5%"), ("cohort is None", "not 500")),
        (("--skip-invalid",), ("skip_invalid is False", "not True")),
        (("--retry-failed",), ("retry_failed is False", "not True")),
        (("--no-auto-rollback",), ("auto_rollback is True", "not False")),
        (("--batch-size", "50"), ("batch_size is 5", "not 50", "--set")),
        (("--error-threshold", "10"), ("error_threshold is '25'", "not '10'")),
        (("--delay", "auto"), ("delay is 0.0", "not 'auto'")),
        (("--batch-size", "6", "--limit", "21"), ("batch_size is 5", "limit is 20")),
    ],
)
def test_options_that_contradict_the_open_run_are_refused_with_both_values(
    open_run: MigrationRun, argv: tuple[str, ...], words: tuple[str, ...]
) -> None:
    with assert_nothing_changes():
        message = refusal(run_command("migrate_users", *argv))
    for word in words:
        assert word in message


@pytest.mark.parametrize("argv", [("--limit", "21"), ("--batch-size", "50"), ("--skip-invalid",)])
def test_a_dry_run_says_that_the_open_run_would_refuse_these_options(
    open_run: MigrationRun, argv: tuple[str, ...]
) -> None:
    people(3)
    with assert_nothing_changes():
        told_ = run_command("migrate_users", "--dry-run", *argv)
        message = refusal(run_command("migrate_users", *argv))
    assert told_.code == 3
    assert told_.out.splitlines()[-1] == f"the run would be refused: {message.removeprefix('CommandError: ').strip()}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": "paused"}, "is paused; let it go on with migrate_users --resume"),
        ({"kind": "rollback", "options": {"everything": True}}, "is running since"),
    ],
)
def test_a_dry_run_says_that_a_run_would_be_refused_beside_the_open_one(
    open_run: MigrationRun, change: dict[str, Any], words: str
) -> None:
    MigrationRun.objects.filter(pk=open_run.pk).update(**change)
    people(3)
    with assert_nothing_changes():
        told_ = told(run_command("migrate_users", "--format", "json", "--dry-run"), 3)
        refused = refusal(run_command("migrate_users"))
    assert told_["goes_on_with"] is None
    assert words in told_["blocked"]
    assert told_["blocked"] in refused


def test_a_dry_run_names_the_run_that_a_real_one_would_go_on_with_whatever_the_findings(open_run: MigrationRun) -> None:
    make_wallets([(-1, 0, 0)])  # came up after the run was opened, which passed its checks
    with assert_nothing_changes():
        text = run_command("migrate_users", "--dry-run", "--limit", "20")
        told_ = told(run_command("migrate_users", "--format", "json", "--dry-run", "--limit", "20"), 3)  # that user
    assert f"  run {open_run.pk} is open: the same command goes on with it" in text.out.splitlines()
    assert (told_["goes_on_with"], told_["blocked"]) == (open_run.pk, "")


def test_a_dry_run_names_the_rollback_of_a_tripped_breaker_that_a_real_one_would_go_on_with(
    open_run: MigrationRun,
) -> None:
    tripped = MigrationRun.objects.create(kind="migration", status="rolling_back")
    options = {"everything": False, "run": tripped.pk, "breaker": True}
    MigrationRun.objects.filter(pk=open_run.pk).update(kind="rollback", options=options, target_run=tripped)
    with assert_nothing_changes():
        text = run_command("migrate_users", "--dry-run")
    assert text.code == 0
    assert (
        f"  run {open_run.pk} takes run {tripped.pk} back, whose breaker tripped: the same command goes on with it"
        in text.out.splitlines()
    )


def test_a_dry_run_of_named_users_minds_an_open_rollback_only(open_run: MigrationRun) -> None:
    (key,) = people(1)
    assert (
        told(run_command("migrate_users", "--format", "json", "--dry-run", "--user-id", f"pk:{key}"))["blocked"] == ""
    )
    MigrationRun.objects.filter(pk=open_run.pk).update(kind="rollback", options={"everything": True})
    result = run_command("migrate_users", "--format", "json", "--dry-run", "--user-id", f"pk:{key}")
    assert "is running since" in told(result, 3)["blocked"]


def test_options_that_agree_with_the_open_run_go_on_with_it(open_run: MigrationRun) -> None:
    people(3)
    argv = ("--batch-size", "5", "--error-threshold", "25.0", "--limit", "20")
    assert run_command("migrate_users", *argv).code == 0
    assert status(open_run.pk) == "completed"


def test_other_rates_contradict_the_open_run(open_run: MigrationRun, settings: Any) -> None:
    settings.WISHES_RATES = {"green": 1, "blue": 1, "red": 1}
    assert "10/100/1000, not 1/1/1" in refusal(run_command("migrate_users"))


def test_a_paused_run_is_not_gone_on_with(open_run: MigrationRun) -> None:
    run_command("migrate_users", "--pause")
    with assert_nothing_changes():
        assert f"--resume {open_run.pk}" in refusal(run_command("migrate_users"))


def test_a_migration_is_refused_while_a_rollback_is_open(open_run: MigrationRun) -> None:
    MigrationRun.objects.filter(pk=open_run.pk).update(kind="rollback", options={"everything": True})
    with assert_nothing_changes():
        message = refusal(run_command("migrate_users"))
    assert f"rollback run {open_run.pk} is running" in message


def test_a_run_that_was_being_checked_is_checked_again(open_run: MigrationRun) -> None:
    MigrationRun.objects.filter(pk=open_run.pk).update(status="checking")
    assert migrate_plain() == 0
    assert status(open_run.pk) == "completed"


def migrate_plain() -> int:
    return run_command("migrate_users").code


# --- Control ----------------------------------------------------------------------------------------------------------


def test_pause_resume_and_stop_are_recorded_with_who_and_why(open_run: MigrationRun) -> None:
    assert "is paused" in run_command("migrate_users", "--pause", "--reason", "backup").out
    assert "is paused already" in run_command("migrate_users", "--pause", open_run.pk).out
    assert "is running" in run_command("migrate_users", "--resume", "--reason", "backup done").out
    assert "is stopped" in run_command("migrate_users", "--stop", open_run.pk, "--reason", "enough").out
    noted = RunEvent.objects.filter(run=open_run).order_by("id").values_list("kind", "message", "actor")
    actor = noted[0][2]
    assert actor
    assert list(noted) == [("paused", "backup", actor), ("resumed", "backup done", actor), ("stopped", "enough", actor)]
    run = MigrationRun.objects.get(pk=open_run.pk)
    assert (run.status, run.stop_reason, run.finished_at is not None) == ("stopped", "enough", True)


def test_settings_of_an_open_run_are_changed_and_recorded_with_old_and_new(open_run: MigrationRun) -> None:
    argv = ("--set", "batch_size=7", "--set", "delay=auto", "--set", "error-threshold=2.5", "--reason", "slow disk")
    found = told(run_command("migrate_users", *argv, "--format", "json"))
    assert found["controls"] == {"batch_size": 7, "delay": "auto", "error_threshold": "2.5"}
    noted = RunEvent.objects.filter(run=open_run, kind="setting_changed").order_by("id")
    assert [event.details for event in noted] == [
        {"setting": "batch_size", "old": 5, "new": 7},
        {"setting": "delay", "old": 0.0, "new": "auto"},
        {"setting": "error_threshold", "old": "25", "new": "2.5"},
    ]
    assert {(event.message, bool(event.actor)) for event in noted} == {("slow disk", True)}


@pytest.mark.parametrize(
    "argv",
    [("--set", "batch_size=0"), ("--set", "delay=-1"), ("--set", "error_threshold=101"), ("--set", "limit=5"),
     ("--set", "delay"), ("--pause", "0"), ("--pause", "x"), ("--pause", "--resume")],
    ids=" ".join,
)  # fmt: skip
def test_bad_controls_are_refused(open_run: MigrationRun, argv: tuple[str, ...]) -> None:
    with assert_nothing_changes():
        refusal(run_command("migrate_users", *argv), code=2)


def test_a_closed_run_cannot_be_controlled() -> None:
    run = migrate()["run"]
    with assert_nothing_changes():
        assert f"run {run} is completed and cannot become paused" in refusal(run_command("migrate_users", "--pause"))
        assert "its settings are history" in refusal(run_command("migrate_users", "--set", "delay=1"))


def test_control_without_any_run_is_refused() -> None:
    assert "there is no run" in refusal(run_command("migrate_users", "--stop"))
    assert "there is no run 99" in refusal(run_command("migrate_users", "--stop", 99))


@pytest.mark.parametrize(
    "argv",
    [
        ("--pause", "--dry-run"),
        ("--stop", "--limit", "5"),
        ("--set", "delay=1", "--user-id", "1"),
        ("--resume", "--batch-size", "5"),
        ("--rollback", "--limit", "5"),
        ("--rollback", "--skip-invalid"),
        ("--rollback", "--validate-only"),
        ("--plan", "x", "--dry-run"),
        ("--plan", "x", "--save-plan", "y"),
        ("--save-plan", "y"),
        ("--user-id", "1", "--limit", "5"),
        ("--user-id", "1", "--cohort", "5%"),
        ("--user-id", "1", "--retry-failed"),
    ],
    ids=" ".join,
)
def test_options_without_a_meaning_beside_one_another_are_bad_usage(argv: tuple[str, ...]) -> None:
    with assert_nothing_changes():
        refusal(run_command("migrate_users", *argv), code=2)


# --- The rest ---------------------------------------------------------------------------------------------------------


def test_the_reason_is_kept_with_the_run() -> None:
    (key,) = people(1)
    assert MigrationRun.objects.get(pk=migrate("--reason", "launch day")["run"]).reason == "launch day"
    done = migrate("--user-id", f"pk:{key}", "--reason", "ticket 7")
    assert MigrationRun.objects.get(pk=done["run"]).reason == "ticket 7"


def test_rollback_takes_named_users_or_everybody_back() -> None:
    keys = people(5)
    with balanced():
        migrate()
        told(run_command("migrate_users", "--rollback", "--user-id", f"pk:{keys[0]}", "--format", "json"))
        assert [wallet(key)[4] for key in keys] == [False, True, True, True, True]
        with assert_nothing_changes():
            found = told(run_command("migrate_users", "--rollback", "--dry-run", "--format", "json"))
            assert (found["kind"], found["users"]["rolled_back"]) == ("rollback", 4)
            refusal_without_terminal = run_command("migrate_users", "--rollback", "--format", "json")
            assert (refusal_without_terminal.code, refusal_without_terminal.out) == (2, "")
        done = told(run_command("migrate_users", "--rollback", "--no-input", "--batch-size", 2, "--format", "json"))
        assert (done["kind"], done["users"]["rolled_back"], done["status"]) == ("rollback", 4, "completed")
    assert MigrationRun.objects.get(pk=done["run"]).controls["batch_size"] == 2


def test_text_tells_the_outcome_line_by_line() -> None:
    people(2)
    result = run_command("migrate_users")
    assert result.code == 0
    for line in ("  users      2 handled", "  migrated   2", "  mana       2,460 credited"):
        assert line in result.out.splitlines()
    assert result.err == ""


def test_json_is_alone_on_stdout_whatever_is_noticed() -> None:
    people(2)
    WalletFactory(green=-1)
    result = run_command("migrate_users", "--auto-fix", "--format", "json")
    assert json.loads(result.out)["users"]["migrated"] == 3
    assert "auto-fix changed 1 findings" in result.err


def test_a_run_is_completed_only_after_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = people(4)
    from mana_migration.services import validation

    original = validation.check_run

    def meddle(using: str, run_id: int) -> Any:
        Wallet.objects.filter(pk=keys[0]).update(mana=5)  # as somebody might, between the last batch and the check
        return original(using, run_id)

    monkeypatch.setattr(validation, "check_run", meddle)
    done = migrate(code=3)
    assert done["status"] == "failed"
    assert "ledger_mismatch 1" in done["reason"]
    assert events(done["run"])[-2:] == ["checked", "finished"]


@pytest.mark.parametrize("size", ["1", "7", "100000", "auto"])
def test_every_batch_size_ends_alike(size: str) -> None:
    make_wallets([(number, number % 5, number % 3) for number in range(40)])
    with balanced():
        done = migrate("--batch-size", size)
    assert (done["users"]["migrated"], done["wishes"]) == (40, {"green": 780, "blue": 80, "red": 39})
    assert done["mana"] == 7_800 + 8_000 + 39_000


# --- Plans ------------------------------------------------------------------------------------------------------------


def save(path: Path, *argv: str) -> dict[str, Any]:
    return migrate("--dry-run", "--save-plan", path, *argv)


def test_a_plan_is_executed_as_promised(tmp_path: Path) -> None:
    people(12)
    plan = tmp_path / "plan.json"
    save(plan, "--limit", "10", "--batch-size", "3")
    with balanced():
        done = told(run_command("migrate_users", "--plan", plan, "--format", "json"))
    assert done["users"]["migrated"] == 10
    assert set(done["drift"].values()) == {0}
    assert done["plan"] == json.loads(plan.read_text())["digest"]
    assert MigrationRun.objects.get(pk=done["run"]).controls["batch_size"] == 3
    assert ManaEntry.objects.count() == 10


def test_drift_of_balances_is_reported_in_json_and_in_words(tmp_path: Path) -> None:
    keys = people(3)
    plan = tmp_path / "plan.json"
    save(plan)
    services.earn_wishes(keys[0], "red", 2, reference="quest")
    WalletFactory(green=1, blue=0, red=0)
    with balanced():
        result = run_command("migrate_users", "--plan", plan)
    assert "against the promise" in result.out
    assert "mana +2,010" in result.out
    assert "red +2" in result.out
    assert "selected +1" in result.out


def test_a_plan_is_not_written_over_a_file(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text("mine")
    assert "exists already" in run_command("migrate_users", "--dry-run", "--save-plan", plan).err
    assert plan.read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda document: document["promise"].update(mana=1), "was changed since it was written"),
        (lambda document: document.update(digest="0" * 64), "was changed since it was written"),
        (lambda document: document.update(mana_migration_plan=2), "version 2"),
        (lambda document: document.pop("promise"), "is no plan"),
    ],
    ids=["promise", "digest", "version", "nothing"],
)
def test_a_changed_plan_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    people(1)
    plan = tmp_path / "plan.json"
    save(plan)
    document = json.loads(plan.read_text())
    change(document)
    plan.write_text(json.dumps(document))
    with assert_nothing_changes():
        assert words in refusal(run_command("migrate_users", "--plan", plan))


def test_a_plan_that_is_none_is_refused(tmp_path: Path) -> None:
    for content in ("", "[]", "null", '"plan"', "\x00"):
        (tmp_path / "plan").write_text(content)
        assert "is no plan" in refusal(run_command("migrate_users", "--plan", tmp_path / "plan"))
    assert "is no plan" in refusal(run_command("migrate_users", "--plan", tmp_path / "missing"))
    assert "is no plan" in refusal(run_command("migrate_users", "--plan", tmp_path))


def test_changed_findings_and_rates_refuse_a_plan(tmp_path: Path, settings: Any) -> None:
    people(2)
    plan = tmp_path / "plan.json"
    save(plan)
    bad = WalletFactory(green=-1)
    with assert_nothing_changes():
        message = refusal(run_command("migrate_users", "--plan", plan))
    assert "findings" in message
    assert '"negative_balance": 1' in message
    Wallet.objects.filter(pk=bad.pk).update(green=0)
    settings.WISHES_RATES = {"green": 10, "blue": 100, "red": 1001}
    assert '"red": 1001' in refusal(run_command("migrate_users", "--plan", plan))


@pytest.mark.parametrize("argv", [("--limit", "5"), ("--batch-size", "50"), ("--skip-invalid",), ("--delay", "1")])
def test_options_that_contradict_a_plan_are_refused(tmp_path: Path, argv: tuple[str, ...]) -> None:
    people(2)
    plan = tmp_path / "plan.json"
    save(plan, "--limit", "1", "--batch-size", "20")
    with assert_nothing_changes():
        refusal(run_command("migrate_users", "--plan", plan, *argv))


def test_a_plan_that_fixes_findings_is_gone_on_with_after_a_crash(tmp_path: Path) -> None:
    people(3)
    WalletFactory(green=-1)
    plan = tmp_path / "plan.json"
    save(plan, "--auto-fix")
    run = told(run_command("migrate_users", "--plan", plan, "--format", "json"))["run"]
    people(2)
    MigrationRun.objects.filter(pk=run).update(status="running")  # as if it had been killed on the way
    done = told(run_command("migrate_users", "--plan", plan, "--format", "json"))
    assert (done["run"], done["status"], done["users"]["migrated"]) == (run, "completed", 6)
