"""Auto-fix puts right what has one reading, keeps what was there before, and leaves the rest with its reason."""

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connection, connections, transaction

from mana_migration import guards as migration_guards
from mana_migration.domain import repairs
from mana_migration.domain.options import MigrationOptions, RollbackOptions
from mana_migration.domain.validation import BY_LEDGER, CHECKS, Finding, FixReport
from mana_migration.engine import planning
from mana_migration.engine.integrity import findings, scope
from mana_migration.errors import FindingsError
from mana_migration.models import IntegrityFix, MigrationRun, UserMigration
from mana_migration.services import autofix, migration, operation, validation
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.migration import Migration
from mana_migration.services.rollback import Rollback
from tests.factories import WalletFactory, make_wallets
from tests.support.economy import Economy
from tests.support.foreign import Foreign, everything
from tests.support.oracle import assert_books_balance, assert_nothing_changes, endowment
from tests.support.violations import PLANTED
from wishes import conf as wishes_conf
from wishes import guards
from wishes.errors import WishesError
from wishes.models import ManaEntry, Wallet, WishEntry
from wishes.services import earn_mana, spend_mana

pytestmark = pytest.mark.django_db


def fix(**options: Any) -> tuple[FixReport, list[Finding]]:
    """Fix everything and return what was told."""
    told: list[Finding] = []
    report = autofix.fix_all(actor="olga", on_finding=told.append, **options)
    assert report.fixed == len(told)
    return report, told


def balances(wallet: Wallet) -> tuple[int, int, int, int]:
    wallet.refresh_from_db()
    return wallet.green, wallet.blue, wallet.red, wallet.mana


def past_the_guards(write: Callable[[], object]) -> None:
    """Write what the guards would refuse."""
    guards.uninstall(connection)
    write()
    guards.install(connection)


@pytest.fixture
def migrated() -> Wallet:
    """Return the wallet of a converted user: 3 green, 2 blue and 1 red became 1230 mana."""
    wallet = WalletFactory()
    options = MigrationOptions(users=(str(wallet.pk),))
    operation.execute(Migration(options), RunContext(actor=Actor("olga", "host")))
    wallet.refresh_from_db()
    return wallet


# --- What is fixed ----------------------------------------------------------------------------------------------------


def test_negative_wishes_are_set_to_0_with_before_and_after_kept() -> None:
    wallet = WalletFactory(green=-5, red=-1)
    before = endowment()
    report, (told,) = fix()
    assert report.fixed_by_check == {"negative_balance": 1}
    assert balances(wallet) == (0, 2, 0, 0)
    kept = IntegrityFix.objects.get()
    assert kept.before == {"green": -5, "blue": 2, "red": -1, "mana": 0, "migrated": False}
    assert kept.after == {"green": 0, "blue": 2, "red": 0, "mana": 0, "migrated": False}
    assert (kept.green_change, kept.blue_change, kept.red_change, kept.mana_change) == (5, 0, 1, 0)
    assert (kept.check_id, kept.user_id, kept.run, kept.actor) == ("negative_balance", wallet.pk, None, "olga")
    assert told.fixed
    assert told.user == str(wallet.pk)
    assert told.figures == {"green": "-5 -> 0", "red": "-1 -> 0"}
    assert_books_balance(expected=before)


def test_unbacked_mana_is_booked_as_found_and_as_written_off() -> None:
    wallet = WalletFactory()
    earn_mana(wallet.pk, 30, reference="x")
    Wallet.objects.filter(pk=wallet.pk).update(mana=77)
    before = endowment()
    fix()
    assert balances(wallet) == (3, 2, 1, 30)
    assert IntegrityFix.objects.get().mana_change == -47
    fixed = IntegrityFix.objects.get()
    assert list(ManaEntry.objects.order_by("pk").values_list("kind", "amount", "balance_after", "reference")) == [
        ("earn", 30, 30, "x"),
        ("adjustment", 47, 77, f"adjustment:fix:{fixed.pk}:found"),
        ("adjustment", -47, 30, f"adjustment:fix:{fixed.pk}:written_off"),
    ]
    assert_books_balance(expected=before)
    assert validation.precheck().ok


def test_a_debt_that_is_cancelled_is_booked_in_the_ledger_of_wishes() -> None:
    WalletFactory(green=-5, red=-1)
    fix()
    assert list(WishEntry.objects.order_by("pk").values_list("kind", "colour", "amount", "balance_after")) == [
        ("adjustment", "green", 5, 0),
        ("adjustment", "red", 1, 0),
    ]


def test_a_lost_flag_is_set_again_to_the_moment_of_the_record(migrated: Wallet) -> None:
    past_the_guards(lambda: Wallet.objects.filter(pk=migrated.pk).update(migrated_at=None))
    report, (told,) = fix()
    assert report.fixed_by_check == {"migration_inconsistency": 1}
    record = UserMigration.objects.get()
    migrated.refresh_from_db()
    assert migrated.migrated_at == record.created_at
    assert told.record == record.pk
    assert told.figures == {"migrated": "False -> True"}
    assert_books_balance()


def test_a_stale_write_is_undone_without_a_change_of_value(migrated: Wallet) -> None:
    before = endowment().value
    stale = {"green": 3, "blue": 2, "red": 1, "mana": 0, "migrated_at": None}
    past_the_guards(lambda: Wallet.objects.filter(pk=migrated.pk).update(**stale))
    report, _ = fix()
    assert report.fixed == 1
    assert balances(migrated) == (0, 0, 0, 1230)
    assert migrated.migrated_at is not None
    kept = IntegrityFix.objects.get()
    assert (kept.green_change, kept.blue_change, kept.red_change, kept.mana_change) == (-3, -2, -1, 1230)
    assert endowment().value == before
    assert_books_balance()


def test_a_flag_set_by_hand_is_cleared_and_the_guard_is_in_force_again() -> None:
    wallet = WalletFactory(green=0, blue=0, red=0)
    earn_mana(wallet.pk, 5, reference="x")
    Wallet.objects.filter(pk=wallet.pk).update(migrated_at="2026-01-01T00:00:00Z")
    fix()
    assert balances(wallet) == (0, 0, 0, 5)
    assert wallet.migrated_at is None
    assert_books_balance()
    Wallet.objects.filter(pk=wallet.pk).update(migrated_at="2026-01-01T00:00:00Z")
    with pytest.raises(DatabaseError, match=r"wishes\.services"), transaction.atomic():
        Wallet.objects.filter(pk=wallet.pk).update(migrated_at=None)


def test_many_users_are_fixed_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autofix, "PAGE", {"sqlite": 3, "postgresql": 3})
    monkeypatch.setattr(scope, "RANGE", 5)
    wallets = make_wallets([(-place, 0, 0, place) for place in range(1, 24)])
    before = endowment()
    report, _ = fix()
    assert report.fixed_by_check == {"negative_balance": 23, "orphaned_mana": 23}
    assert {balances(wallet) for wallet in wallets} == {(0, 0, 0, 0)}
    assert IntegrityFix.objects.count() == 46
    assert_books_balance(expected=before)


def test_named_users_alone_are_fixed() -> None:
    named, other = WalletFactory(green=-1), WalletFactory(green=-1)
    fix(users=[str(named.pk)])
    assert (balances(named)[0], balances(other)[0]) == (0, -1)


def test_only_the_checks_asked_for_are_fixed() -> None:
    wallet = WalletFactory(green=-1, mana=5)
    fix(checks=["orphaned_mana"])
    assert balances(wallet) == (-1, 2, 1, 0)


def test_fixing_twice_fixes_nothing_more() -> None:
    WalletFactory(green=-1, mana=5)
    assert fix()[0].fixed == 2
    assert fix()[0].fixed == 0


# --- What is left -----------------------------------------------------------------------------------------------------


def test_what_has_more_than_one_reading_is_left_as_it_is(migrated: Wallet) -> None:
    spent = WalletFactory(mana=77)
    spend_mana(spent.pk, 50, reference="x")  # the ledger's sum is negative
    poor = WalletFactory()
    earn_mana(poor.pk, 100, reference="y")
    Wallet.objects.filter(pk=poor.pk).update(mana=40)
    past_the_guards(lambda: Wallet.objects.filter(pk=migrated.pk).update(migrated_at=None, green=99))
    with assert_nothing_changes():
        report, _ = fix()
    assert report.left_by_check == {"orphaned_mana": 2, "migration_inconsistency": 1}
    told: list[Finding] = []
    validation.validate(on_finding=told.append)
    reasons = {finding.user: finding.reason for finding in told}
    assert reasons[str(spent.pk)].startswith("more was spent")
    assert reasons[str(poor.pk)].startswith("the ledger says more mana")
    assert reasons[str(migrated.pk)].startswith("the wallet holds neither")


def test_a_dry_run_tells_what_a_fix_does_and_changes_nothing() -> None:
    WalletFactory(green=-1, mana=5)
    with assert_nothing_changes():
        dry, told = fix(dry_run=True)
    assert dry.fixed_by_check == {"negative_balance": 1, "orphaned_mana": 1}
    assert not any(finding.fixed for finding in told)
    assert told[0].reason == "would be fixed: set to 0"
    assert fix()[0].fixed_by_check == dry.fixed_by_check


# --- Others at work ---------------------------------------------------------------------------------------------------


def test_a_finding_that_is_gone_when_its_wallet_is_locked_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the wallet had been negative a moment ago."""
    wallet = WalletFactory(green=5, mana=0)
    monkeypatch.setattr(findings, "users_hit", lambda *args: [str(wallet.pk)])
    with assert_nothing_changes():
        report, _ = fix()
    assert (report.fixed, report.left) == (0, 0)


def test_somebody_elses_lock_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(autofix.time, "sleep", waits.append)
    lock, seen = autofix.states.lock_wallets, []

    def locked_twice(*args: Any, **options: Any) -> Any:
        seen.append(args)
        if len(seen) < 3:
            raise OperationalError("database is locked")
        return lock(*args, **options)

    monkeypatch.setattr(autofix.states, "lock_wallets", locked_twice)
    WalletFactory(green=-1)
    assert fix()[0].fixed == 1
    assert waits == [0.1, 0.2]


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_one_held_wallet_keeps_no_other_from_being_fixed_and_is_named(settings: Any) -> None:
    settings.MANA_MIGRATION_LOCK_TIMEOUT_MS = 50
    held, *others = (WalletFactory(green=-1) for _ in range(4))
    in_transaction, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic():
                Wallet.objects.select_for_update().get(pk=held.pk)
                in_transaction.set()
                may_end.wait(60)
        finally:
            connections.close_all()

    thread = threading.Thread(target=hold)
    thread.start()
    assert in_transaction.wait(30)
    told: list[Finding] = []
    report = autofix.fix_all(actor="olga", on_finding=told.append)
    may_end.set()
    thread.join()
    assert (report.fixed, report.left_by_check) == (3, {"negative_balance": 1})
    assert {balances(wallet)[0] for wallet in others} == {0}
    assert balances(held)[0] == -1
    assert [(finding.user, finding.reason) for finding in told if not finding.fixed] == [
        (str(held.pk), "another session holds the wallet: give the command again")
    ]
    assert fix()[0].fixed == 1


def test_a_lock_on_the_whole_database_that_is_never_released_ends_the_fix_with_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(autofix.time, "sleep", lambda seconds: None)

    def always_locked(*args: Any, **options: Any) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(autofix.states, "lock_wallets", always_locked)
    wallet = WalletFactory(green=-1)
    with pytest.raises(OperationalError, match="locked"):
        fix()
    assert balances(wallet)[0] == -1
    assert not IntegrityFix.objects.exists()


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_an_entry_booked_while_the_fix_waits_for_the_wallet_is_seen() -> None:
    """The fix reads the ledger only once it has the lock, not before."""
    wallet = WalletFactory(mana=77)
    in_transaction, may_commit = threading.Event(), threading.Event()

    def earn() -> None:
        try:
            with transaction.atomic():
                earn_mana(wallet.pk, 5, reference="meanwhile")
                in_transaction.set()
                may_commit.wait(30)
        finally:
            connections.close_all()

    thread = threading.Thread(target=earn)
    thread.start()
    assert in_transaction.wait(30)

    def release(execute: Any, sql: str, *args: Any) -> Any:
        if "FOR NO KEY UPDATE" in sql:
            may_commit.set()
        return execute(sql, *args)

    with connection.execute_wrapper(release):
        report, _ = fix()
    thread.join()
    assert report.left_by_check == {"orphaned_mana": 1}  # 82 with an entry on top: no longer one reading
    assert balances(wallet)[3] == 82


# --- For a migration --------------------------------------------------------------------------------------------------


def test_a_migration_takes_the_fixes_made_for_it_and_no_others() -> None:
    old = WalletFactory(green=-1)
    fix()
    WalletFactory(green=-2)
    economy = Economy()
    economy.migrate(auto_fix=True)
    run = MigrationRun.objects.get()
    assert IntegrityFix.objects.get(user_id=old.pk).run is None
    assert set(IntegrityFix.objects.exclude(user_id=old.pk).values_list("run", flat=True)) == {run.pk}
    assert IntegrityFix.objects.filter(run=run).count() == 4
    assert_books_balance()


def test_a_migration_is_refused_where_auto_fix_left_something() -> None:
    WalletFactory(red=2**62)
    WalletFactory(green=-2)
    economy = Economy()
    with pytest.raises(FindingsError, match="1 error-level finding blocks the run"):
        economy.migrate(auto_fix=True)
    assert not MigrationRun.objects.exists()


# --- Within the scope of a run, and undone with it --------------------------------------------------------------------


def wallets() -> list[tuple[Any, ...]]:
    """Return everything that wallets hold."""
    return list(Wallet.objects.order_by("pk").values_list("pk", "green", "blue", "red", "mana", "migrated_at"))


def findings_now() -> dict[str, int]:
    """Return the error-level findings, by check."""
    return {
        check.id: check.count for check in validation.validate().checks if check.severity == "error" and check.count
    }


def migrate_all(**options: Any) -> int:
    """Migrate everybody whom the options select and return the run."""
    run = operation.execute(
        Migration(MigrationOptions(auto_fix=True, **options)), RunContext(actor=Actor("olga", "host"))
    ).run
    assert run is not None
    return run


def dirty(number: int) -> None:
    """Make so many wallets, every second with a debt and every third with mana that nothing backs."""
    make_wallets(
        [
            (-place if place % 2 else place, place, 1, 7 * place if place % 3 == 0 else 0)
            for place in range(1, number + 1)
        ]
    )


@pytest.mark.parametrize("options", [{"cohort": 2_000}, {"limit": 5}], ids=["cohort", "limit"])
def test_only_users_whom_the_run_selects_are_fixed(options: dict[str, int]) -> None:
    dirty(40)
    migrate_all(**options)
    handled = set(UserMigration.objects.values_list("user_id", flat=True))
    assert handled
    assert len(handled) < 20
    assert set(IntegrityFix.objects.values_list("user_id", flat=True)) <= handled
    assert not Wallet.objects.filter(pk__in=handled, migrated_at=None).exists()


def test_users_who_failed_earlier_are_the_last_of_a_limit() -> None:
    dirty(3)
    rich = WalletFactory(red=2**62)  # never to be converted
    operation.execute(Migration(MigrationOptions(users=(str(rich.pk),))), RunContext(actor=Actor("olga", "host")))
    assert UserMigration.objects.get(user=rich.pk).status == "failed"
    terms = migration.terms_of_request(MigrationOptions(limit=3), wishes_conf.rates())
    keys = [str(key) for key in Wallet.objects.values_list("pk", flat=True)]
    assert str(rich.pk) not in planning.selected_among(connection, terms, keys, limit=3)
    assert str(rich.pk) in planning.selected_among(connection, terms, keys, limit=4)


@pytest.mark.parametrize(
    "selector",
    [
        lambda run: {"everything": True},
        lambda run: {"run": run},
        lambda run: {"since": MigrationRun.objects.get(pk=run).created_at},
        lambda run: {"users": tuple(str(key) for key in Wallet.objects.values_list("pk", flat=True))},
    ],
    ids=["all", "run", "since", "users"],
)
@pytest.mark.parametrize("preserve_logs", [True, False])
def test_a_run_and_its_rollback_leave_every_wallet_as_it_was_dirt_included(
    selector: Callable[[int], dict[str, Any]], preserve_logs: bool
) -> None:
    dirty(20)
    WalletFactory(green=0, blue=0, red=0)
    Wallet.objects.filter(pk=Wallet.objects.latest("pk").pk).update(migrated_at=datetime(2026, 1, 1, tzinfo=UTC))
    before, found, value = wallets(), findings_now(), endowment()
    run = migrate_all()
    assert findings_now() == {}
    options = RollbackOptions(**selector(run), preserve_logs=preserve_logs)
    done = operation.execute(Rollback(options), RunContext(actor=Actor("olga", "host")))
    assert done.status == "completed", done.reason
    assert wallets() == before
    assert findings_now() == found
    assert endowment() == value
    fixes, undone = IntegrityFix.objects.filter(undoes=None), IntegrityFix.objects.exclude(undoes=None)
    assert {fix.undoes_id for fix in undone} == {fix.pk for fix in fixes}
    assert set(undone.values_list("run", flat=True)) == {done.run}
    migrate_all()
    assert findings_now() == {}


def test_what_a_user_earned_meanwhile_stays_theirs_when_a_fix_is_undone() -> None:
    wallet = WalletFactory(green=-5, mana=40)
    migrate_all()
    earn_mana(wallet.pk, 30, reference="meanwhile")
    operation.execute(Rollback(RollbackOptions(everything=True)), RunContext(actor=Actor("olga", "host")))
    assert balances(wallet) == (-5, 2, 1, 70)


def test_keep_fixes_leaves_them() -> None:
    wallet = WalletFactory(green=-5, mana=40)
    migrate_all()
    operation.execute(
        Rollback(RollbackOptions(everything=True, keep_fixes=True)), RunContext(actor=Actor("olga", "host"))
    )
    assert balances(wallet) == (0, 2, 1, 0)


def test_a_fix_is_undone_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wallet = WalletFactory(green=-5)
    run = migrate_all()
    done = operation.execute(Rollback(RollbackOptions(run=run)), RunContext(actor=Actor("olga", "host")))
    assert done.run is not None
    assert autofix.undo_of_rollback(done.run, RollbackOptions(run=run), actor="olga") == 0
    assert balances(wallet)[0] == -5


# --- By the ledger ----------------------------------------------------------------------------------------------------


def test_users_whom_a_trigger_credited_twice_are_repaired_by_the_ledger_and_can_be_rolled_back(
    migrated: Wallet,
) -> None:
    Wallet.objects.filter(pk=migrated.pk).update(mana=2460)  # every entry was added to the wallet again
    assert findings_now() == {"ledger_mismatch": 1}
    with assert_nothing_changes():
        told: list[Finding] = []
        dry = autofix.fix_by_ledger(actor="olga", users=[str(migrated.pk)], dry_run=True, on_finding=told.append)
    assert dry.fixed == 1
    assert told[0].figures == {"mana": "2460 -> 1230"}
    assert autofix.fix_by_ledger(actor="olga", users=[str(migrated.pk)]).fixed == 1
    assert balances(migrated)[3] == 1230
    assert findings_now() == {}
    kept = IntegrityFix.objects.get()
    assert (kept.before["mana"], kept.after["mana"], kept.mana_change) == (2460, 1230, -1230)
    operation.execute(Rollback(RollbackOptions(everything=True)), RunContext(actor=Actor("olga", "host")))
    assert balances(migrated) == (3, 2, 1, 0)
    assert findings_now() == {}


def test_what_later_entries_were_booked_on_is_repaired_by_the_ledger() -> None:
    wallet = WalletFactory(mana=77)
    earn_mana(wallet.pk, 5, reference="meanwhile")
    assert fix()[0].left_by_check == {"orphaned_mana": 1}
    autofix.fix_by_ledger(actor="olga", users=[str(wallet.pk)])
    assert balances(wallet)[3] == 5
    assert findings_now() == {}
    assert fix()[0].fixed == 0


def test_a_balance_in_the_middle_that_does_not_follow_is_named_and_its_sum_confirmed(migrated: Wallet) -> None:
    earn_mana(migrated.pk, 5, reference="one")
    earn_mana(migrated.pk, 6, reference="two")
    wrong = ManaEntry.objects.get(reference="one")
    past_the_guards(lambda: ManaEntry.objects.filter(pk=wrong.pk).update(balance_after=9_999))
    found: list[Finding] = []
    validation.validate(on_finding=found.append)
    (mismatch,) = [finding for finding in found if finding.check == "ledger_mismatch"]
    named = {name: mismatch.figures[name] for name in ("entry", "balance_after", "expected_balance")}
    assert named == {"entry": wrong.pk, "balance_after": 9_999, "expected_balance": 1_235}
    with assert_nothing_changes():
        assert autofix.fix_by_ledger(actor="olga", users=[str(migrated.pk)], dry_run=True).fixed == 1
    assert autofix.fix_by_ledger(actor="olga", users=[str(migrated.pk)]).fixed == 1
    assert balances(migrated) == (0, 0, 0, 1_241)
    assert findings_now() == {}
    assert IntegrityFix.objects.get().before["newest_entry"] == ManaEntry.objects.get(reference="two").pk
    assert autofix.fix_by_ledger(actor="olga", users=[str(migrated.pk)]).fixed == 0
    earn_mana(migrated.pk, 7, reference="three")
    past_the_guards(lambda: ManaEntry.objects.filter(reference="three").update(balance_after=8))
    assert findings_now() == {"ledger_mismatch": 1}  # what comes later is not confirmed by it


def test_every_finding_that_names_the_repair_by_the_ledger_has_it(economy: Economy, subtests: Any) -> None:
    """Of each planted violation the repair is shown, made and recorded, and the finding is gone; or it says why not."""
    named = {check.id for check in CHECKS if check.no_fix == BY_LEDGER or check.id in repairs.FIXABLE}
    before = hits(named)
    repaired = 0
    for _, name, plant in PLANTED:
        with subtests.test(name), transaction.atomic():
            plant(economy)
            for check, user in hits(named) - before:
                told: list[Finding] = []
                dry = autofix.fix_by_ledger(actor="olga", users=[user], dry_run=True, on_finding=told.append)
                made = autofix.fix_by_ledger(actor="olga", users=[user])
                assert (dry.fixed, dry.left) == (made.fixed, made.left)
                if made.fixed:
                    assert IntegrityFix.objects.filter(user_id=user, check_id="ledger_mismatch").exists()
                    repaired += 1
                assert (check, user) not in hits(named) or re.search("backup|book what", told[-1].reason)
            transaction.set_rollback(True)
    assert repaired > 10


def hits(checks: set[str]) -> set[tuple[str, str]]:
    """Return the users with findings of these checks."""
    found: list[Finding] = []
    validation.validate(on_finding=found.append, all_hits=True, chains=False)
    return {(finding.check, finding.user or "") for finding in found if finding.check in checks}


# --- What a site's triggers do ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "foreign",
    everything("wishes_wallet", "wishes_manaentry", "wishes_wishentry", "mana_migration_integrityfix"),
    ids=str,
)
@pytest.mark.parametrize("undo", [False, True], ids=["fix", "undo"])
def test_a_fix_that_the_database_does_not_keep_is_an_error_and_changes_nothing(foreign: Foreign, undo: bool) -> None:
    wallet = WalletFactory(green=-5, mana=40)
    expected = (0, 2, 1, 0)
    run = 0
    if undo:
        run = migrate_all()
        operation.execute(Rollback(RollbackOptions(run=run, keep_fixes=True)), RunContext(actor=Actor("olga", "host")))
        expected = (-5, 2, 1, 40)
    before, fixes = balances(wallet), IntegrityFix.objects.count()
    foreign.attach()
    try:
        with transaction.atomic():
            if undo:
                autofix.undo_of_rollback(run, RollbackOptions(run=run), actor="olga")
            else:
                autofix.fix_all(actor="olga")
    except (DatabaseError, WishesError):
        assert balances(wallet) == before
        assert IntegrityFix.objects.count() == fixes
    else:
        assert balances(wallet) == expected


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE mana_migration_integrityfix SET mana_change = mana_change + 1 WHERE id = {first}",
        "UPDATE mana_migration_integrityfix SET actor = 'someone else' WHERE id = {first}",
        "DELETE FROM mana_migration_integrityfix WHERE id = {first}",
        "INSERT INTO mana_migration_integrityfix (check_id, user_id, before, after, green_change, blue_change, "
        "red_change, mana_change, actor, created_at) SELECT check_id, user_id, before, after, 0, 0, 0, 0, actor, "
        "created_at FROM mana_migration_integrityfix WHERE id = {first}",
    ],
    ids=["changed", "actor", "deleted", "forged"],
)
def test_a_fix_that_was_changed_deleted_or_forged_past_the_guards_is_named(tamper: str) -> None:
    dirty(6)
    fix()
    assert findings_now() == {}
    first = IntegrityFix.objects.order_by("pk")[0].pk

    def write() -> None:
        with connection.cursor() as cursor:
            cursor.execute(tamper.format(first=first))

    migration_guards.uninstall(connection)
    write()
    migration_guards.install(connection)
    assert findings_now() == {"digest_mismatch": 1} | ({"missing_entry": 1} if "DELETE" in tamper else {})


@pytest.mark.parametrize("write", ["UPDATE {table} SET actor = 'x'", "DELETE FROM {table}"])
def test_a_fix_is_never_changed_or_deleted(write: str) -> None:
    WalletFactory(green=-1)
    fix()
    refused = pytest.raises(DatabaseError, match=r"never changed|never deleted")
    with refused, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(write.format(table="mana_migration_integrityfix"))
