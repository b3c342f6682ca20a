"""The Python library: what the old converter offered, for shells and other code."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from mana_migration import api
from mana_migration.errors import (
    FindingsError,
    MigrationError,
    NothingToRollBackError,
    RunConflictError,
    UsageError,
    UserNotFoundError,
)
from mana_migration.models import MigrationRun
from tests.factories import UserFactory, WalletFactory, make_wallets
from tests.mana_migration.running import balanced, cure, people, refuse_records, wallet
from tests.support.oracle import assert_nothing_changes
from wishes import services
from wishes.models import Wallet

pytestmark = pytest.mark.django_db


def test_the_rates_and_the_worth_of_a_balance() -> None:
    assert api.rates().as_dict() == {"green": 10, "blue": 100, "red": 1000}
    assert api.worth(10, 5, 2) == 2_600
    assert api.worth(green=100, blue=50, red=10) == 16_000
    assert api.worth() == 0
    assert api.worth(999_999, 999_999, 999_999) == 1_109_998_890
    assert api.worth(red=2**63) == 1000 * 2**63


def test_one_user_is_migrated_by_object_or_key() -> None:
    first, second = people(2)
    with balanced():
        done = api.migrate_user(Wallet.objects.get(pk=first).user)
        assert (done.totals.migrated, done.totals.mana, done.status) == (1, 1230, "completed")
        assert api.migrate_user(second).totals.migrated == 1
        again = api.migrate_user(str(second))
        assert (again.totals.migrated, again.totals.skips) == (0, {"already_migrated": 1})


@pytest.mark.parametrize("user", [0, -1, 10**30, "nobody", None, 1.5, object()])
@pytest.mark.parametrize("call", [api.migrate_user, api.validate_user, lambda user: api.roll_back(users=[user])])
def test_a_user_who_does_not_exist_is_refused(call: Any, user: Any) -> None:
    with assert_nothing_changes(), pytest.raises(UserNotFoundError):
        call(user)


def test_a_user_without_a_wallet_has_nothing_to_migrate() -> None:
    user = UserFactory()
    assert api.migrate_user(user).totals.skips == {"no_wallet": 1}
    report = api.validate_user(user)
    assert report.valid
    assert [note.check for note in report.notes] == ["no_wallet"]


def test_a_user_is_validated_with_errors_and_warnings_and_nothing_is_changed() -> None:
    good = WalletFactory(green=1, blue=0, red=0).pk
    bad = WalletFactory(green=-5, blue=-1).pk
    rich = WalletFactory(red=101).pk
    empty = WalletFactory(green=0, blue=0, red=0).pk
    with assert_nothing_changes():
        assert api.validate_user(good) == api.UserReport(str(good), (), (), ())
        report = api.validate_user(bad)
        assert (report.valid, {error.check for error in report.errors}) == (False, {"negative_balance"})
        assert [warning.check for warning in api.validate_user(rich).warnings] == ["large_conversion"]
        assert [note.check for note in api.validate_user(empty).notes] == ["zero_balance"]


def test_a_migrated_user_is_valid() -> None:
    (key,) = people(1)
    api.migrate_user(key)
    report = api.validate_user(key)
    assert (report.valid, [note.check for note in report.notes]) == (True, ["already_migrated"])


def test_many_are_migrated_with_a_progress_callback() -> None:
    make_wallets([(10, 5, 2), (100, 50, 10), (0, 0, 0)])
    told: list[int] = []
    with balanced():
        done = api.migrate_users(batch_size=1, progress=lambda result: told.append(result.totals.mana))
    assert (done.totals.migrated, done.totals.mana) == (3, 18_600)
    assert sorted(told) == [0, 2_600, 16_000]
    assert api.statistics().average_mana == 6_200


def test_an_open_run_is_gone_on_with_whatever_its_controls() -> None:
    people(4)
    run = MigrationRun.objects.create(
        kind="migration", status="running", rates=api.rates().as_dict(),
        controls={"batch_size": 3, "delay": 0.0, "error_threshold": "5"},
    )  # fmt: skip
    with pytest.raises(RunConflictError, match="batch_size is 3, not 2"):
        api.migrate_users(batch_size=2)
    with balanced():
        assert api.migrate_users().run == run.pk


def test_findings_stand_in_the_way_until_they_are_fixed_or_skipped() -> None:
    people(2)
    WalletFactory(green=-1)
    with pytest.raises(FindingsError):
        api.migrate_users()
    assert api.forecast(skip_invalid=True).totals.migrated == 2
    with balanced():
        assert api.migrate_users(limit=1, skip_invalid=True).totals.migrated == 1
        assert api.migrate_users(auto_fix=True).totals.migrated == 2


def test_conversions_are_taken_back_by_user_run_date_or_all() -> None:
    keys = people(4)
    before = timezone.now()
    with balanced():
        run = api.migrate_users().run
        assert api.roll_back(users=[keys[0]], reason="ticket 7").totals.rolled_back == 1
        assert api.forecast_rollback(run=run).totals.rolled_back == 3
        assert api.roll_back(run=run).totals.rolled_back == 3
        api.migrate_users()
        assert api.roll_back(since=before).totals.rolled_back == 4
        api.migrate_users()
        assert api.roll_back(everything=True).totals.rolled_back == 4
    with pytest.raises(NothingToRollBackError):
        api.roll_back(everything=True)
    with pytest.raises(UsageError):
        api.roll_back()


def test_statistics_count_each_user_in_one_place() -> None:
    keys = people(6)
    refuse_records(keys[:1])
    api.migrate_user(keys[0])
    cure()
    api.migrate_user(keys[1])
    api.migrate_user(keys[2])
    api.roll_back(users=[keys[2]])
    api.migrate_user(keys[3])
    api.roll_back(users=[keys[3]])
    api.migrate_user(keys[3])
    services.earn_mana(keys[1], 70, reference="quest")
    services.earn_mana(keys[5], 1_000, reference="unmigrated")
    UserFactory()
    found = api.statistics()
    users = found.users
    assert (users.total, users.migrated, users.pending) == (6, 2, 4)
    assert (users.failed, users.rolled_back, users.skipped) == (1, 1, 0)
    assert users.progress == pytest.approx(1 / 3)
    assert (found.largest_mana, found.smallest_mana, found.negative_balances) == (1300, 1230, 0)
    assert [one.mana for one in found.latest] == [1230, 1230]
    assert found.latest[0].record > found.latest[1].record
    assert (found.green, found.blue, found.red, found.mana) == (4 * 3, 4 * 2, 4, 2 * 1230 + 1_070)
    assert found.average_mana == (1300 + 1230) / 2


def test_statistics_of_an_empty_site() -> None:
    found = api.statistics()
    assert (found.users.total, found.users.progress, found.mana, found.average_mana) == (0, 1.0, 0, 0.0)
    assert (found.largest_mana, found.latest) == (0, [])


def test_users_who_are_given_come_back_as_migrated_skipped_or_failed() -> None:
    keys = people(5)
    api.migrate_user(keys[0])
    refuse_records([keys[1]])
    nothing = UserFactory()
    told: list[tuple[int, int]] = []
    found = api.migrate_users([*keys[:4], nothing], progress=lambda done, total: told.append((done, total)))
    assert found.migrated == (str(keys[2]), str(keys[3]))
    assert found.skipped == {str(keys[0]): "already_migrated", str(nothing.pk): "no_wallet"}
    assert list(found.failed) == [str(keys[1])]
    assert told == [(5, 5)]
    assert (found.totals.migrated, found.totals.failed, len(found.runs)) == (2, 1, 1)
    assert not Wallet.objects.get(pk=keys[4]).migrated_at


def test_many_users_are_given_a_thousand_in_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_SELECTED_USERS", 2)
    keys = people(5)
    told: list[tuple[int, int]] = []
    found = api.migrate_users([*keys, keys[0]], progress=lambda done, total: told.append((done, total)))
    assert len(found.migrated) == 5
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert len(set(found.runs)) == 3


def test_one_unknown_user_among_those_given_keeps_the_others_as_they_are() -> None:
    keys = people(2)
    with assert_nothing_changes(), pytest.raises(UserNotFoundError):
        api.migrate_users([*keys, 999_999_999])


@pytest.mark.parametrize("size", [0, "many", -1, 10**9])
def test_a_bad_batch_size_is_refused(size: Any) -> None:
    with assert_nothing_changes(), pytest.raises(UsageError):
        api.migrate_users(batch_size=size)


def test_every_error_of_the_library_is_of_one_family() -> None:
    for error in (FindingsError, NothingToRollBackError, RunConflictError, UsageError, UserNotFoundError):
        assert issubclass(error, MigrationError)


def test_everything_documented_is_there() -> None:
    assert api.__doc__
    for name in api.__all__:
        assert getattr(api, name).__doc__, name
    assert wallet.__doc__
