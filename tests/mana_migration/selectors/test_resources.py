"""The figures of the database and of this process."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from django.db import connection, transaction

from mana_migration.selectors.resources import resources
from tests.factories import WalletFactory
from wishes.models import Wallet

pytestmark = pytest.mark.django_db


def figures() -> dict[str, tuple[float | None, str]]:
    return {figure.what: (figure.value, figure.unit) for figure in resources().figures()}


def test_this_process_is_measured() -> None:
    found = figures()
    assert 10_000_000 < (found["memory of this process at its peak"][0] or 0) < 10_000_000_000
    assert (found["processor time of this process"][0] or 0) > 0


@pytest.mark.postgres
def test_the_server_says_how_busy_it_is() -> None:
    found = figures()
    connections, limit = found["connections"]
    assert 1 <= (connections or 0) <= int(limit.removeprefix("of ").replace(",", ""))
    assert found["sessions that wait for a lock"][0] == 0
    assert (found["size of the database"][0] or 0) > 1_000_000
    assert "dead rows of wishes_wallet" in found
    assert found["checkpoints"][0] is not None


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_who_waits_for_whom_is_named_by_application() -> None:
    key = WalletFactory().pk

    def wait() -> None:
        from django.db import connections

        with connections["default"].cursor() as cursor:
            cursor.execute("SET application_name = 'the waiting one'")
        Wallet.objects.filter(pk=key).update(green=7)
        connections["default"].close()

    waiting = threading.Thread(target=wait)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL application_name = 'the holding one'")
        Wallet.objects.filter(pk=key).update(green=6)
        waiting.start()
        for _ in range(200):
            if found := [what for what in figures() if " waits for " in what]:
                break
            waiting.join(0.05)
    waiting.join(10)
    assert found == ["the waiting one waits for the holding one"]


@pytest.mark.sqlite
def test_a_file_says_its_size_and_the_room_on_its_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "site.sqlite3"
    path.write_bytes(b"x" * 5_000)
    monkeypatch.setitem(connection.settings_dict, "NAME", str(path))
    found = resources()
    assert (found.server, found.size) == (None, 5_000)
    assert (found.room or 0) > 0


@pytest.mark.postgres
def test_the_room_of_a_server_on_another_machine_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict, "HOST", "db.example.org")
    assert resources().room is None
