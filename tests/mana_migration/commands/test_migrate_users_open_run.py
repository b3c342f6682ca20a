"""migrate_users: what becomes of a request beside an open run, and how a run is controlled."""

from __future__ import annotations

from typing import Any

import pytest

from mana_migration.domain.results import Totals
from mana_migration.models import MigrationRun, RunEvent, UserMigration
from tests.factories import make_wallets
from tests.mana_migration.history import make_batch
from tests.mana_migration.running import (
    balanced,
    events,
    migrate,
    people,
    refusal,
    status,
    told,
)
from tests.support.commands import run_command
from tests.support.oracle import assert_nothing_changes
from wishes.models import Wallet

pytestmark = pytest.mark.django_db


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
    assert "on db-1, no progress yet: resuming" in result.out
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
        (("--batch-size", "50"), ("batch_size is 5", "not 50", "control_migration set")),
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
    assert told_.out.splitlines()[0] == f"REFUSED: {message.removeprefix('CommandError: ').strip()}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": "paused"}, "is paused; resume it with control_migration resume"),
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
    assert text.out.splitlines()[0] == f"RESUMES: the same command resumes run {open_run.pk}"
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
        f"  run {open_run.pk} is rolling back run {tripped.pk}, whose breaker tripped: the same command resumes it "
        "and converts no user" in text.out.splitlines()
    )


def test_a_dry_run_beside_the_rollback_of_a_tripped_breaker_promises_what_is_then_done(open_run: MigrationRun) -> None:
    people(5)
    tripped = MigrationRun.objects.create(
        kind="migration", status="rolling_back", stop_cause="breaker", rates=open_run.rates
    )
    options = {"everything": False, "run": tripped.pk, "breaker": True}
    MigrationRun.objects.filter(pk=open_run.pk).update(
        kind="rollback", options=options, target_run=tripped, controls={"batch_size": 50, "delay": 0.0}
    )
    promised = told(run_command("migrate_users", "--format", "json", "--dry-run"))
    assert (promised["takes_back"], promised["users"]["selected"], promised["largest"]) == (tripped.pk, 0, [])
    assert promised["expected_seconds"] == 0
    assert told(run_command("migrate_users", "--format", "json"), 4)["users"]["migrated"] == 0
    assert told(run_command("migrate_users", "--format", "json", "--dry-run"))["users"]["migrated"] == 5  # a new run


def test_a_dry_run_promises_that_a_named_user_who_failed_in_the_open_run_is_taken_up(open_run: MigrationRun) -> None:
    (key,) = people(1)
    batch = make_batch(open_run, Totals(selected=1, failed=1))
    UserMigration.objects.create(run=open_run, batch=batch, user_id=key, status="failed", error_class="constraint")
    argv = ("--format", "json", "--user-id", f"pk:{key}")
    promised = told(run_command("migrate_users", *argv, "--dry-run"))
    done = told(run_command("migrate_users", *argv))
    assert promised["users"] == done["users"]
    assert done["users"]["migrated"] == 1


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
        assert f"control_migration resume {open_run.pk}" in refusal(run_command("migrate_users"))


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
    people(1)
    run = migrate()["run"]
    with assert_nothing_changes():
        refused = refusal(run_command("migrate_users", "--pause", run))
        assert f"run {run} is completed and cannot become paused" in refused
        assert "its settings can no longer be changed" in refusal(
            run_command("migrate_users", "--set", "delay=1", "--pause", run)
        )


@pytest.mark.parametrize("argv", [("--pause",), ("--resume",), ("--stop",), ("--set", "delay=1")], ids=" ".join)
def test_without_an_open_run_there_is_nothing_to_control_and_the_latest_is_named(argv: tuple[str, ...]) -> None:
    people(1)
    run = migrate()["run"]
    with assert_nothing_changes():
        refused = refusal(run_command("migrate_users", *argv))
    assert f"no run is open; the latest is run {run}, which is completed" in refused


def test_a_run_that_was_just_stopped_is_stopped_already(open_run: MigrationRun) -> None:
    for told_ in ("is stopped", "is stopped already"):
        assert run_command("migrate_users", "--stop").out == f"run {open_run.pk} {told_}\n"


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
