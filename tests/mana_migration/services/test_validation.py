"""The checks see what they are there for, count what they tell, and change nothing."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import DatabaseError, connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from mana_migration.domain.options import Controls
from mana_migration.domain.validation import BOTH, CHECKS, ERROR, POST, PRE, WARNING, Finding, ValidationReport
from mana_migration.engine.integrity import counting
from mana_migration.engine.integrity import scope as scopes
from mana_migration.errors import RunNotFoundError, UsageError
from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.services import validation
from mana_migration.services.validation import Place
from mana_migration.states import RunKind
from tests.factories import UserFactory, WalletFactory, make_wallets
from tests.mana_migration.running import migrate
from tests.support.commands import run_command
from tests.support.economy import Economy, live_through
from tests.support.oracle import assert_nothing_changes
from tests.support.violations import PLANTED, SEEN_BY, SEEN_BY_RULE, wallet
from wishes.models import ManaEntry, Wallet
from wishes.rates import BIGINT_MAX
from wishes.services import earn_mana, earn_wishes, spend_mana

pytestmark = pytest.mark.django_db


def validate(**options: Any) -> tuple[ValidationReport, list[Finding]]:
    """Validate and return every finding, which must be as many as are counted."""
    found: list[Finding] = []
    report = validation.validate(on_finding=found.append, all_hits=True, **options)
    told = Counter(finding.check for finding in found)
    assert told == Counter({check.id: check.count for check in report.checks})
    return report, found


def counts(**options: Any) -> dict[str, int]:
    """Return the checks with findings."""
    report, _ = validate(**options)
    return {check.id: check.count for check in report.checks if check.count}


# --- Before a migration -----------------------------------------------------------------------------------------------


def test_an_empty_database_has_no_findings() -> None:
    assert counts() == {}
    report = validation.precheck()
    assert report.ok
    assert report.expected() == 0


@pytest.mark.parametrize("colour", ["green", "blue", "red"])
def test_negative_wishes_are_an_error(colour: str) -> None:
    bad = WalletFactory(**{colour: -1})
    WalletFactory(**{colour: 0})
    report, (finding,) = validate(phase=PRE)
    assert (finding.check, finding.user) == ("negative_balance", str(bad.pk))
    assert finding.figures[colour] == -1
    assert finding.reason == "auto-fix can correct it: set to 0"
    assert report.error_count == 1


def test_mana_beyond_bigint_is_an_error_and_up_to_it_is_none() -> None:
    WalletFactory(green=0, blue=0, red=0, mana=BIGINT_MAX)
    make_wallets([(7, 0, 0, BIGINT_MAX - 70), (0, 8, 5, BIGINT_MAX - 5800), (BIGINT_MAX // 10, 0, 0, 7)])
    make_wallets(
        [(7, 0, 0, BIGINT_MAX - 69), (0, 0, 1, BIGINT_MAX), (BIGINT_MAX // 10, 0, 0, 8), (0, BIGINT_MAX, 0, 0)]
    )
    _, found = validate(phase=PRE)
    assert sum(finding.check == "overflow" for finding in found) == 4


def test_a_negative_colour_does_not_hide_an_overflow() -> None:
    WalletFactory(green=-(2**62), blue=0, red=2**62)
    assert counts(phase=PRE).keys() == {"negative_balance", "overflow"}


def test_mana_that_no_entry_backs_is_an_error() -> None:
    orphan = WalletFactory(mana=77)
    backed = WalletFactory()
    earn_mana(backed.pk, 5, reference="x")
    _, (finding,) = validate(phase=PRE)
    assert (finding.check, finding.user) == ("orphaned_mana", str(orphan.pk))
    assert finding.figures == {"mana": 77, "entries": 0, "newest_balance": None}


def test_mana_on_top_of_unbacked_mana_tells_why_it_is_left() -> None:
    orphan = WalletFactory(mana=77)
    earn_mana(orphan.pk, 5, reference="x")
    _, (finding,) = validate(phase=PRE)
    assert finding.figures == {"mana": 82, "entries": 5, "newest_balance": 82}
    assert finding.reason == "later entries were booked on top of the unbacked mana"


def test_a_large_conversion_is_a_warning_from_the_first_mana_above_the_limit(settings: Any) -> None:
    settings.MANA_MIGRATION_LARGE_CONVERSION = 1230
    WalletFactory()
    large = WalletFactory(green=4)
    _, (finding,) = validate(phase=PRE)
    assert (finding.check, finding.user, finding.figures["worth"]) == ("large_conversion", str(large.pk), 1240)
    assert validation.precheck().ok


def test_what_cannot_be_converted_is_no_large_conversion() -> None:
    make_wallets([(-1, 0, 10**6, 0), (0, 0, 2**62, 0)])
    assert "large_conversion" not in counts(phase=PRE)


def test_other_rates_than_the_usual_decide_what_is_large(settings: Any) -> None:
    settings.WISHES_RATES = {"green": 1, "blue": 1, "red": 100_001}
    make_wallets([(100_000, 0, 0, 0), (0, 0, 1, 0)])
    assert counts(phase=PRE) == {"large_conversion": 1}


def test_who_is_migrated_who_has_nothing_and_who_has_no_wallet_is_counted() -> None:
    UserFactory.create_batch(2)
    make_wallets([(0, 0, 0, 0)] * 3)
    for _ in range(4):
        WalletFactory(green=0, blue=0, red=0, migrated_at=timezone.now())
    report, found = validate(phase=PRE)
    numbers = {check.id: check.count for check in report.checks if check.severity == "info"}
    assert numbers == {"already_migrated": 4, "zero_balance": 3, "no_wallet": 2}
    assert all(finding.reason == "nothing is wrong" for finding in found if finding.check in numbers)


def test_findings_that_are_only_counted_are_told_when_asked_for() -> None:
    UserFactory()
    make_wallets([(0, 0, 0, 0)])
    found: list[Finding] = []
    validation.validate(on_finding=found.append)
    assert not found
    validation.validate(on_finding=found.append, listed=["no_wallet"])
    assert [finding.check for finding in found] == ["no_wallet"]


def test_only_so_many_findings_of_each_check_are_told_as_asked_for() -> None:
    make_wallets([(-1, 0, 0, 0)] * 5 + [(0, 0, 0, 5)] * 5)
    found: list[Finding] = []
    report = validation.validate(on_finding=found.append, most=3)
    assert Counter(finding.check for finding in found) == {"negative_balance": 3, "orphaned_mana": 3}
    assert report.check("negative_balance").count == 5


def test_what_a_migration_has_to_handle_follows_from_the_pre_check() -> None:
    make_wallets([(1, 0, 0, 0)] * 100)
    WalletFactory(green=0, blue=0, red=0, migrated_at=timezone.now())
    report = validation.precheck()
    assert report.expected() == 100
    assert report.expected(limit=7) == 7
    assert report.expected(cohort=100) == 1
    assert report.expected(cohort=10_000, limit=1000) == 100


wallets = st.lists(
    st.tuples(
        *(st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1)) for _ in range(3)),
        st.one_of(st.integers(0, 3), st.integers(0, 2**63 - 1)),
    ),
    max_size=8,
)


@given(balances=wallets)
def test_the_scan_agrees_with_plain_integers(balances: list[tuple[int, int, int, int]]) -> None:
    with transaction.atomic():
        make_wallets(balances)
        report = validation.precheck()
        transaction.set_rollback(True)

    def worth(green: int, blue: int, red: int) -> int:
        return 10 * green + 100 * blue + 1000 * red

    def overflows(green: int, blue: int, red: int, mana: int) -> bool:
        return worth(max(green, 0), max(blue, 0), max(red, 0)) + mana > BIGINT_MAX

    sums = [sum(column) for column in zip(*balances, strict=True)] or [0, 0, 0, 0]
    assert [report.totals[name] for name in ("green", "blue", "red", "mana")] == sums
    assert report.totals["value"] == worth(*sums[:3]) + sums[3]
    assert report.check("negative_balance").count == sum(min(row[:3]) < 0 for row in balances)
    assert report.check("overflow").count == sum(overflows(*row) for row in balances)
    assert report.check("orphaned_mana").count == sum(row[3] != 0 for row in balances)
    assert report.check("zero_balance").count == sum(row[:3] == (0, 0, 0) for row in balances)
    assert report.check("large_conversion").count == sum(
        min(row[:3]) >= 0 and not overflows(*row) and worth(*row[:3]) > 100_000 for row in balances
    )


# --- After a migration ------------------------------------------------------------------------------------------------


def test_nothing_that_the_product_does_is_an_error_afterwards() -> None:
    def check(economy: Economy) -> None:
        report, found = validate(phase=POST)
        assert report.ok, found
        for run in MigrationRun.objects.exclude(kind=RunKind.IMPORT):
            assert validation.check_run("default", run.pk).ok

    live_through(after_each=check)


def test_only_dirty_legacy_data_is_an_error_before() -> None:
    live_through()
    report, found = validate(phase=PRE)
    assert {finding.check for finding in found if finding.reason != "nothing is wrong"} == {"negative_balance"}
    assert report.error_count == 2


def counts_in_parts(start: Place) -> dict[str, int]:
    """Return the checks with findings of a validation in parts, which must be as many as are reported."""
    found: list[Finding] = []
    parts = validation.validate_in_parts("default", start, on_finding=found.append, all_hits=True)
    report = ValidationReport.joined(BOTH, list(parts))
    assert Counter(finding.check for finding in found) == Counter({check.id: check.count for check in report.checks})
    return {check.id: check.count for check in report.checks if check.count}


def test_every_planted_violation_is_seen_by_its_check(
    economy: Economy, subtests: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scopes, "RANGE", 4)
    before = counts(chains=False)
    for rule, name, plant in PLANTED:
        check = SEEN_BY[name] if name in SEEN_BY else SEEN_BY_RULE[rule]
        if check is None:
            continue
        with subtests.test(name), transaction.atomic():
            plant(economy)
            report, found = validate(chains=False)  # which have tests of their own
            in_parts = counts_in_parts(Place())
            transaction.set_rollback(True)
            assert report.check(check).count > before.get(check, 0)
            in_parts.pop("digest_mismatch", None)
            assert in_parts == {each.id: each.count for each in report.checks if each.count}
            assert all(finding.reason for finding in found)


def test_ids_and_figures_of_a_finding_are_told(economy: Economy) -> None:
    record = economy.record("still")
    type(record).objects.filter(pk=record.pk).update(mana_credited=1231)
    _, found = validate(phase=POST)
    mismatch = next(finding for finding in found if finding.check == "conversion_mismatch")
    assert (mismatch.user, mismatch.record, mismatch.run) == (str(record.user_id), record.pk, record.run_id)
    assert mismatch.figures["mana_credited"] == 1231
    missing = next(finding for finding in found if finding.check == "missing_entry")
    assert missing.figures == {
        "reference": f"conversion:{record.run_id}:{record.user_id}",
        "recorded": 1231,
        "booked": 1230,
    }
    assert missing.record == record.pk


def test_a_ledger_beyond_64_bits_is_summed_up_exactly(economy: Economy) -> None:
    """SQLite's own sum would end the check with an error, or round it."""
    for number in range(4):
        ManaEntry.objects.create(
            user_id=economy.key("still"), amount=2**62, balance_after=2**62, kind="earn", reference=f"huge-{number}"
        )
    _, found = validate(phase=POST)
    mismatch = next(finding for finding in found if finding.check == "ledger_mismatch")
    first = ManaEntry.objects.get(reference="huge-0")
    assert mismatch.figures == {
        "mana": 1230, "entries": 1230 + 2**64, "newest_balance": 2**62,
        "entry": first.pk, "balance_after": 2**62, "expected_balance": 1230 + 2**62,
    }  # fmt: skip


def test_an_unlikely_cancellation_in_the_lower_half_of_the_sum_is_seen(economy: Economy) -> None:
    wallet(economy, "still").update(mana=1230 + 2**32)
    assert counts(phase=POST)["ledger_mismatch"] == 1


def test_ranges_of_users_tell_the_same_as_one(economy: Economy, monkeypatch: pytest.MonkeyPatch) -> None:
    for _, _, plant in PLANTED[3:30:4]:
        plant(economy)
    report, found = validate()
    monkeypatch.setattr(scopes, "RANGE", 2)
    again, in_ranges = validate()
    assert again.checks == report.checks
    assert sorted(map(str, in_ranges)) == sorted(map(str, found))
    for check in CHECKS:  # in the order of keys
        keys = [int(finding.user) for finding in in_ranges if finding.check == check.id and finding.user]
        assert keys == sorted(keys)


def test_a_validation_in_parts_continues_from_any_of_its_places(
    economy: Economy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("still", "active"):
        wallet(economy, name).update(mana=1)
    run = MigrationRun.objects.order_by("pk").last()
    assert run is not None
    MigrationBatch.objects.filter(run=run).update(selected=99)
    monkeypatch.setattr(scopes, "RANGE", 3)
    places: list[Place] = []
    parts = list(validation.validate_in_parts("default", Place(), at=places.append))
    assert len(places) > len(parts) > 4
    whole = ValidationReport.joined(BOTH, parts)
    assert (whole.totals["wallets"], whole.check("digest_mismatch").count) == (Wallet.objects.count(), 1)
    first_runs = MigrationRun.objects.order_by("pk").values_list("pk", flat=True)
    assert [str(place) for place in places if place.run] == [f"run:{key}" for key in first_runs]
    for stopped, place in enumerate(places):
        assert Place.parse(str(place)) == place
        rest = counts_in_parts(place)
        before = ValidationReport.joined(BOTH, parts[: min(stopped, len(parts) - 1)])
        together = Counter(rest) + Counter({check.id: check.count for check in before.checks})
        assert together == Counter({check.id: check.count for check in whole.checks})


@pytest.mark.parametrize("text", ["", "pk:", "pk:x", "run:", "run:x", "run:-1", "sum", "42", "start:1"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a place: give start, pk:KEY, sums or run:ID"):
        Place.parse(text)


# --- Narrower ---------------------------------------------------------------------------------------------------------


def test_named_users_are_checked_alone(economy: Economy) -> None:
    wallet(economy, "still").update(mana=1)
    wallet(economy, "active").update(mana=1)
    for name in ("skipped", "still", "active"):
        user = str(economy.key(name))
        report, found = validate(users=[user])
        assert {finding.user for finding in found} == {user}
        assert report.error_count == 1
    assert validate(users=[str(economy.key("empty"))])[0].ok


@pytest.mark.parametrize("few", [1, 10**9], ids=["user by user", "everybody first"])
def test_a_run_is_judged_by_its_own_users_alone(economy: Economy, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(counting, "SMALL_RUN", few)
    mine, other = economy.record("still").run_id, economy.record("returned", status="migrated").run_id
    wallet(economy, "imported").update(mana=499, green=1)
    wallet(economy, "empty").update(migrated_at=None)
    assert counts(phase=POST).keys() >= {"migration_inconsistency", "ledger_mismatch", "late_wishes"}
    assert set(counts(run=mine, phase=POST)) - {"unbooked_change"} == {"migration_inconsistency"}
    assert validation.check_run("default", other).ok


def test_a_small_run_is_looked_at_in_the_range_of_its_own_users() -> None:
    economy = Economy()
    make_wallets([(1, 0, 0, 0)] * 200)
    run = economy.migrate(limit=3, skip_invalid=True).run
    with CaptureQueriesContext(connection) as captured:
        assert validation.check_run("default", run).ok
    big = ("wishes_wallet", "wishes_manaentry", "mana_migration_usermigration")
    asked = [query["sql"] for query in captured if any(f"FROM {table} " in query["sql"] for table in big)]
    assert len(asked) >= 4
    assert all("BETWEEN" in sql or " id > " in sql or ".id > " in sql for sql in asked), asked


def test_a_run_of_other_users_stays_clean_whatever_happens_beside_it(economy: Economy) -> None:
    run = economy.record("returned", status="migrated").run_id
    before = validation.check_run("default", run)
    assert before.ok
    for name in ("still", "active", "empty"):
        wallet(economy, name).update(mana=12345, migrated_at=None, green=-1)
    ManaEntry.objects.filter(user_id=economy.key("still")).delete()
    assert validation.check_run("default", run).ok


@pytest.mark.parametrize("few", [1, 10**9], ids=["user by user", "everybody first"])
def test_every_planted_violation_of_a_run_is_seen_when_the_run_is_checked(
    economy: Economy, monkeypatch: pytest.MonkeyPatch, subtests: Any, few: int
) -> None:
    monkeypatch.setattr(counting, "SMALL_RUN", few)
    mass = economy.record("still").run_id
    rollback = economy.record("back", status="rolled_back").reversal_run_id
    of_mass = {
        "a record says more mana", "a record says other wishes", "the rates of a run change", "a sum beyond 64 bits",
        "a wallet holds more than its entries say", "mana moves between wallets", "an entry is deleted",
        "the flag is lost", "a live record is deleted", "a conversion's entry is deleted",
        "a conversion's entry has another amount", "a conversion's entry belongs to somebody else",
        "a conversion worth nothing has an entry", "a live record with a debit", "wishes on a migrated wallet",
        "a batch has a gap", "a completed run has a batch left", "a batch says other wishes", "a batch says other mana",
        "a skipped user's record is deleted",
    }  # fmt: skip
    of_rollback = {
        "a record comes back to life", "a reversal's entry is deleted", "a reversal's entry has another amount",
        "a reversal says another debit", "a reversal invents a shortfall", "a reversal without a moment",
        "a rollback gave back other wishes", "a rollback debited other mana", "a rolled-back record is deleted",
    }  # fmt: skip
    seen = set()
    for _, name, plant in PLANTED:
        for run, names in ((mass, of_mass), (rollback, of_rollback)):
            if name in names:
                seen.add(name)
                with subtests.test(name), transaction.atomic():
                    plant(economy)
                    report = validation.check_run("default", run)
                    transaction.set_rollback(True)
                    assert not report.ok
    assert seen == of_mass | of_rollback


def test_a_rollback_that_deletes_its_records_is_checked_by_the_whole_ledger(economy: Economy) -> None:
    run = MigrationRun.objects.get(kind=RunKind.ROLLBACK, options__preserve_logs=False)
    assert validation.check_run("default", run.pk).ok
    MigrationBatch.objects.filter(run=run).update(mana=1)
    assert validation.check_run("default", run.pk).check("value_not_conserved").blocks


def test_an_unknown_run_is_refused() -> None:
    with pytest.raises(RunNotFoundError, match="no run 99"):
        validation.check_run("default", 99)
    with pytest.raises(RunNotFoundError, match="no run 99"):
        validation.validate(run=99, phase=POST)


# --- The value of everything ------------------------------------------------------------------------------------------


def test_wallets_written_past_the_ledgers_are_a_warning() -> None:
    economy = Economy()
    economy.migrate("still")
    economy.migrate(skip_invalid=True)
    Wallet.objects.filter(pk=economy.key("skipped")).update(blue=1)
    report, found = validate(phase=POST)
    assert report.ok
    finding = next(finding for finding in found if finding.check == "unbooked_change")
    assert "+100 mana of value" in finding.reason
    assert finding.run == MigrationRun.objects.latest("pk").pk


def test_a_change_that_a_later_run_took_for_given_is_seen_by_the_sums_of_the_runs_before() -> None:
    economy = Economy()
    economy.migrate("still")
    economy.migrate(stop_after=1, skip_invalid=True)
    economy.roll_back()
    earn_mana(economy.key("active"), 7, reference="booked")
    earn_wishes(economy.key("late"), "red", 1, reference="booked as well")
    wallet(economy, "skipped").update(blue=1)
    economy.migrate(stop_after=1, skip_invalid=True)
    earn_mana(economy.key("active"), 8, reference="booked later")
    first, second = MigrationRun.objects.filter(baseline__has_key="booked").order_by("pk")
    _, found = validate(phase=POST)
    (change,) = [finding for finding in found if finding.check == "unbooked_change"]
    assert change.run == first.pk
    assert change.reason == (
        f"between the starts of runs {first.pk} and {second.pk}, +100 mana of value came or went in no ledger"
    )
    assert change.figures["now"] - change.figures["before"] - change.figures["booked_since"] == 100
    wallet(economy, "skipped").update(blue=0)
    _, found = validate(phase=POST)
    since = [finding.reason for finding in found if finding.check == "unbooked_change"]
    assert since == [change.reason, f"since run {second.pk} began, -100 mana of value came or went in no ledger"]
    MigrationRun.objects.filter(pk=second.pk).update(rates={"green": 1, "blue": 2, "red": 3})
    assert "unbooked_change" not in counts(phase=POST)  # sums at other rates are not compared


def test_what_is_booked_or_imported_is_no_unbooked_change() -> None:
    economy = Economy()
    economy.migrate(skip_invalid=True)
    earn_mana(economy.key("still"), 10, reference="a")
    spend_mana(economy.key("still"), 5, reference="b")
    earn_wishes(economy.key("still"), "red", 1, reference="c")
    earn_wishes(economy.key("skipped"), "red", 1, reference="d")
    economy.bring_in()
    report, _ = validate(phase=POST)
    assert report.check("unbooked_change").count == 0
    assert report.totals["booked_since"] == 10 - 5 + 1000 + 1000 + 500 + 4440


def test_the_sums_of_the_start_are_kept_as_text_of_integers() -> None:
    economy = Economy()
    economy.migrate(skip_invalid=True, controls=Controls(batch_size=100, delay=0.0))
    baseline = MigrationRun.objects.latest("pk").baseline
    assert all(isinstance(value, str) and str(int(value)) == value for value in baseline.values())
    assert baseline.keys() >= {"wallets", "unmigrated", "green", "blue", "red", "mana", "value", "booked"}


# --- How it is done ---------------------------------------------------------------------------------------------------


def test_validating_changes_no_row(economy: Economy) -> None:
    with assert_nothing_changes():
        validate()
        validation.check_run("default", economy.record("still").run_id)


def test_the_database_refuses_a_write_during_a_validation() -> None:
    WalletFactory(green=-1)

    def write(finding: Finding) -> None:
        Wallet.objects.update(green=0)

    with pytest.raises(DatabaseError, match=r"read-only|readonly"), transaction.atomic():
        validation.validate(on_finding=write)
    assert Wallet.objects.filter(green=-1).exists()


def test_the_number_of_queries_does_not_grow_with_the_users(django_assert_max_num_queries: Any) -> None:
    make_wallets([(1, 2, 3, 0)] * 300)
    UserFactory.create_batch(20)
    with django_assert_max_num_queries(32):
        validation.validate(all_hits=False)
    make_wallets([(-1, 0, 0, 3)] * 300)
    with django_assert_max_num_queries(46):
        validate(phase=PRE)


@pytest.mark.django_db(transaction=True)
def test_everything_is_seen_at_one_moment() -> None:
    """What the site writes while a validation reads is not part of it: no false alarm."""
    economy = Economy()
    economy.migrate(skip_invalid=True)
    Wallet.objects.filter(pk=economy.key("skipped")).update(blue=-1)

    def spend() -> None:
        try:
            spend_mana(economy.key("still"), 1, reference="meanwhile")
        finally:
            connections.close_all()

    checks: list[str] = []

    def meanwhile(finding: Finding) -> None:
        if not checks:
            thread = threading.Thread(target=spend)
            thread.start()
            thread.join()
        checks.append(finding.check)

    report = validation.validate(on_finding=meanwhile)
    assert ManaEntry.objects.filter(reference="meanwhile").exists()
    assert set(checks) >= {"negative_balance"}
    assert {check.id for check in report.checks if check.blocks} == {"negative_balance"}
    assert (
        report.totals["mana"] == ManaEntry.objects.count() * 0 + sum(Wallet.objects.values_list("mana", flat=True)) + 1
    )


def test_severities_add_up() -> None:
    make_wallets([(-1, 0, 0, 0), (10**6, 0, 0, 0), (0, 0, 0, 0)])
    report = validation.precheck()
    assert (report.remaining(ERROR), report.remaining(WARNING)) == (1, 1)
    assert report.as_dict()["ok"] is False
    assert report.check("negative_balance").blocks
    assert not report.check("large_conversion").blocks


def test_the_connection_is_writable_again_afterwards() -> None:
    validation.precheck()
    WalletFactory()
    assert connection.is_usable()


@contextmanager
def without_foreign_keys() -> Iterator[None]:
    """Write what a restored dump may hold, or an SQLite file that other programs write to."""
    off, on = (
        ("SET session_replication_role = replica", "RESET session_replication_role")
        if connection.vendor == "postgresql"
        else ("PRAGMA foreign_keys = OFF", "PRAGMA foreign_keys = ON")
    )
    with connection.cursor() as cursor:
        cursor.execute(off)
        yield
        cursor.execute(on)


@pytest.mark.django_db(transaction=True)
def test_wallets_without_a_user_are_an_error_and_left_out() -> None:
    wallets = make_wallets([(5, 0, 0)] * 4)
    with without_foreign_keys():
        get_user_model().objects.filter(pk__in=[wallet.pk for wallet in wallets[:2]])._raw_delete("default")
    UserFactory()
    assert {name: number for name, number in counts(phase=PRE).items() if name != "zero_balance"} == {
        "no_user": 2,
        "no_wallet": 1,
    }
    _, found = validate(phase=PRE)
    assert [finding.user for finding in found if finding.check == "no_user"] == [str(one.pk) for one in wallets[:2]]
    refused = run_command("migrate_users", "--no-input")
    assert (refused.code, "2 error-level findings block the run (no_user 2)" in refused.err) == (1, True)
    done = migrate("--skip-invalid", code=3)
    assert (done["users"]["migrated"], done["skipped"]) == (2, {"no_user": 2})
    with without_foreign_keys():
        Wallet.objects.filter(pk__in=[wallet.pk for wallet in wallets[:2]])._raw_delete("default")
