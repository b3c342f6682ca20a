"""Direct writes of wallets are seen while they are observed, and the tool's own are not."""

from __future__ import annotations

import pytest
from django.db import connection, transaction
from django.db.models import F

from mana_migration.errors import PreflightError
from mana_migration.models import DirectWrite
from mana_migration.services import observation, preflight
from tests.factories import WalletFactory, make_wallets
from tests.mana_migration.running import migrate, roll_back
from tests.support.commands import run_command
from wishes import services
from wishes.models import Wallet


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
class TestOnPostgreSQL:
    @pytest.fixture(autouse=True)
    def _observed(self) -> None:
        observation.start("default")
        observation.start("default")  # again changes nothing

    def test_direct_writes_are_counted_by_application_and_columns(self) -> None:
        wallets = make_wallets([(1, 0, 0), (2, 0, 0)])
        for wallet in wallets:
            Wallet.objects.filter(pk=wallet.pk).update(green=F("green") + 1, mana=F("mana") + 5)
        wallets[0].refresh_from_db()
        wallets[0].save()
        found = observation.summary("default")
        assert found.active
        assert [(each.columns, each.writes) for each in found.seen] == [("green, mana", 2), ("", 1)]

    def test_what_the_tool_writes_itself_is_not_seen(self) -> None:
        make_wallets([(1, 2, 3)] * 3)
        user = WalletFactory().user
        services.earn_wishes(user, "green", 2, reference="quest:1")
        with transaction.atomic():
            services.spend_wishes(user, "green", 1, reference="order:1")
            services.earn_mana(user, 7, reference="gift:1")
        migrate()
        services.spend_mana(user, 3, reference="order:2")
        roll_back("--all")
        assert observation.summary("default").seen == ()

    def test_a_direct_write_beside_a_service_call_of_another_user_is_seen(self) -> None:
        first, second = make_wallets([(1, 0, 0), (2, 0, 0)])
        with transaction.atomic():
            services.earn_wishes(first.user, "green", 2, reference="quest:1")
            Wallet.objects.filter(pk=second.pk).update(red=9)
        assert [each.columns for each in observation.summary("default").seen] == ["red"]

    def test_it_is_no_trigger_of_the_sites_own(self) -> None:
        assert preflight.check("default") is None
        assert not [each for each in preflight._attachments("default") if each.name == observation.TRIGGER]

    def test_the_command_lists_and_ends_it(self) -> None:
        (wallet,) = make_wallets([(1, 0, 0)])
        Wallet.objects.filter(pk=wallet.pk).update(green=3)
        lines = run_command("install_guards").out.splitlines()
        assert lines[1] == "observing direct writes of wallets: 1 write recorded"
        assert "green; first " in lines[2]
        assert run_command("install_guards", "--no-observe").out == "every guard is in force\n"
        assert not DirectWrite.objects.exists()
        Wallet.objects.filter(pk=wallet.pk).update(green=4)
        assert not DirectWrite.objects.exists()

    @pytest.fixture(autouse=True)
    def _ended(self) -> None:
        yield
        observation.stop("default")


@pytest.mark.sqlite
@pytest.mark.django_db
def test_sqlite_is_refused() -> None:
    with pytest.raises(PreflightError, match="on PostgreSQL"):
        observation.start("default")
    assert connection.vendor == "sqlite"
    assert not observation.summary("default").active
