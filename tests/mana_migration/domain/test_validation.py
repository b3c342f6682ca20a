"""The checks by name, and what a report of them says."""

from pathlib import Path

import pytest

from mana_migration.domain.repairs import FIXABLE
from mana_migration.domain.validation import (
    BOTH,
    BY_LEDGER,
    CHECKS,
    POST,
    PRE,
    CheckResult,
    Finding,
    ValidationReport,
    checks_of,
)

DOCS = Path(__file__).resolve().parents[3] / "docs" / "checks.md"


def test_each_check_is_documented_with_its_severity_and_phase() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in DOCS.read_text().splitlines() if "| `" in line]
    documented = {row[0].strip("`"): (row[1], row[2]) for row in rows if row[1] in ("error", "warning", "info")}
    phases = {PRE: "pre", POST: "post", BOTH: "pre and post"}
    assert documented == {check.id: (check.severity, phases[check.phase]) for check in CHECKS}


def test_a_check_is_either_fixable_or_says_why_nothing_fixes_it() -> None:
    assert {check.id for check in CHECKS if not check.no_fix} == set(FIXABLE)


def test_the_page_says_of_each_check_what_its_findings_say() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:6]] for line in DOCS.read_text().splitlines() if "| `" in line]
    documented = {row[0].strip("`"): row[4] for row in rows if row[1] in ("error", "warning", "info")}
    for check in CHECKS:
        way = documented[check.id]
        assert ("auto-fix" in way) is (check.id in FIXABLE), check.id
        assert (way == "`--by-ledger`") is (check.no_fix == BY_LEDGER), check.id
        assert (way == "backup") is ("backup" in check.no_fix), check.id
        assert (way == "nothing") is (check.no_fix == "nothing is wrong"), check.id


def test_both_phases_are_all_checks_and_only_the_flag_belongs_to_each() -> None:
    assert checks_of(BOTH) == CHECKS
    assert [check.id for check in CHECKS if check in checks_of(PRE) and check in checks_of(POST)] == [
        "migration_inconsistency"
    ]


@pytest.mark.parametrize(
    ("result", "blocks"),
    [
        (CheckResult("overflow", "error", 1), True),
        (CheckResult("overflow", "error", 0), False),
        (CheckResult("negative_balance", "error", 2, fixed=1), True),
        (CheckResult("negative_balance", "error", 2, fixed=2), False),
        (CheckResult("large_conversion", "warning", 5), False),
    ],
    ids=str,
)
def test_error_level_findings_that_remain_stand_in_the_way(result: CheckResult, blocks: bool) -> None:
    assert result.blocks is blocks
    assert ValidationReport("pre", (result,)).ok is not blocks


def test_a_check_that_was_not_run_has_found_nothing() -> None:
    assert ValidationReport("pre", ()).check("late_wishes") == CheckResult("late_wishes", "error", 0)


def test_a_share_of_the_users_is_rounded_and_a_limit_is_a_limit() -> None:
    report = ValidationReport("pre", (), {"unmigrated": 1_005})
    assert report.expected() == 1_005
    assert report.expected(cohort=100) == 10
    assert report.expected(cohort=5_000) == 503
    assert report.expected(limit=3, cohort=5_000) == 3
    assert report.expected(limit=2_000) == 1_005


def test_a_finding_is_told_with_its_severity() -> None:
    assert Finding("late_wishes", user="5").as_dict()["severity"] == "error"
