"""The pages stand in the site's admin, in another admin site, or by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from django.contrib import admin
from django.test import Client, override_settings
from django.urls import clear_url_caches, include, path

from mana_migration.admin import register
from mana_migration.models import UserMigration
from mana_migration.views import frame
from tests.mana_migration.history import make_history
from tests.mana_migration.stories import url

pytestmark = pytest.mark.django_db

SignIn = Callable[..., Client]


@pytest.fixture
def client(sign_in: SignIn) -> Client:
    make_history()
    return sign_in("view_usermigration", "view_wallet", "view_manaentry")


@pytest.fixture
def addresses(settings: Any) -> Iterator[Callable[..., None]]:
    """Return a function that replaces the site's addresses: the pages, and these."""

    def use(*patterns: Any) -> None:
        module = ModuleType("urls_of_this_test")
        module.urlpatterns = [*patterns, path("pages/", include("mana_migration.urls"))]  # type: ignore[attr-defined]
        settings.ROOT_URLCONF = module
        clear_url_caches()

    yield use
    clear_url_caches()


def pages() -> dict[str, str]:
    record = UserMigration.objects.earliest("pk")
    return {"overview": url("overview"), "run": url("run", record.run_id), "user": url("user", record.user_id)}


def test_in_the_admin_they_look_like_the_admin(client: Client) -> None:
    for name, address in pages().items():
        page = client.get(address).content.decode()
        assert 'href="/admin/"' in page, name
        assert "admin/css/base.css" in page, name
    assert Client().get(url("overview")).headers["Location"].startswith("/admin/login/")


def test_without_the_admins_addresses_they_have_a_frame_of_their_own(
    client: Client, addresses: Callable[..., None], settings: Any
) -> None:
    settings.LOGIN_URL = "/sign-in/"
    addresses()
    for name, address in pages().items():
        response = client.get(address)
        assert response.status_code == 200, name
        assert "mana_migration/frame.css" in response.content.decode(), name
        assert "admin/" not in response.content.decode(), name
    assert Client().get(url("overview")).headers["Location"] == "/sign-in/?next=/pages/"


def test_without_the_admin_they_do_as_well(client: Client, addresses: Callable[..., None], settings: Any) -> None:
    addresses()
    rest = [app for app in settings.INSTALLED_APPS if app != "django.contrib.admin"]
    with override_settings(INSTALLED_APPS=rest):
        for name, address in pages().items():
            assert "mana_migration/frame.css" in client.get(address).content.decode(), name


def test_another_admin_site_frames_them_and_shows_the_tables_where_they_are_registered(
    client: Client, addresses: Callable[..., None]
) -> None:
    site = admin.AdminSite(name="backoffice")
    site.site_title = "The back office"
    addresses(path("office/", site.urls))
    assert frame.admin_site() is site
    for name, address in pages().items():
        page = client.get(address).content.decode()
        assert "The back office" in page, name
        assert "in the admin" not in page, name  # the users are not there
    register(site)
    register(site)  # once is enough
    addresses(path("office/", site.urls))
    user = UserMigration.objects.earliest("pk").user_id
    assert f'href="/office/mana_migration/migratinguser/{user}/change/"' in client.get(pages()["user"]).content.decode()
    for table in ("wishes/wallet", "wishes/manaentry", "mana_migration/migrationrun", "mana_migration/migratinguser"):
        assert client.get(f"/office/{table}/").status_code == 200, table
    assert client.get(f"/office/mana_migration/migratinguser/{user}/change/").status_code == 200


def test_permissions_are_asked_one_by_one_as_the_admin_asks(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    model = type(client.get(url("overview")).wsgi_request.user._wrapped)
    monkeypatch.setattr(model, "has_perm", lambda self, perm: perm == "mana_migration.view_migrationrun")
    assert client.get(url("overview")).status_code == 200
    monkeypatch.setattr(model, "has_perm", lambda self, perm: False)
    assert client.get(url("overview")).status_code == 403
