"""rollback_migration: who is taken back, what stays, what is refused."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from mana_migration.models import MigrationRun, UserMigration
from tests.factories import WalletFactory, make_wallets
from tests.mana_migration.running import (
    balanced,
    entries,
    events,
    keys_of,
    migrate,
    people,
    plant,
    records,
    refusal,
    roll_back,
    status,
    wallet,
)
from tests.support.commands import run_command
from tests.support.oracle import assert_books_balance, assert_nothing_changes, endowment
from tests.support.terminal import on_a_terminal
from wishes import services
from wishes.models import ManaEntry, Wallet

pytestmark = pytest.mark.django_db


@pytest.fixture
def migrated() -> list[Any]:
    """Five users who were migrated, worth 1230 mana each."""
    keys = people(5)
    migrate("--batch-size", "2")
    return keys


def spend(key: Any, amount: int) -> None:
    services.spend_mana(key, amount, reference=f"order:{key}:{amount}")


# --- Who --------------------------------------------------------------------------------------------------------------


def test_everything_is_taken_back_exactly(migrated: list[Any]) -> None:
    with balanced():
        done = roll_back("--all")
    assert (done["kind"], done["status"], done["dry_run"]) == ("rollback", "completed", False)
    assert done["users"] == {"selected": 5, "migrated": 0, "rolled_back": 5, "skipped": 0, "failed": 0}
    assert (done["wishes"], done["mana"], done["shortfall"]) == ({"green": 15, "blue": 10, "red": 5}, 6_150, 0)
    for key in migrated:
        assert wallet(key) == (3, 2, 1, 0, False)
        assert entries(key) == [("conversion", 1230, 1230), ("reversal", -1230, 0)]
        (record,) = UserMigration.objects.filter(user_id=key)
        assert (record.status, record.reversal_run_id, record.mana_debited, record.shortfall) == (
            "rolled_back",
            done["run"],
            1230,
            0,
        )
        assert record.reversed_at is not None


def test_a_named_user_is_taken_back_alone(migrated: list[Any]) -> None:
    with balanced():
        done = roll_back("--user-id", f"pk:{migrated[2]}", "--reason", "ticket 9")
    assert done["users"]["rolled_back"] == 1
    assert [wallet(key)[4] for key in migrated] == [True, True, False, True, True]
    assert MigrationRun.objects.get(pk=done["run"]).reason == "ticket 9"


def test_a_run_is_taken_back_and_earlier_ones_stay(migrated: list[Any]) -> None:
    later = people(3)
    second = migrate()
    with balanced():
        done = roll_back("--run", second["run"])
    assert done["users"]["rolled_back"] == 3
    assert all(wallet(key)[4] for key in migrated)
    assert not any(wallet(key)[4] for key in later)
    assert status(second["run"]) == "rolled_back"
    assert "rolled_back" in events(second["run"])
    assert MigrationRun.objects.get(pk=done["run"]).target_run_id == second["run"]


def test_conversions_since_a_moment_are_taken_back(migrated: list[Any]) -> None:
    first = MigrationRun.objects.get()
    moment = timezone.now()
    later = people(2)
    second = migrate()
    with balanced():
        result = run_command("rollback_migration", "--since", moment.isoformat(), "--no-input")
    assert result.code == 0
    assert f"since {moment:%Y-%m-%d %H:%M:%S} UTC" in result.out
    assert all(wallet(key)[4] for key in migrated)
    assert not any(wallet(key)[4] for key in later)
    assert (status(first.pk), status(second["run"])) == ("completed", "rolled_back")


def test_a_date_means_its_start_in_the_configured_time_zone(migrated: list[Any], settings: Any) -> None:
    settings.TIME_ZONE = "Pacific/Kiritimati"
    day = timezone.localtime(timezone.now()).date()
    result = run_command("rollback_migration", "--since", day.isoformat(), "--dry-run")
    assert f"since {day} 00:00:00 +14" in result.out


def test_runs_of_which_nothing_is_left_are_marked_and_others_not(migrated: list[Any]) -> None:
    first = MigrationRun.objects.get().pk
    spent = people(1)
    second = migrate()["run"]
    spend(spent[0], 1)
    roll_back("--all", code=3)
    assert (status(first), status(second)) == ("rolled_back", "completed")
    assert_books_balance()


def test_imported_users_have_no_conversion_to_take_back(migrated: list[Any]) -> None:
    run = MigrationRun.objects.create(
        kind="import", status="completed", rates={"green": 10, "blue": 100, "red": 1000}, finished_at=Now()
    )
    batch = run.batches.create(
        first_user="0", last_user="0", planned=1, status="done", selected=1, migrated=1, folded=True
    )
    key = WalletFactory(green=0, blue=0, red=0, mana=50, migrated_at=timezone.now()).pk
    UserMigration.objects.create(user_id=key, run=run, batch=batch, status="migrated")
    ManaEntry.objects.create(user_id=key, amount=50, balance_after=50, kind="opening", reference=f"opening:{key}")
    before = endowment()
    assert roll_back("--user-id", f"pk:{key}", code=3)["skipped"] == {"opening_balance": 1}
    done = roll_back("--all")
    assert_books_balance(expected=before)
    assert (done["users"]["selected"], done["users"]["rolled_back"]) == (5, 5)
    assert wallet(key) == (0, 0, 0, 50, True)


# --- Shortfalls -------------------------------------------------------------------------------------------------------


def test_what_users_earned_meanwhile_stays_theirs(migrated: list[Any]) -> None:
    services.earn_mana(migrated[0], 400, reference="quest:1")
    services.earn_wishes(migrated[1], "red", 2, reference="quest:2")
    spend(migrated[0], 300)
    with balanced():
        done = roll_back("--all")
    assert done["users"]["rolled_back"] == 5
    assert wallet(migrated[0]) == (3, 2, 1, 100, False)
    assert wallet(migrated[1]) == (3, 2, 1, 2000, False)


def test_wishes_are_added_back_and_never_set(migrated: list[Any]) -> None:
    key = migrated[0]
    roll_back("--user-id", f"pk:{key}")
    services.earn_wishes(key, "green", 4, reference="quest:1")
    with balanced():
        migrate("--user-id", f"pk:{key}")
        roll_back("--user-id", f"pk:{key}")
    assert wallet(key) == (7, 2, 1, 0, False)


def test_a_user_who_spent_the_mana_is_skipped_and_listed(migrated: list[Any]) -> None:
    spend(migrated[1], 30)
    with balanced():
        done = roll_back("--all", code=3)
    assert (done["users"]["rolled_back"], done["users"]["skipped"]) == (4, 1)
    assert (done["skipped"], done["shortfall"], done["status"]) == ({"shortfall": 1}, 0, "completed")
    assert wallet(migrated[1]) == (0, 0, 0, 1200, True)
    record = UserMigration.objects.get(user_id=migrated[1], run=done["run"])
    assert (record.status, record.error_class, record.shortfall, record.mana_before) == (
        "skipped",
        "shortfall",
        30,
        1200,
    )


@pytest.mark.parametrize("policy", [("--on-shortfall", "write-off"), ("--emergency",)])
@pytest.mark.parametrize("spent", [1, 30, 1230])
def test_a_write_off_restores_the_wishes_and_books_the_rest(
    migrated: list[Any], policy: tuple[str, ...], spent: int
) -> None:
    spend(migrated[1], spent)
    with balanced():
        done = roll_back("--all", *policy)
    assert (done["users"]["rolled_back"], done["shortfall"], done["mana"]) == (5, spent, 6_150 - spent)
    assert wallet(migrated[1]) == (3, 2, 1, 0, False)
    record = UserMigration.objects.get(user_id=migrated[1])
    assert (record.mana_debited, record.shortfall) == (1230 - spent, spent)
    reversals = [entry for entry in entries(migrated[1]) if entry[0] == "reversal"]
    assert reversals == ([("reversal", spent - 1230, 0)] if spent < 1230 else [])


def test_a_named_user_may_be_written_off_too(migrated: list[Any]) -> None:
    spend(migrated[0], 1000)
    with balanced():
        assert roll_back("--user-id", f"pk:{migrated[0]}", code=3)["skipped"] == {"shortfall": 1}
        done = roll_back("--user-id", f"pk:{migrated[0]}", "--on-shortfall", "write-off")
    assert (done["mana"], done["shortfall"]) == (230, 1000)


def test_a_user_whose_conversion_was_worth_nothing_is_taken_back_without_an_entry() -> None:
    key = WalletFactory(green=0, blue=0, red=0).pk
    migrate()
    with balanced():
        done = roll_back("--all")
    assert (done["users"]["rolled_back"], done["mana"]) == (1, 0)
    assert (wallet(key)[4], entries(key)) == (False, [])


# --- Records ----------------------------------------------------------------------------------------------------------


def test_no_preserve_logs_deletes_the_records_and_keeps_ledger_and_totals(migrated: list[Any]) -> None:
    run = MigrationRun.objects.get().pk
    with balanced():
        done = roll_back("--all", "--no-preserve-logs")
        assert (done["users"]["rolled_back"], done["mana"]) == (5, 6_150)
        assert not UserMigration.objects.exists()
        assert entries(migrated[0]) == [("conversion", 1230, 1230), ("reversal", -1230, 0)]
        totals = MigrationRun.objects.get(pk=run).folded["totals"]
        assert (totals["migrated"], totals["mana"]) == (5, 6_150)
        assert migrate()["users"]["migrated"] == 5


@pytest.mark.parametrize("keep", ["--preserve-logs", "--no-preserve-logs"])
def test_a_user_who_was_taken_back_migrates_again_and_again(migrated: list[Any], keep: str) -> None:
    with balanced():
        for _ in range(3):
            roll_back("--all", keep)
            assert migrate()["users"]["migrated"] == 5
    assert [kind for kind, *_ in entries(migrated[0])] == ["conversion", "reversal"] * 3 + ["conversion"]


def test_named_records_are_kept_while_a_migration_is_open(migrated: list[Any]) -> None:
    MigrationRun.objects.create(kind="migration", status="running", rates={"green": 10, "blue": 100, "red": 1000})
    with assert_nothing_changes():
        message = refusal(run_command("rollback_migration", "--user-id", f"pk:{migrated[0]}", "--no-preserve-logs"))
    assert "needs the records" in message


# --- Nothing to do ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [("--all",), ("--since", "2024-01-01"), ("--run", "{run}"), ("--user-id", "{user}")])
def test_a_repeated_rollback_says_that_there_is_nothing_to_do(migrated: list[Any], how: tuple[str, ...]) -> None:
    run = MigrationRun.objects.get().pk
    argv = [word.format(run=run, user=f"pk:{migrated[0]}") for word in how]
    roll_back(*argv)
    with assert_nothing_changes():
        result = run_command("rollback_migration", "--no-input", "--format", "json", *argv)
    assert (result.code, json.loads(result.out)["status"]) == (0, "nothing_to_do")


def test_nothing_is_taken_back_where_nobody_was_migrated() -> None:
    key = people(2)[0]
    with assert_nothing_changes():
        for argv in (("--all",), ("--user-id", f"pk:{key}")):
            result = run_command("rollback_migration", *argv, "--no-input")
            assert (result.code, "nothing was changed" in result.out) == (0, True)


def test_a_rollback_with_nothing_to_do_does_not_stop_the_open_migration() -> None:
    run = MigrationRun.objects.create(kind="migration", status="running", rates={"green": 10, "blue": 100, "red": 1000})
    people(1)
    with assert_nothing_changes():
        assert run_command("rollback_migration", "--all", "--no-input").code == 0
    assert status(run.pk) == "running"


def test_some_of_the_named_users_may_be_unmigrated(migrated: list[Any]) -> None:
    new = people(1)[0]
    with balanced():
        done = roll_back("--user-id", f"pk:{new}", "--user-id", f"pk:{migrated[0]}", code=3)
    assert (done["users"]["rolled_back"], done["skipped"]) == (1, {"not_migrated": 1})


@pytest.mark.parametrize("run", [99, "import", "rollback"])
def test_only_a_migration_run_can_be_taken_back(migrated: list[Any], run: Any) -> None:
    if run != 99:
        run = MigrationRun.objects.create(kind=run, status="completed", finished_at=Now()).pk
    with assert_nothing_changes():
        refusal(run_command("rollback_migration", "--run", run, "--no-input"))


@pytest.mark.parametrize(
    "argv", [(), ("--all", "--run", "1"), ("--all", "--since", "2024-01-01"), ("--all", "--user-id", "{user}")]
)
def test_exactly_one_selection_is_taken(migrated: list[Any], argv: tuple[str, ...]) -> None:
    words = [word.format(user=f"pk:{migrated[0]}") for word in argv]
    with assert_nothing_changes():
        message = refusal(run_command("rollback_migration", *words, "--no-input"), code=2)
    assert "exactly one of" in message


# --- Dry run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["--preserve-logs", "--no-preserve-logs"])
@pytest.mark.parametrize("policy", [(), ("--on-shortfall", "write-off"), ("--emergency",)], ids=" ".join)
@pytest.mark.parametrize("who", ["--all", "--since", "--run", "--user-id"])
def test_a_dry_run_changes_nothing_and_promises_what_is_then_done(
    migrated: list[Any], who: str, policy: tuple[str, ...], keep: str
) -> None:
    spend(migrated[1], 30)
    run = MigrationRun.objects.get().pk
    values = {"--all": [], "--since": ["2024-01-01"], "--run": [run], "--user-id": [f"pk:{migrated[1]}"]}
    argv = [who, *values[who], *policy, keep]
    code = 0 if policy else 3
    with assert_nothing_changes():
        promised = roll_back("--dry-run", *argv, code=code)
    assert (promised["dry_run"], promised["run"]) == (True, None)
    assert [row["lacking"] for row in promised["shortfalls"]] == [30]
    with balanced():
        done = roll_back(*argv, code=code)
    for name in ("users", "wishes", "mana", "shortfall", "skipped"):
        assert promised[name] == done[name], name


def test_a_dry_run_says_which_run_it_would_stop_and_does_not_ask(migrated: list[Any]) -> None:
    run = MigrationRun.objects.create(kind="migration", status="running", rates={"green": 10, "blue": 100, "red": 1000})
    with assert_nothing_changes():
        result = run_command("rollback_migration", "--all", "--dry-run")
    assert result.code == 0
    assert f"open migration run {run.pk} would be stopped first" in result.out


@pytest.mark.parametrize("argv", [("--all",), ("--run",), ("--since", "2024-01-01"), ("--user-id",)])
def test_with_nothing_to_roll_back_the_dry_run_and_the_rollback_say_so_and_exit_with_0(
    migrated: list[Any], argv: tuple[str, ...]
) -> None:
    run = MigrationRun.objects.get().pk
    roll_back("--all")
    argv += {"--run": (str(run),), "--user-id": (f"pk:{migrated[0]}",)}.get(argv[0], ())
    with assert_nothing_changes():
        told_ = roll_back(*argv, "--dry-run")
        text = run_command("rollback_migration", *argv, "--dry-run")
        assert told_["blocked"].startswith("nothing to roll back: ")
        assert text.code == 0
        assert f"NOTHING TO DO: {told_['blocked']}; the same command would change nothing" in text.out.splitlines()
        for no_input in ((), ("--no-input",)):  # without a question, too: there is nothing to ask about
            done = run_command("rollback_migration", *argv, *no_input)
            assert (done.code, told_["blocked"] in done.out, done.err) == (0, True, "")


def test_a_dry_run_lists_the_largest_shortfalls_by_record(migrated: list[Any]) -> None:
    for number, key in enumerate(migrated, 1):
        spend(key, number * 100)
    promised = roll_back("--all", "--dry-run", code=3)
    assert [row["lacking"] for row in promised["shortfalls"]] == [500, 400, 300, 200, 100]
    record = UserMigration.objects.get(user_id=migrated[4])
    assert promised["shortfalls"][0] == {"record": record.pk, "credited": 1230, "lacking": 500}


# --- Beside other runs ------------------------------------------------------------------------------------------------


def test_a_mass_rollback_stops_an_open_migration_first(migrated: list[Any]) -> None:
    new = people(4)
    run = MigrationRun.objects.create(
        kind="migration", status="running", rates={"green": 10, "blue": 100, "red": 1000}, host="db-1"
    )
    with balanced():
        done = roll_back("--all", "--reason", "wrong rates")
    assert done["users"]["rolled_back"] == 5
    found = MigrationRun.objects.get(pk=run.pk)
    assert (found.status, found.stop_reason) == ("stopped", "wrong rates")
    assert not any(wallet(key)[4] for key in (*migrated, *new))


def test_a_user_taken_back_during_a_run_is_not_converted_again_by_it(migrated: list[Any]) -> None:
    new = people(2)
    run = MigrationRun.objects.create(
        kind="migration",
        status="running",
        rates={"green": 10, "blue": 100, "red": 1000},
        controls={"delay": 0.0},
        host="db-1",
        expected=2,
    )
    with balanced():
        roll_back("--user-id", f"pk:{migrated[0]}")
        done = migrate(code=3)
    assert done["run"] == run.pk
    assert (done["users"]["migrated"], done["skipped"]) == (2, {"rolled_back_during_run": 1})
    assert wallet(migrated[0]) == (3, 2, 1, 0, False)
    assert records(migrated[0]) == [("rolled_back", ""), ("skipped", "rolled_back_during_run")]
    assert all(wallet(key)[4] for key in new)
    assert migrate()["users"]["migrated"] == 1


def open_rollback(**options: Any) -> MigrationRun:
    frozen = {"users": [], "since": None, "until": None, "run": None, "everything": True, "emergency": False,
              "on_shortfall": "skip", "preserve_logs": True, "breaker": False}  # fmt: skip
    return MigrationRun.objects.create(
        kind="rollback",
        status="running",
        options=frozen | options,
        controls={"batch_size": 2, "delay": 0.0, "error_threshold": "10"},
        host="db-1",
        expected=5,
    )


def test_the_same_command_goes_on_with_an_open_rollback(migrated: list[Any]) -> None:
    run = open_rollback()
    with balanced():
        result = run_command("rollback_migration", "--all", "--no-input")
    assert result.code == 0
    assert f"run {run.pk}, opened " in result.out
    assert status(run.pk) == "completed"
    assert not any(wallet(key)[4] for key in migrated)


def test_a_dry_run_names_the_rollback_that_a_real_one_would_go_on_with(migrated: list[Any]) -> None:
    run = open_rollback()
    with assert_nothing_changes():
        told_ = roll_back("--all", "--dry-run")
        text = run_command("rollback_migration", "--all", "--dry-run")
    assert (told_["goes_on_with"], told_["blocked"]) == (run.pk, "")
    assert text.out.splitlines()[0] == f"RESUMES: the same command resumes run {run.pk}"


def test_an_open_rollback_that_nobody_is_left_for_would_be_gone_on_with(migrated: list[Any]) -> None:
    roll_back("--all")
    run = open_rollback()
    told_ = roll_back("--all", "--dry-run")
    assert (told_["goes_on_with"], told_["blocked"], told_["users"]["selected"]) == (run.pk, "", 0)


@pytest.mark.parametrize("argv", [("--all", "--emergency"), ("--all", "--batch-size", "50"), ("--since", "2024-01-01")])
def test_a_dry_run_says_that_the_open_rollback_would_refuse_these_options(
    migrated: list[Any], argv: tuple[str, ...]
) -> None:
    run = open_rollback()
    with assert_nothing_changes():
        told_ = roll_back(*argv, "--dry-run", code=3)
        text = run_command("rollback_migration", *argv, "--dry-run")
    assert told_["goes_on_with"] is None
    assert f"rollback run {run.pk} is open with other options" in told_["blocked"]
    assert f"REFUSED: {told_['blocked']}" in text.out.splitlines()[:2]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--all", "--emergency"), "emergency is False, not True"),
        (("--all", "--on-shortfall", "write-off"), "on_shortfall is 'skip', not 'write-off'"),
        (("--all", "--no-preserve-logs"), "preserve_logs is True, not False"),
        (("--all", "--batch-size", "50"), "batch_size is 2, not 50"),
        (("--since", "2024-01-01"), "everything is True, not False"),
    ],
)
def test_another_rollback_is_refused_with_both_values(migrated: list[Any], argv: tuple[str, ...], words: str) -> None:
    run = open_rollback()
    with assert_nothing_changes():
        result = run_command("rollback_migration", *argv, "--no-input", "--format", "json")
    assert result.code == 1
    assert words in json.loads(result.out)["error"]["message"]
    assert f"control_migration stop {run.pk}" in result.err


def test_a_paused_rollback_waits_for_its_resume(migrated: list[Any]) -> None:
    run = open_rollback()
    run_command("migrate_users", "--pause")
    assert f"control_migration resume {run.pk}" in refusal(run_command("rollback_migration", "--all", "--no-input"))


def test_the_breakers_rollback_is_gone_on_with_by_either_command() -> None:
    for command in (("migrate_users",), ("rollback_migration", "--run", "{run}", "--no-input")):
        keys = people(4)
        done = migrate()
        MigrationRun.objects.filter(pk=done["run"]).update(status="rolling_back", stop_cause="breaker")
        back = open_rollback(everything=False, run=done["run"], breaker=True)
        MigrationRun.objects.filter(pk=back.pk).update(target_run=done["run"])
        with balanced():
            result = run_command(*(word.format(run=done["run"]) for word in command))
        assert result.code == (4 if command[0] == "migrate_users" else 0), result
        assert (status(done["run"]), status(back.pk)) == ("rolled_back", "completed")
        assert not any(wallet(key)[4] for key in keys)


# --- The check --------------------------------------------------------------------------------------------------------


def test_a_rollback_is_completed_only_after_the_check(migrated: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from mana_migration.services import validation

    original = validation.check_run

    spend(migrated[0], 30)

    def meddle(using: str, run_id: int) -> Any:
        Wallet.objects.filter(pk=migrated[0]).update(mana=5)  # the one who stays migrated
        return original(using, run_id)

    monkeypatch.setattr(validation, "check_run", meddle)
    done = roll_back("--all", code=3)
    assert done["status"] == "failed"
    assert "ledger_mismatch 1" in done["reason"]


def test_mana_that_is_not_in_the_ledger_of_those_taken_back_fails_the_check(
    migrated: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mana_migration.services import validation

    original = validation.check_run

    def meddle(using: str, run_id: int) -> Any:
        Wallet.objects.filter(pk=migrated[0]).update(mana=5)
        return original(using, run_id)

    monkeypatch.setattr(validation, "check_run", meddle)
    done = roll_back("--all", code=3)
    assert (done["status"], done["users"]["rolled_back"]) == ("failed", 5)
    assert "orphaned_mana 1" in done["reason"]


def test_one_users_error_never_costs_another(migrated: list[Any]) -> None:
    plant("UPDATE", f"NEW.user_id = {migrated[3]}")
    with balanced():
        done = roll_back("--all", code=3)
    assert (done["users"]["rolled_back"], done["users"]["failed"], done["status"]) == (4, 1, "completed")
    assert wallet(migrated[3])[4]
    assert records(migrated[3])[-1][0] == "failed"


def test_every_batch_size_ends_alike() -> None:
    keys = keys_of(make_wallets([(number, number % 3, 1) for number in range(30)]))
    before = {key: wallet(key) for key in keys}
    for size in ("1", "7", "100000", "auto"):
        migrate()
        with balanced():
            assert roll_back("--all", "--batch-size", size)["users"]["rolled_back"] == 30
        assert {key: wallet(key) for key in keys} == before


def test_records_of_the_same_moment_as_the_rollback_are_in_it(migrated: list[Any], settings: Any) -> None:
    """The database's clock is asked, so a machine that is behind leaves nobody out."""
    from unittest import mock

    behind = timezone.now() - timedelta(hours=1)
    with mock.patch("django.utils.timezone.now", return_value=behind), balanced():
        assert roll_back("--all")["users"]["rolled_back"] == 5


# --- Asking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_mass_rollback_is_refused_without_a_terminal(migrated: list[Any], form: str) -> None:
    with assert_nothing_changes():
        result = run_command("rollback_migration", "--all", "--format", form)
    assert result.code == 2
    assert "no terminal to ask on: pass --no-input" in result.err
    if form == "json":
        assert json.loads(result.out)["error"]["exit_code"] == 2


@pytest.mark.parametrize("argv", [("--all", "--no-input"), ("--all", "--emergency"), ("--user-id", "{user}")])
def test_these_never_ask(migrated: list[Any], argv: tuple[str, ...]) -> None:
    words = [word.format(user=f"pk:{migrated[0]}") for word in argv]
    assert run_command("rollback_migration", *words).code == 0


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("answer", "code", "back"), [("yes\n", 0, True), ("y\n", 1, False), ("\n", 1, False), ("\x04", 1, False)]
)
def test_a_mass_rollback_asks_on_a_terminal(migrated: list[Any], answer: str, code: int, back: bool) -> None:
    before = endowment()
    shown, ended = on_a_terminal("rollback_migration", "--all", answer=answer)
    assert ended == code, shown
    assert "Roll back 5 users?" in shown
    assert "6,150 debited" in shown
    assert ("not confirmed: nothing was changed" in shown) is not back
    assert wallet(migrated[0])[4] is not back
    assert_books_balance(expected=before)


def test_an_emergency_needs_no_log_and_says_that_it_has_none(tmp_path: Path, settings: Any) -> None:
    make_wallets([(1, 2, 3)])
    assert run_command("migrate_users").code == 0
    (tmp_path / "file").touch()
    settings.MANA_MIGRATION_LOG_DIR = tmp_path / "file" / "logs"
    refused = run_command("rollback_migration", "--all", "--no-input")
    assert (refused.code, "cannot be written (Not a directory)" in refused.err) == (1, True)
    done = run_command("rollback_migration", "--all", "--emergency")
    assert done.code == 0
    assert f"the log folder {tmp_path / 'file' / 'logs'} cannot be written (Not a directory): continuing" in done.err
    assert Wallet.objects.get().green == 1
