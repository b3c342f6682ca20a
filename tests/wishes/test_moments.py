"""Times mean the same with and without time zones in the settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth import get_user_model
from django.db.models import DateTimeField
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone

from mana_migration.models import MigrationRun, UserMigration
from mana_migration.services import runs
from tests.mana_migration.running import migrate, people, roll_back, wallet
from tests.mana_migration.stories import url
from tests.support.commands import run_command
from wishes import services
from wishes.models import ManaEntry, Wallet
from wishes.moments import MomentField

pytestmark = pytest.mark.django_db


@pytest.fixture
def without_time_zones(settings: Any) -> None:
    settings.TIME_ZONE = "America/New_York"
    settings.USE_TZ = False


def is_now(moment: datetime) -> bool:
    here = (
        datetime.now(UTC) if timezone.is_aware(moment) else timezone.localtime(datetime.now(UTC)).replace(tzinfo=None)
    )
    return abs(moment - here) < timedelta(minutes=1)


def test_the_columns_are_djangos_own_so_that_no_schema_migration_is_needed() -> None:
    field = MomentField(null=True, always_aware=True)
    assert field.deconstruct()[1:] == ("django.db.models.DateTimeField", [], {"null": True})


def test_every_time_of_our_models_is_such_a_field() -> None:
    models = [model for label in ("wishes", "mana_migration") for model in apps.get_app_config(label).get_models()]
    times = [field for model in models for field in model._meta.local_fields if isinstance(field, DateTimeField)]
    assert len(times) > 10
    assert [str(field) for field in times if not isinstance(field, MomentField)] == []


@pytest.mark.parametrize("use_tz", [True, False], ids=["aware", "naive"])
def test_what_the_database_and_the_application_write_is_read_as_the_same_moment(use_tz: bool, settings: Any) -> None:
    settings.TIME_ZONE = "America/New_York"
    settings.USE_TZ = use_tz
    people(1)
    migrate()
    found, entry, run = Wallet.objects.get(), ManaEntry.objects.get(), MigrationRun.objects.get()
    for moment in (found.migrated_at, found.updated_at, entry.created_at):
        assert timezone.is_aware(moment) is use_tz  # as the site expects it
        assert is_now(moment)
    for moment in (
        run.created_at,
        run.finished_at,
        UserMigration.objects.get().created_at,
        runs.database_now("default"),
    ):
        assert timezone.is_aware(moment)
        assert is_now(moment)
    found.save()  # auto_now
    found.refresh_from_db()
    assert is_now(found.updated_at)
    assert ManaEntry.objects.filter(created_at=entry.created_at).exists()
    assert not ManaEntry.objects.filter(created_at__gt=entry.created_at).exists()
    assert is_now(Wallet.objects.annotate(now=Now(output_field=MomentField())).get().now)


def test_a_rollback_since_a_moment_takes_what_came_after_it(without_time_zones: None) -> None:
    early = people(2)
    migrate()
    moment = timezone.localtime(runs.database_now("default"))
    late = people(2)
    second = migrate()
    listed = json.loads(run_command("monitor_migration", "--since", moment.isoformat(), "--format", "json").out)
    assert [run["run"] for run in listed["runs"]] == [second["run"]]
    done = roll_back("--since", f"{moment:%Y-%m-%dT%H:%M:%S.%f}")  # a local time, without its zone
    assert done["users"]["rolled_back"] == len(late)
    assert all(wallet(key)[4] for key in early)
    assert not any(wallet(key)[4] for key in late)


def test_screens_and_pages_show_local_times(without_time_zones: None, client: Client) -> None:
    (key,) = people(1)
    services.earn_wishes(key, "red", 1, reference="before")
    run = migrate()["run"]
    services.earn_mana(key, 5, reference="since")  # a time of the site among those of the run
    hour = f"{timezone.localtime(MigrationRun.objects.get().created_at):%Y-%m-%d %H:}"
    assert hour in run_command("monitor_migration").out
    assert hour in run_command("monitor_migration", "--report").out
    client.force_login(get_user_model().objects.create_superuser("root"))
    pages: tuple[tuple[str, Callable[[], str]], ...] = (
        ("overview", lambda: url("overview")), ("run", lambda: url("run", run)), ("user", lambda: url("user", key)),
    )  # fmt: skip
    for name, address in pages:
        response = client.get(address())
        assert response.status_code == 200, name
        assert hour in response.content.decode(), name
    assert client.get(f"/admin/mana_migration/migrationrun/{run}/change/").status_code == 200
    assert client.get(f"/admin/wishes/wallet/{key}/change/").status_code == 200
