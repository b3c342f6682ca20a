"""validate_migration: what it prints, how it ends, what it writes."""

import json
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model

from mana_migration.domain.validation import CHECKS, POST, PRE, ValidationReport, checks_of
from mana_migration.engine.integrity import scope
from mana_migration.models import IntegrityFix, MigrationRun
from mana_migration.services import validation
from tests.factories import UserFactory, WalletFactory, make_wallets
from tests.support.commands import Result, answering, run_command
from tests.support.economy import WALLETS, Economy
from tests.support.oracle import assert_books_balance, assert_nothing_changes
from wishes.models import Wallet

pytestmark = pytest.mark.django_db


def validate(*options: object) -> Result:
    return run_command("validate_migration", *options)


def as_json(*options: object, code: int = 0) -> dict[str, Any]:
    result = validate("--format", "json", *options)
    assert (result.code, result.err) == (code, "")
    assert result.out.count("\n") == 1
    parsed: dict[str, Any] = json.loads(result.out)
    return parsed


def counts(document: dict[str, Any]) -> dict[str, int]:
    return {check["id"]: check["count"] for check in document["checks"] if check["count"]}


@pytest.fixture
def dirty() -> dict[str, str]:
    """Create one user of each kind of finding, and a good one; return their keys by kind."""
    return {
        "good": str(WalletFactory().pk),
        "negative": str(WalletFactory(green=-5).pk),
        "orphan": str(WalletFactory(mana=77).pk),
        "overflow": str(WalletFactory(red=2**62).pk),
        "large": str(WalletFactory(red=101).pk),
    }


# --- What it says -----------------------------------------------------------------------------------------------------


def test_a_clean_database_is_said_to_be_clean() -> None:
    WalletFactory()
    result = validate("--pre-migration")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    checks = [[check.severity, check.id, "0"] for check in checks_of(PRE)]
    assert [line.split()[:3] for line in lines[: len(checks)]] == checks
    lines = lines[len(checks) :]
    assert lines[0] == "wallets: 1 user, 1 wallet, 0 migrated, 1 not migrated"
    assert lines[1] == "value:   3 green + 2 blue + 1 red wishes, worth 1,230 mana, + 0 mana = 1,230 mana"
    assert lines[2].startswith("ok: no error-level finding, 0 warnings (")
    assert len(lines) == 3


def test_each_check_has_a_line_and_each_finding_its_user_figures_and_reason(dirty: dict[str, str]) -> None:
    result = validate()
    assert (result.code, result.err) == (3, "")
    lines = [line.strip() for line in result.out.splitlines()]
    assert f"negative_balance user {dirty['negative']}: green -5, blue 2, red 1, mana 0 " in result.out
    assert "(auto-fix can correct it: set to 0)" in result.out
    assert f"orphaned_mana user {dirty['orphan']}: mana 77, entries 0 " in result.out
    assert f"overflow user {dirty['overflow']}: green 3, blue 2, red 4,611,686,018,427,387,904, mana 0, " in result.out
    assert f"large_conversion user {dirty['large']}: green 3, blue 2, red 101, mana 0, worth 101,230 " in result.out
    assert [line.split()[1] for line in lines[: len(CHECKS)]] == [check.id for check in CHECKS]
    assert lines[-1].startswith("not ok: 3 error-level findings remain, 1 warning, 5 users not migrated (")


def test_without_a_phase_both_are_checked() -> None:
    every = [check.id for check in CHECKS]
    assert [check["id"] for check in as_json()["checks"]] == every
    assert [check["id"] for check in as_json("--pre-migration", "--post-migration")["checks"]] == every
    assert as_json()["phase"] == "both"


@pytest.mark.parametrize("phase", [PRE, POST])
def test_a_phase_runs_its_checks_alone(phase: str) -> None:
    document = as_json(f"--{phase}-migration")
    assert document["phase"] == phase
    assert [check["id"] for check in document["checks"]] == [check.id for check in checks_of(phase)]


def test_only_the_first_findings_of_a_check_are_on_the_screen() -> None:
    make_wallets([(-1, 0, 0, 0)] * 25)
    out = validate("--pre-migration").out
    assert out.count("negative_balance user") == 20
    assert "... and 5 more of negative_balance: --output FILE takes them all" in out
    assert validate("--pre-migration", "--all-hits").out.count("negative_balance user") == 25


def test_warnings_alone_are_no_error() -> None:
    WalletFactory(red=101)
    UserFactory()
    assert validate().code == 0


def test_what_is_only_counted_is_listed_when_asked_for() -> None:
    UserFactory()
    make_wallets([(0, 0, 0, 0)])
    assert "no_wallet user" not in validate().out
    out = validate("--list", "no_wallet", "--list", "zero_balance").out
    assert (out.count("no_wallet user "), out.count("zero_balance user "), out.count("remaining user ")) == (1, 1, 0)
    assert as_json("--all-hits")["findings"][0]["check"] == "unmigrated_remaining"


def test_a_completed_migration_is_validated_with_its_sums_before_and_after() -> None:
    economy = Economy()
    economy.migrate(skip_invalid=True)
    out = validate("--post-migration").out
    worth = sum(10 * green + 100 * blue + 1000 * red for green, blue, red, _ in WALLETS.values())
    assert f"before:  {worth:,} mana when the latest run began, +0 booked since" in out


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_json_is_one_object_with_every_finding_and_exact_integers(dirty: dict[str, str]) -> None:
    make_wallets([(-1, 0, 0, 0)] * 25)
    document = as_json("--pre-migration", code=3)
    assert document.keys() == {"findings", "phase", "ok", "checks", "totals", "seconds"}
    assert document["ok"] is False
    assert document["checks"][0] == {"id": "negative_balance", "severity": "error", "count": 26, "fixed": 0}
    assert len(document["findings"]) == 26 + 1 + 1 + 1
    overflow = next(finding for finding in document["findings"] if finding["check"] == "overflow")
    assert overflow["figures"] == {"green": 3, "blue": 2, "red": 2**62, "mana": 0, "worth": 2**62 * 1000 + 230}
    assert overflow["user"] == dirty["overflow"]
    assert (overflow["severity"], overflow["record"], overflow["run"], overflow["fixed"]) == (
        "error",
        None,
        None,
        False,
    )
    assert document["totals"]["value"] == sum(
        10 * w.green + 100 * w.blue + 1000 * w.red + w.mana for w in Wallet.objects.all()
    )


def test_json_without_findings_is_an_object_too() -> None:
    assert as_json()["findings"] == []


# --- Narrower ---------------------------------------------------------------------------------------------------------


def test_users_are_named_by_key_or_username(dirty: dict[str, str]) -> None:
    field = get_user_model().USERNAME_FIELD
    name = get_user_model().objects.values_list(field, flat=True).get(pk=dirty["negative"])
    assert counts(as_json("--pre-migration", "--user-id", name, code=3)) == {"negative_balance": 1}
    assert counts(as_json("--pre-migration", "--user-id", dirty["orphan"], "--user-id", name, code=3)) == {
        "negative_balance": 1,
        "orphaned_mana": 1,
    }
    assert validate("--pre-migration", "--user-id", dirty["good"]).code == 0


def test_a_run_is_checked_alone() -> None:
    economy = Economy()
    economy.migrate("still")
    economy.migrate("empty")
    first, second = MigrationRun.objects.order_by("pk").values_list("pk", flat=True)
    Wallet.objects.filter(pk=economy.key("empty")).update(mana=5)
    assert as_json("--run", first)["phase"] == "post"
    assert counts(as_json("--run", second, code=3))["ledger_mismatch"] == 1


# --- Fixing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--fix-issues", "--auto-fix"])
def test_fixing_says_what_was_fixed_and_what_remains(dirty: dict[str, str], option: str) -> None:
    result = validate("--pre-migration", option)
    assert result.code == 3  # the overflow remains
    assert f"negative_balance user {dirty['negative']}: green -5 -> 0 (fixed: set to 0)" in result.out
    assert "1 fixed" in result.out
    assert IntegrityFix.objects.count() == 2
    assert_books_balance()


def test_fixed_findings_are_counted_as_found_and_as_fixed(dirty: dict[str, str]) -> None:
    document = as_json("--pre-migration", "--fix-issues", code=3)
    by_id = {check["id"]: (check["count"], check["fixed"]) for check in document["checks"]}
    assert by_id["negative_balance"] == by_id["orphaned_mana"] == (1, 1)
    assert by_id["overflow"] == (1, 0)
    fixed = [finding for finding in document["findings"] if finding["fixed"]]
    assert {finding["user"] for finding in fixed} == {dirty["negative"], dirty["orphan"]}


def test_a_database_that_could_be_fixed_altogether_ends_with_0() -> None:
    WalletFactory(green=-5)
    assert validate("--fix-issues").code == 0


def test_only_the_users_named_are_fixed(dirty: dict[str, str]) -> None:
    assert validate("--fix-issues", "--user-id", dirty["negative"]).code == 0
    assert set(IntegrityFix.objects.values_list("user_id", flat=True)) == {int(dirty["negative"])}


def test_only_the_findings_of_the_phase_are_fixed(dirty: dict[str, str]) -> None:
    assert validate("--post-migration", "--fix-issues").code == 0
    assert not IntegrityFix.objects.exists()


def test_a_dry_run_of_fixing_only_tells(dirty: dict[str, str]) -> None:
    with assert_nothing_changes():
        document = as_json("--pre-migration", "--fix-issues", "--dry-run", code=3)
        assert "1 would be fixed" in validate("--pre-migration", "--fix-issues", "--dry-run").out
    by_id = {check["id"]: check for check in document["checks"]}
    assert by_id["negative_balance"] == {
        "id": "negative_balance", "severity": "error", "count": 1, "fixed": 0, "would_fix": 1
    }  # fmt: skip
    assert by_id["overflow"]["would_fix"] == 0
    reasons = {finding["check"]: finding["reason"] for finding in document["findings"]}
    assert reasons["negative_balance"] == "auto-fix can correct it: set to 0"


def test_without_fixing_nothing_is_changed(dirty: dict[str, str]) -> None:
    with assert_nothing_changes():
        validate("--all-hits")


# --- The file ---------------------------------------------------------------------------------------------------------


def test_the_file_has_every_finding_one_a_line_for_the_owner_alone(dirty: dict[str, str], tmp_path: Path) -> None:
    make_wallets([(-1, 0, 0, 0)] * 25)
    path = tmp_path / "findings.jsonl"
    result = validate("--pre-migration", "--output", path)
    assert result.code == 3
    assert result.out.count("negative_balance user") == 20
    findings = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(findings) == 29
    assert findings == as_json("--pre-migration", code=3)["findings"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_is_never_overwritten_nor_written_through_a_link(tmp_path: Path) -> None:
    WalletFactory(green=-1)
    taken, link = tmp_path / "taken", tmp_path / "link"
    taken.write_text("mine")
    link.symlink_to(tmp_path / "elsewhere")
    for path in (taken, link):
        result = validate("--output", path, "--fix-issues")
        assert result.code == 1
        assert len(result.err.splitlines()) == 1
        assert str(path) in result.err
    assert taken.read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()
    assert not IntegrityFix.objects.exists()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = validate("--output", tmp_path / "nowhere" / "file")
    assert result.code == 1
    assert "nowhere" in result.err


# --- Bad usage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--user-id", "nobody"), 1, "no such user: 'nobody'"),
        (("--user-id", ""), 2, "empty"),
        (("--run", "99"), 1, "there is no run 99"),
        (("--run", "0"), 2, "whole number"),
        (("--run", "x"), 2, "whole number"),
        (("--run", "1", "--pre-migration"), 2, "--pre-migration"),
        (("--run", "1", "--user-id", "1"), 2, "--user-id"),
        (("--run", "1", "--fix-issues"), 2, "--fix-issues"),
        (("--list", "overflow"), 2, "invalid choice"),
        (("--format", "xml"), 2, "invalid choice"),
        (("--database", "elsewhere"), 2, "invalid choice"),
        (("--pre",), 2, "unrecognized"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_options_are_refused_in_one_line_with_their_code(options: tuple[str, ...], code: int, words: str) -> None:
    with assert_nothing_changes():
        result = validate(*options)
    assert result.code == code
    assert result.out == ""
    assert words in result.err.splitlines()[-1]


def test_an_ambiguous_user_is_refused_with_both_names() -> None:
    user = WalletFactory().user
    UserFactory(username=str(user.pk))
    result = validate("--user-id", user.pk)
    assert result.code == 2
    assert f"pk:{user.pk}" in result.err
    assert f"username:{user.pk}" in result.err


def test_usernames_appear_nowhere() -> None:
    wallet = WalletFactory(green=-1)
    field = get_user_model().USERNAME_FIELD
    get_user_model().objects.filter(pk=wallet.pk).update(**{field: "canary-name", "email": "canary@example.org"})
    for options in ((), ("--format", "json"), ("--all-hits",), ("--fix-issues",)):
        result = validate(*options)
        assert "canary" not in result.out + result.err


def test_on_a_terminal_fixing_asks_before_balances_change() -> None:
    make_wallets([(-35, 0, 0)])
    for answer, code, fixed in (("no", 1, 0), ("yes", 0, 1)):
        with answering(answer):
            result = run_command("validate_migration", "--pre-migration", "--fix-issues")
        assert (result.code, IntegrityFix.objects.count()) == (code, fixed), result
        assert "Auto-fix would change 1 user: 35 green of debt cancelled." in result.err
    with answering("no"):  # nothing is left to be asked about
        assert run_command("validate_migration", "--pre-migration", "--fix-issues").err == ""


# --- In parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_validation_in_parts_is_continued(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    keys = [str(wallet.pk) for wallet in make_wallets([(1, 0, 0), (-1, 0, 0), (1, 0, 0), (1, 0, 0), (-1, 0, 0)])]
    monkeypatch.setattr(scope, "RANGE", 2)
    check = validation.validate

    def interrupted(*arguments: Any, **options: Any) -> ValidationReport:
        signal.raise_signal(number)
        return check(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(validation, "validate", interrupted)
        result = validate("--from", "start")
    assert result.code == code
    assert f"negative_balance user {keys[1]}" in result.out
    assert result.err == f"not complete: 1 error-level finding before pk:{keys[1]}; continue with --from pk:{keys[1]}\n"
    continued = validate("--from", f"pk:{keys[1]}")
    assert (continued.code, continued.err) == (3, "")
    assert f"negative_balance user {keys[4]}" in continued.out
    assert continued.out.count("negative_balance user ") == 1
    assert "wallets: 5 wallets, 0 migrated, 5 not migrated" in continued.out
    assert counts(as_json("--from", "start", code=3))["negative_balance"] == 2
    assert as_json("--from", "sums")["totals"]["wallets"] == 5


@pytest.mark.parametrize("other", [("--run", 1), ("--user-id", 1), ("--fix-issues",), ("--chain-head", "0" * 64)])
def test_parts_are_of_all_users_and_runs(other: tuple[object, ...]) -> None:
    WalletFactory()
    result = validate("--from", "start", *other)
    assert (result.code, result.out) == (2, "")
    assert f"it cannot be combined with {other[0]}" in result.err
