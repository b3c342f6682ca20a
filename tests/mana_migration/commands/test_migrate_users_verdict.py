"""The verdict of a dry run comes first and is the run's own; auto-fix changes nothing in a run that is refused."""

from __future__ import annotations

import pytest
from django.db import connection
from pytest_django import Settings

from mana_migration.models import IntegrityFix, MigrationRun
from tests.factories import UserFactory, make_wallets
from tests.mana_migration.running import migrate, refusal, told
from tests.support.commands import answering, run_command
from tests.support.oracle import assert_nothing_changes
from wishes.models import Wallet

pytestmark = pytest.mark.django_db(transaction=True)

OVERFLOW = (0, 0, 2**63 - 1)


def dirty(*, overflow: bool = True) -> None:
    """Create five users, a debt, mana without entries and, if asked, a balance beyond the limit."""
    make_wallets([(5, 0, 0)] * 5 + [(-35, 0, 0), (0, 0, 0, 2500)] + [OVERFLOW] * overflow)


def head(*argv: str, lines: int = 3) -> list[str]:
    return run_command("migrate_users", "--dry-run", *argv).out.splitlines()[:lines]


def test_a_refused_run_is_foretold_with_its_cost_and_changes_nothing() -> None:
    dirty()
    with assert_nothing_changes():
        assert head("--auto-fix") == [
            "REFUSED: 1 error-level finding blocks the run (overflow 1); "
            "validate_migration --pre-migration lists it, --skip-invalid leaves that user out",
            "Plan: 7 of 8 users to migrate, 1 would fail",
            "Auto-fix would change 2 users: 35 green of debt cancelled, 2,500 mana written off",
        ]
        assert "blocks the run (overflow 1)" in refusal(run_command("migrate_users", "--auto-fix"))
    assert not IntegrityFix.objects.exists()


def test_a_run_that_auto_fix_makes_possible_starts() -> None:
    dirty(overflow=False)
    assert head("--auto-fix")[:2] == ["STARTS: nothing blocks the run", "Plan: 7 of 7 users to migrate"]
    assert migrate("--auto-fix")["users"]["migrated"] == 7


def test_what_is_wrong_with_other_users_does_not_block_a_stage() -> None:
    make_wallets([(5, 0, 0)] * 3 + [OVERFLOW])
    (first, *_) = head("--auto-fix", "--limit", "3")
    assert first == "STARTS: nothing blocks the run"
    assert migrate("--auto-fix", "--limit", 3)["users"]["migrated"] == 3


def test_an_empty_site_and_an_open_run_have_verdicts_of_their_own() -> None:
    assert head(lines=1) == ["NOTHING TO DO: no user is left to be migrated; the same command would open no run"]
    make_wallets([(5, 0, 0)])
    run = MigrationRun.objects.create(kind="migration", status="running", rates={"green": 10, "blue": 100, "red": 1000})
    assert head(lines=1) == [f"RESUMES: the same command resumes run {run.pk}"]
    MigrationRun.objects.update(status="paused")
    assert head(lines=1)[0].startswith(f"REFUSED: run {run.pk} is paused")


def test_validate_only_with_auto_fix_fixes_records_and_validates_again() -> None:
    dirty()
    result = run_command("migrate_users", "--validate-only", "--auto-fix")
    assert result.code == 3
    assert result.out.splitlines()[0].startswith("auto-fix corrected 2 findings")
    assert "1 error-level finding" in result.out
    assert IntegrityFix.objects.values("user").distinct().count() == 2
    assert not Wallet.objects.filter(green__lt=0).exists()
    assert not Wallet.objects.filter(migrated_at__isnull=False).exists()
    Wallet.objects.filter(red__gt=0).update(red=0)
    again = run_command("migrate_users", "--validate-only", "--auto-fix")
    assert (again.code, again.out.splitlines()[0]) == (0, "auto-fix found nothing that it could correct")


def test_a_fix_that_could_be_made_is_advised_and_no_other() -> None:
    make_wallets([(-1, 0, 0), (-2, 0, 0)])
    assert head(lines=1)[0].endswith(
        "lists them, --auto-fix corrects what has one right answer, --skip-invalid leaves those users out"
    )
    make_wallets([OVERFLOW])
    result = run_command("migrate_users", "--validate-only", "--auto-fix")
    assert "--auto-fix corrects" not in result.out


@pytest.mark.parametrize(
    "options",
    [["--auto-fix"], ["--auto-fix", "--validate-only"], ["--auto-fix", "--user-id"]],
    ids=["a run", "fixing alone", "one user"],
)
@pytest.mark.parametrize("overflow", [False, True])
def test_on_a_terminal_auto_fix_asks_before_balances_change(options: list[str], *, overflow: bool) -> None:
    dirty(overflow=overflow)
    debtor = Wallet.objects.get(green__lt=0).pk
    argv = [*options, f"pk:{debtor}"] if options[-1] == "--user-id" else options
    with assert_nothing_changes(), answering("no"):
        result = run_command("migrate_users", *argv)
    assert result.code == 1
    refused = overflow and options == ["--auto-fix"]  # the run is, so that there is nothing to ask
    assert ("Auto-fix would change" in result.err) is not refused
    if not refused:
        assert "35 green of debt cancelled" in result.err
        assert "not confirmed: nothing was changed" in result.err
        with answering("yes"):
            run_command("migrate_users", *argv)
        assert IntegrityFix.objects.filter(user=debtor).exists()


@pytest.mark.postgres
@pytest.mark.parametrize("argv", [("migrate_users",), ("rollback_migration", "--all")])
def test_sequences_behind_their_tables_refuse_a_run_and_its_dry_run_alike(argv: tuple[str, ...]) -> None:
    make_wallets([(5, 0, 0)] * 3)
    migrate("--limit", 2)
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval('wishes_manaentry_id_seq', 1, false)")
    foretold = run_command(*argv, "--dry-run")
    reason = refusal(run_command(*argv, "--no-input")).removeprefix("CommandError: ").strip()
    assert "sequences behind their tables" in reason
    assert reason in foretold.out
    assert foretold.code == 3


@pytest.mark.parametrize("command", ["migrate_users", "rollback_migration --all"])
@pytest.mark.parametrize("obstacle", ["closed", "MANA_MIGRATION_APPROVAL_HOURS", "MANA_MIGRATION_CHECKLIST_HOURS"])
def test_what_a_site_asks_for_before_a_mass_run_is_in_the_verdict(
    command: str, obstacle: str, settings: Settings
) -> None:
    make_wallets([(5, 0, 0)] * 3)
    migrate("--limit", 2)
    if obstacle == "closed":
        assert run_command("control_migration", "close").code == 0
    else:
        setattr(settings, obstacle, 24)
    with assert_nothing_changes():
        foretold = run_command(*command.split(), "--dry-run")
    if command != "migrate_users" and "CHECKLIST" in obstacle:  # which rollbacks do without
        assert foretold.out.splitlines()[0] == "STARTS: nothing blocks the rollback"
        return
    reason = refusal(run_command(*command.split(), "--no-input")).removeprefix("CommandError: ").strip()
    assert foretold.code == 3
    assert foretold.out.splitlines()[0] == f"REFUSED: {reason}"
    assert (
        run_command("migrate_users", "--dry-run", "--user-id", Wallet.objects.first().pk).code == 0
    )  # one user needs none


def test_an_approval_that_is_given_is_part_of_what_a_dry_run_foretells(settings: Settings) -> None:
    make_wallets([(5, 0, 0)])
    settings.MANA_MIGRATION_APPROVAL_HOURS = 24
    assert head("--approved-by", "a second person", lines=1) == ["STARTS: nothing blocks the run"]


def test_selected_users_who_would_be_skipped_are_foretold_as_the_run_then_says() -> None:
    make_wallets([(5, 0, 0)] * 2)
    migrate("--limit", 1)
    selected = [
        part
        for key in [*Wallet.objects.values_list("pk", flat=True), UserFactory().pk]
        for part in ("--user-id", f"pk:{key}")
    ]
    promised = told(run_command("migrate_users", "--dry-run", "--format", "json", *selected), 3)
    done = migrate(*selected, code=3)
    assert done["users"] == promised["users"] == {
        "selected": 3, "migrated": 1, "rolled_back": 0, "skipped": 2, "failed": 0,
    }  # fmt: skip
    assert done["skipped"] == promised["skipped"] == {"already_migrated": 1, "no_wallet": 1}
    assert head(*selected[:2], lines=2) == [
        "STARTS: nothing blocks the run",
        "Plan: 0 of 1 user to migrate, 1 would be skipped",
    ]
