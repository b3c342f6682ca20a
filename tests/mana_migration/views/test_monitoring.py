"""The endpoints for machines."""

import pytest
from django.db import OperationalError, connections
from django.test import Client
from pytest_django import DjangoAssertNumQueries, Settings

from tests.mana_migration.history import make_history
from tests.mana_migration.stories import make_staff, url

pytestmark = pytest.mark.django_db

TOKEN = "s3cret-token"


@pytest.fixture(autouse=True)
def _enabled(settings: Settings) -> None:
    settings.MANA_MIGRATION_METRICS_ENABLED = True
    settings.MANA_MIGRATION_METRICS_TOKEN = TOKEN


def bearer(token: str) -> dict[str, str]:
    """Return the header of a scrape."""
    return {"Authorization": f"Bearer {token}"}


def test_the_metrics_are_off_by_default(client: Client, settings: Settings) -> None:
    del settings.MANA_MIGRATION_METRICS_ENABLED
    assert client.get(url("metrics"), headers=bearer(TOKEN)).status_code == 404


def test_the_token_opens_the_metrics(client: Client) -> None:
    make_history()
    response = client.get(url("metrics"), headers=bearer(TOKEN))
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"mana_migration_run_mana" in response.content


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", f"Token {TOKEN}", TOKEN])
def test_a_wrong_token_is_refused(header: str, client: Client) -> None:
    response = client.get(url("metrics"), headers={"Authorization": header} if header else {})
    assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer None"])
def test_without_a_token_in_the_settings_no_token_fits(header: str, client: Client, settings: Settings) -> None:
    settings.MANA_MIGRATION_METRICS_TOKEN = ""
    assert client.get(url("metrics"), headers={"Authorization": header}).status_code == 401


def test_a_wrong_token_is_refused_to_an_account_with_the_permission_too(client: Client) -> None:
    client.force_login(make_staff("sam", "view_metrics"))
    assert client.get(url("metrics")).status_code == 200
    assert client.get(url("metrics"), headers=bearer("wrong")).status_code == 401


def test_a_scrape_costs_a_handful_of_queries(
    client: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    make_history(200)
    with django_assert_max_num_queries(12):
        client.get(url("metrics"), headers=bearer(TOKEN))


def test_healthz_says_ok(client: Client, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    with django_assert_num_queries(1):
        response = client.get(url("healthz"))
    assert (response.status_code, response.content) == (200, b"ok\n")


def test_both_say_that_the_database_is_down(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OperationalError("connection refused by db.internal.example")

    monkeypatch.setattr(connections["default"], "cursor", refuse)
    for response in (client.get(url("healthz")), client.get(url("metrics"), headers=bearer(TOKEN))):
        assert (response.status_code, response.content) == (503, b"database unavailable\n")
