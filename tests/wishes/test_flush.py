"""Django's flush: a site's tests and development databases are emptied, a ledger by mistake never."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.auth.models import Permission
from django.core import mail
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction

from mana_migration import guards
from mana_migration.models import MigrationRun
from tests.mana_migration.running import migrate, people
from tests.support.commands import run_command
from tests.support.flush import as_in_a_site
from wishes import guards as wishes_guards
from wishes.models import ManaEntry, Wallet

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def of_a_site() -> Iterator[None]:
    with as_in_a_site():
        yield


@pytest.fixture
def outside_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mail, "outbox")


def rows() -> list[int]:
    return [model.objects.count() for model in (Wallet, ManaEntry, MigrationRun)]


def every_guard_is_in_force() -> bool:
    return not wishes_guards.faults(connection) and not guards.faults(connection)


def test_tests_of_a_site_empty_every_table_and_the_guards_are_back() -> None:
    people(2)
    migrate()
    call_command("flush", verbosity=0, interactive=False)  # as TransactionTestCase does
    assert rows() == [0, 0, 0]
    assert every_guard_is_in_force()
    assert Permission.objects.exists()
    call_command("flush", verbosity=0, interactive=False, inhibit_post_migrate=True)
    people(1)
    migrate()
    with pytest.raises(IntegrityError), transaction.atomic():
        ManaEntry.objects.all().delete()


def test_a_database_whose_ledgers_are_empty_is_flushed_like_any_other(outside_tests: None) -> None:
    people(2)
    assert run_command("flush", "--no-input").code == 0
    assert rows() == [0, 0, 0]
    assert every_guard_is_in_force()


def test_a_ledger_is_emptied_only_where_the_option_says_so(outside_tests: None) -> None:
    people(2)
    migrate()
    refused = run_command("flush", "--no-input")
    assert refused.code == 1
    assert "pass --with-ledgers" in refused.err
    assert rows() == [2, 2, 1]
    assert every_guard_is_in_force()
    assert run_command("flush", "--no-input", "--with-ledgers").code == 0
    assert rows() == [0, 0, 0]
    assert every_guard_is_in_force()


def test_a_flush_that_fails_leaves_the_guards_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    people(1)
    migrate()
    monkeypatch.setattr("django.core.management.commands.flush.sql_flush", lambda *_, **__: ["TRUNCATE nowhere_at_all"])
    assert run_command("flush", "--no-input").code == 1
    assert rows() == [1, 1, 1]
    assert every_guard_is_in_force()


def test_guards_that_are_missing_are_no_obstacle_and_stay_missing() -> None:
    wishes_guards.uninstall(connection)
    try:
        call_command("flush", verbosity=0, interactive=False)
        assert wishes_guards.faults(connection)
    finally:
        wishes_guards.install(connection)
