"""Finding the users whom an operator names."""

import uuid
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import models

from mana_migration.errors import AmbiguousUserError, UsageError, UserNotFoundError
from mana_migration.selectors import users as selector
from mana_migration.selectors.users import resolve_users
from tests.factories import UserFactory
from tests.support.databases import call_names_equal

pytestmark = pytest.mark.django_db


def test_a_primary_key_names_its_user() -> None:
    user = UserFactory()
    assert resolve_users([str(user.pk)]) == [str(user.pk)]


def test_a_username_names_its_user() -> None:
    user = UserFactory(username="alice")
    assert resolve_users(["alice"]) == [str(user.pk)]


def test_the_order_is_kept_and_each_user_comes_once() -> None:
    first, second = UserFactory(username="b"), UserFactory(username="a")
    assert resolve_users(["a", str(first.pk), "b", f"pk:{second.pk}"]) == [str(second.pk), str(first.pk)]


def test_a_number_that_is_one_users_key_and_anothers_name_is_refused_naming_both_ways() -> None:
    user = UserFactory()
    UserFactory(username=str(user.pk))
    with pytest.raises(AmbiguousUserError) as refusal:
        resolve_users([str(user.pk)])
    assert f"pk:{user.pk}" in str(refusal.value)
    assert f"username:{user.pk}" in str(refusal.value)
    assert isinstance(refusal.value, UsageError)  # exit code 2


def test_the_prefixes_say_which_of_the_two_is_meant() -> None:
    user = UserFactory()
    namesake = UserFactory(username=str(user.pk))
    assert resolve_users([f"pk:{user.pk}"]) == [str(user.pk)]
    assert resolve_users([f"username:{user.pk}"]) == [str(namesake.pk)]


def test_a_user_whose_name_is_their_own_key_is_not_ambiguous() -> None:
    user = UserFactory()
    User.objects.filter(pk=user.pk).update(username=str(user.pk))
    assert resolve_users([str(user.pk)]) == [str(user.pk)]


def test_a_username_with_a_prefix_in_it_is_reached_through_the_prefix() -> None:
    user = UserFactory(username="pk:57")
    with pytest.raises(UserNotFoundError):
        resolve_users(["pk:57"])
    assert resolve_users(["username:pk:57"]) == [str(user.pk)]


@pytest.mark.parametrize("value", ["", " ", "\t"])
def test_an_empty_value_is_refused(value: str) -> None:
    UserFactory()
    with pytest.raises(UserNotFoundError, match="no such user"):
        resolve_users([value])


@pytest.mark.parametrize(
    "value",
    [
        "nobody",
        "pk:",
        "username:",
        "pk:nobody",
        "999999999",
        "-1",
        str(2**63),
        str(10**40),
        "1.0",
        "1e3",
        "nul\0",
        "\udcff",
    ],
    ids=ascii,
)
def test_an_unknown_value_is_refused_as_it_was_typed(value: str) -> None:
    UserFactory()
    with pytest.raises(UserNotFoundError) as refusal:
        resolve_users([value])
    assert repr(value) in str(refusal.value)


@pytest.mark.parametrize("spelling", ["0{}", " {}", "+{}", "{}_0"])
def test_only_the_plain_spelling_of_a_number_is_a_primary_key(spelling: str) -> None:
    user = UserFactory()
    value = spelling.format(user.pk)
    with pytest.raises(UserNotFoundError):
        resolve_users([value])
    namesake = UserFactory(username=value)
    assert resolve_users([value]) == [str(namesake.pk)]


def test_one_unknown_value_refuses_all() -> None:
    user = UserFactory()
    with pytest.raises(UserNotFoundError, match="'nobody'"):
        resolve_users([str(user.pk), "nobody"])


def test_a_thousand_values_take_a_handful_of_queries(django_assert_max_num_queries: Any) -> None:
    users = UserFactory.create_batch(50)
    values = [str(user.pk) for user in users] * 20
    with django_assert_max_num_queries(4):
        assert len(resolve_users(values)) == 50


def test_a_uuid_key_is_recognised_with_and_without_dashes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Field(models.UUIDField):
        pass

    monkeypatch.setattr(get_user_model()._meta, "pk", Field())
    key = uuid.uuid4()
    for spelling in (str(key), key.hex, str(key).upper(), f"pk:{key}"):
        assert selector._key_of(spelling, "default") == str(key)
    assert selector._key_of("57", "default") is None


@pytest.mark.postgres
@pytest.mark.parametrize("how", ["citext", "collation"])
def test_a_name_finds_the_user_whom_the_database_finds(how: str) -> None:
    call_names_equal(how)
    alice, bob = UserFactory(username="Alice"), UserFactory(username="bob")
    assert resolve_users(["aLICE", "username:BOB", "bob", f"pk:{alice.pk}"]) == [str(alice.pk), str(bob.pk)]
    with pytest.raises(UserNotFoundError, match="carol"):
        resolve_users(["alice", "carol"])


def test_a_name_in_another_case_is_no_user_where_the_database_calls_it_another() -> None:
    UserFactory(username="Alice")
    with pytest.raises(UserNotFoundError, match="alice"):
        resolve_users(["alice"])
