"""migrate_users: what --dry-run and --validate-only tell, and that they change nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.db import connection

from mana_migration.engine import conversion
from tests.factories import UserFactory, WalletFactory, make_wallets
from tests.mana_migration.running import (
    balanced,
    cure,
    keys_of,
    migrate,
    people,
    refuse_records,
    roll_back,
    told,
)
from tests.support.commands import run_command
from tests.support.oracle import assert_nothing_changes
from wishes import services
from wishes.models import Wallet

pytestmark = pytest.mark.django_db


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
    promised = migrate("--dry-run", "--skip-invalid", code=3)  # as the run itself
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


@pytest.mark.parametrize("named", [False, True], ids=["everybody", "named"])
def test_a_dry_run_takes_mana_that_auto_fix_will_write_off_as_written_off(named: bool) -> None:
    orphan, backed, lacking = make_wallets([(1, 2, 3)] * 3)
    services.earn_mana(backed.pk, 70, reference="a")
    services.earn_mana(lacking.pk, 70, reference="b")
    Wallet.objects.filter(pk=orphan.pk).update(mana=500)
    Wallet.objects.filter(pk=lacking.pk).update(mana=60)  # less than the ledger says: auto-fix leaves it
    users = [part for found in (orphan, backed, lacking) for part in ("--user-id", f"pk:{found.pk}")] if named else []
    promised = migrate("--dry-run", "--auto-fix", *(users or ["--skip-invalid"]), code=3)
    done = migrate("--auto-fix", *(users or ["--skip-invalid"]), code=3)
    assert done["users"]["migrated"] == 2
    for name in ("users", "wishes", "mana", "errors", "skipped"):
        assert promised[name] == done[name], name


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
    from mana_migration.engine import conversion

    people(2)
    original = conversion.forecast

    def writing(*args: Any, **options: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE wishes_wallet SET green = green + 1")
        return original(*args, **options)

    monkeypatch.setattr(conversion, "forecast", writing)
    with assert_nothing_changes():
        result = run_command("migrate_users", "--dry-run")
    assert result.code == 1
    assert "read-only transaction" in result.err


def test_validate_only_shows_findings_alone() -> None:
    WalletFactory(green=-4)
    people(3)
    result = run_command("migrate_users", "--validate-only")
    assert result.code == 3
    lines = result.out.splitlines()
    assert lines[0] == "1 error-level finding"
    assert lines[1].split()[:3] == ["error", "negative_balance", "1"]
    assert re.fullmatch(r"  nothing found by \d+ checks: .*overflow.*", lines[2])
    assert lines[3].startswith("a run would be refused: ")
    assert len(lines) == 4
    assert "nothing was written" not in result.out


def test_validate_only_of_a_user_has_the_findings_of_that_user_alone() -> None:
    WalletFactory(green=-4)
    (key,) = people(1)
    result = run_command("migrate_users", "--validate-only", "--user-id", f"pk:{key}")
    assert (result.code, result.out.splitlines()[0]) == (0, "no error-level finding")
    assert {finding["count"] for finding in migrate("--dry-run", "--user-id", f"pk:{key}")["findings"]} == {0}


def test_a_dry_run_has_no_speed() -> None:
    people(3)
    assert migrate("--dry-run")["users_per_minute"] is None


def test_every_user_is_listed_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "PAGE", 2)
    keys = keys_of(make_wallets([(1, 2, 3), (0, 0, 0), (5, 0, 0)]))
    negative = WalletFactory(green=-4, blue=0, red=0).pk
    with assert_nothing_changes():
        out = run_command("migrate_users", "--dry-run", "--list", "--skip-invalid").out
        found = migrate("--dry-run", "--list", "--skip-invalid", code=3)
    assert out.splitlines()[:4] == [
        f"user {keys[0]}: 1 green, 2 blue, 3 red = 3,210 mana",
        f"user {keys[1]}: 0 green, 0 blue, 0 red = 0 mana",
        f"user {keys[2]}: 5 green, 0 blue, 0 red = 50 mana",
        f"user {negative}: -4 green, 0 blue, 0 red: negative_balance",
    ]
    assert [(user["user"], user["mana"], user["problem"]) for user in found["list"]] == [
        (str(keys[0]), 3210, ""),
        (str(keys[1]), 0, ""),
        (str(keys[2]), 50, ""),
        (str(negative), 0, "negative_balance"),
    ]
    assert sum(user["mana"] for user in found["list"]) == found["mana"]
    assert run_command("migrate_users", "--list").code == 2


def test_a_list_of_no_user_is_an_empty_one() -> None:
    assert migrate("--dry-run", "--list")["list"] == []
