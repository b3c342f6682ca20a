"""The list by user key: who is on it, with which figures."""

import io

import pytest

from mana_migration.domain.report import BeforeAfter
from mana_migration.reports import before_after as list_of_users
from mana_migration.selectors import before_after
from mana_migration.selectors.before_after import before_and_after
from mana_migration.states import RunKind, UserStatus
from tests.mana_migration.history import NOON, after, make_history, make_run, rewrite_records
from wishes.models import Wallet

pytestmark = pytest.mark.django_db

CONVERTED = [place for place in range(1, 13) if place % 5 and place % 7]  # as make_history does


def test_each_migrated_user_is_on_it_once_with_the_figures_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(before_after, "PAGE", 4)  # the users take several
    history = make_history(12)
    first, *_, last = found = list(before_and_after("default"))
    assert [user.user_key for user in found] == [history.users[place - 1].pk for place in CONVERTED]
    assert first == (history.users[0].pk, history.run.pk, "2026-11-23T12:00:00+00:00", 1, 2, 3, 0, 3210, 3210)
    assert last.mana_after == last.mana_credited == 12 * 3210


def test_users_rolled_back_since_and_those_of_the_old_system_are_not_on_it() -> None:
    history = make_history(12)
    kept, reversed_ = history.records[0], history.records[1]
    reversed_.status, reversed_.reversal_run = UserStatus.ROLLED_BACK, make_run(kind=RunKind.ROLLBACK)
    reversed_.reversed_at, reversed_.mana_debited, reversed_.shortfall = after(90), reversed_.mana_credited, 0
    reversed_.save()
    make_history(2, kind=RunKind.IMPORT)
    found = {user.user_key for user in before_and_after("default")}
    assert kept.user_id in found
    assert len(found) == len(CONVERTED) - 1
    assert reversed_.user_id not in found


def test_a_run_and_a_moment_narrow_it_down() -> None:
    history, other = make_history(12), make_history(1)
    assert len(list(before_and_after("default", run_id=history.run.pk))) == len(CONVERTED)
    assert [user.run for user in before_and_after("default", run_id=other.run.pk)] == [other.run.pk]
    assert len(list(before_and_after("default", since=NOON))) == len(CONVERTED) + 1
    assert list(before_and_after("default", since=after(1))) == []


def test_mana_that_a_user_had_before_is_part_of_what_there_is_after() -> None:
    history = make_history(1)
    record = history.records[0]
    rewrite_records(record.pk, mana_before=2**62)
    Wallet.objects.filter(user=record.user_id).update(mana=5)  # spent since, which is no part of it
    (found,) = before_and_after("default")
    assert (found.mana_before, found.mana_after) == (2**62, 2**62 + 3210)


def test_a_key_that_a_spreadsheet_would_take_for_a_formula_is_text() -> None:
    stream = io.BytesIO()
    users = [BeforeAfter("=1+1", 1, "2026-11-23T12:00:00+00:00", 1, 0, 0, -5, 10, 5)]
    assert list_of_users.write(users, stream) == 1
    assert stream.getvalue().decode().splitlines() == [
        "user_key,run,converted_at,green_before,blue_before,red_before,mana_before,mana_credited,mana_after",
        "'=1+1,1,2026-11-23T12:00:00+00:00,1,0,0,-5,10,5",
    ]
