"""migrate_users: what is converted, what each option does, what is told."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from mana_migration.models import Checklist, IntegrityFix, MigrationRun, UserMigration
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
from wishes.models import Wallet

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
    assert (second["run"], second["status"]) == (None, "nothing_to_do")
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


def test_a_site_without_users_has_nothing_to_do() -> None:
    with assert_nothing_changes():
        done = run_command("migrate_users")
    assert (done.code, done.out) == (0, "there is no user to migrate: no run was opened, nothing was changed\n")


def test_a_command_given_again_after_its_end_says_which_run_migrated_all() -> None:
    people(2)
    run = migrate()["run"]
    with assert_nothing_changes():
        again = run_command("migrate_users")
    assert again.code == 0
    assert again.out.startswith(f"all 2 users are migrated; run {run} finished ")


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


def test_a_batch_whose_sums_leave_the_range_is_split_and_the_run_stays_exact() -> None:
    red = HIGHEST // 1000
    keys = keys_of(make_wallets([(0, 0, red)] * 7))
    with balanced():
        done = migrate()
        assert (done["users"]["migrated"], done["mana"], done["wishes"]["red"]) == (7, 7 * red * 1000, 7 * red)
        back = roll_back("--all")
        assert (back["users"]["rolled_back"], back["mana"], back["wishes"]["red"]) == (7, 7 * red * 1000, 7 * red)
    assert {wallet(key) for key in keys} == {(0, 0, red, 0, False)}


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
        "no user who failed in an earlier run is left to migrate: no run was opened, nothing was changed\n"
    )
    assert (found["run"], found["status"], found["users"]["selected"]) == (None, "nothing_to_do", 0)
    assert (dry.code, dry.out.splitlines()[0]) == (
        0,
        "NOTHING TO DO: no user who failed in an earlier run is left to migrate; the same command would open no run",
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
            assert refusal_without_terminal.code == 2
            assert "no terminal to ask on" in json.loads(refusal_without_terminal.out)["error"]["message"]
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
    assert "auto-fix corrected 1 finding;" in result.err


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


def test_a_checklist_is_kept_and_binding_where_the_site_wants_one(settings: Any) -> None:
    settings.MANA_MIGRATION_CHECKLIST_HOURS = 8
    WalletFactory()
    assert "only after a checklist" in refusal(run_command("migrate_users"))
    no_go = run_command("migrate_users", "--checklist", "--no-input")
    assert no_go.code == 3
    assert no_go.out.startswith("Checklist before the migration: NO GO: ")
    kept = Checklist.objects.get()
    assert (kept.go, kept.backup) == (False, "")
    assert "says no go" in refusal(run_command("migrate_users"))
    Checklist.objects.update(go=True)
    run = migrate()["run"]
    assert [event.kind for event in MigrationRun.objects.get(pk=run).events.all()][:2] == ["started", "checklist"]
    assert "add --checklist" in refusal(run_command("migrate_users", "--backup", "dump 17"), 2)
