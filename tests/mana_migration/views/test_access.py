"""Every role on every page and action, by every method: who gets what."""

from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from mana_migration.states import RunStatus
from mana_migration.urls import urlpatterns
from tests.mana_migration.stories import Village, make_staff, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.once]

VIEW = "view_migrationrun"
SINGLE = (
    "start_run",
    "pause_run",
    "resume_run",
    "stop_run",
    "rollback_run",
    "rollback_user",
    "export_report",
    "view_metrics",
    "change_migrationrun",
    "approve_run",
)
ROLES = (
    "anonymous",
    "plain",
    "staff",
    "viewer",
    *(f"viewer+{name}" for name in SINGLE),
    *(f"only {name}" for name in SINGLE),
    "superuser",
)

#: Page: the permission it wants beside the view permission ("" for none), and the methods it answers to.
PAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "overview": ("", ("GET", "HEAD")),
    "counts": ("", ("GET", "HEAD")),
    "run": ("", ("GET", "HEAD")),
    "run_fragment": ("", ("GET", "HEAD")),
    "report": ("", ("GET", "HEAD", "POST")),
    "download": ("export_report", ("GET", "HEAD", "POST")),
    "users": ("", ("GET", "HEAD", "POST")),
    "whole": ("", ("GET", "HEAD", "POST")),
    "statistics": ("", ("GET", "HEAD", "POST")),
    "user": ("", ("GET", "HEAD")),
    "start": ("start_run", ("GET", "HEAD", "POST")),
    "pause": ("pause_run", ("GET", "HEAD", "POST")),
    "resume": ("resume_run", ("GET", "HEAD", "POST")),
    "stop": ("stop_run", ("GET", "HEAD", "POST")),
    "send_again": ("resume_run", ("GET", "HEAD", "POST")),
    "rollback_run": ("rollback_run", ("GET", "HEAD", "POST")),
    "rollback_user": ("rollback_user", ("GET", "HEAD", "POST")),
    "settings": ("change_migrationrun", ("GET", "HEAD", "POST")),
    "retry": ("start_run", ("GET", "HEAD", "POST")),
    "run_users": ("", ("GET", "HEAD")),
    "request": ("", ("GET", "HEAD")),
    "approve": ("approve_run", ("GET", "HEAD", "POST")),
    "decline": ("approve_run", ("GET", "HEAD", "POST")),
    "withdraw": ("", ("GET", "HEAD", "POST")),
    "metrics": ("view_metrics", ("GET", "HEAD")),
    "healthz": ("", ("GET", "HEAD")),
}
METHODS = ("GET", "POST")
#: What nobody has a use for, tried by who may do most.
OTHER_METHODS = ("HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

#: The status of the village's run that lets an action be confirmed.
STATUS = {
    "pause": RunStatus.RUNNING,
    "resume": RunStatus.PAUSED,
    "stop": RunStatus.RUNNING,
    "send_again": RunStatus.RUNNING,
    "settings": RunStatus.RUNNING,
}


#: No user of the village's run failed, and its request is another person's.
NOT_NOW = ("retry", "withdraw")


def test_the_matrix_knows_every_page() -> None:
    assert {pattern.name for pattern in urlpatterns} == set(PAGES)


def client_of(role: str) -> Client:
    """Return the browser of a role."""
    client = Client()
    if role == "plain":
        client.force_login(make_user("plain", VIEW, *SINGLE))  # every permission, but not staff
    elif role == "superuser":
        client.force_login(make_user("root", is_staff=True, is_superuser=True))
    elif role != "anonymous":
        permissions = {"viewer": [VIEW], "staff": []}.get(role)
        if permissions is None:
            kind, _, single = role.replace("+", " ").partition(" ")
            permissions = [single] if kind == "only" else [VIEW, single]
        client.force_login(make_staff("worker", *permissions))
    return client


def address(page: str, village: Village, user: object) -> str:
    """Return where a page is."""
    arguments: dict[str, list[object]] = {
        "overview": [],
        "counts": [],
        "users": [],
        "whole": [],
        "statistics": [],
        "start": [],
        "metrics": [],
        "healthz": [],
        "user": [user],
        "rollback_user": [user],
        "download": [village.run.pk, "json"],
        **{page: [village.request.pk] for page in ("request", "approve", "decline", "withdraw")},
    }
    return reverse(f"mana_migration:{page}", args=arguments.get(page, [village.run.pk]))


def expected(role: str, page: str, method: str) -> int:
    """Return the status that the role must get: written down here, not taken from the code."""
    permission, methods = PAGES[page]
    if method not in methods:
        return 405
    if role == "anonymous":
        return {"healthz": 200, "metrics": 401}.get(page, 302)
    allowed = {"superuser", f"viewer+{permission}"}
    if page == "healthz":
        allowed = {*ROLES}
    elif page == "metrics":
        allowed.add("only view_metrics")
    elif not permission:
        allowed |= {role for role in ROLES if role.startswith("viewer")}
    if role in allowed:
        return 409 if page in NOT_NOW else 200
    return 403


@pytest.mark.parametrize("place", PAGES)
def test_who_gets_what(place: str, settings: Settings) -> None:
    settings.MANA_MIGRATION_METRICS_ENABLED = True
    settings.MANA_MIGRATION_EXECUTOR = "celery"  # where nobody is sent messages, none can be sent again
    village = Village()
    user = village.migrated("anna")
    village.run.status = STATUS.get(place, RunStatus.COMPLETED)
    village.run.save()
    village.pending("ben")  # a migration has something to do
    got, wanted = {}, {}
    for role in ROLES:
        client = client_of(role)
        for method in (*METHODS, *(OTHER_METHODS if role == "superuser" else ())):
            key = f"{role}: {method} {place}"
            response = client.generic(method, address(place, village, user.pk))
            for close_file in response._resource_closers:  # not response.close(): it would end the connection too
                close_file()
            got[key] = response.status_code
            wanted[key] = expected(role, place, method)
        _forget_accounts()
    assert got == wanted


def _forget_accounts() -> None:
    from django.contrib.auth import get_user_model

    get_user_model().objects.filter(username__in=("plain", "root", "worker")).delete()


@pytest.mark.parametrize("place", [page for page, (_, methods) in PAGES.items() if "POST" in methods])
def test_a_post_without_a_csrf_token_is_refused(place: str) -> None:
    village = Village()
    user = village.migrated("anna")
    client = Client(enforce_csrf_checks=True)
    client.force_login(make_user("root", is_staff=True, is_superuser=True))
    assert client.post(address(place, village, user.pk)).status_code == 403


def test_an_account_that_was_deactivated_is_out(village: Village, sign_in: Callable[..., Client]) -> None:
    client = sign_in()
    from django.contrib.auth import get_user_model

    get_user_model().objects.filter(username="staff").update(is_active=False)
    assert client.get(reverse("mana_migration:overview")).status_code == 302


def test_anonymous_visitors_are_sent_to_sign_in_and_back(village: Village, client: Client) -> None:
    page = reverse("mana_migration:run", args=[village.run.pk])
    response = client.get(page)
    assert response.headers["Location"] == f"{reverse('admin:login')}?next={page}"


def test_a_poll_after_the_session_ended_reloads_the_page(village: Village, client: Client) -> None:
    page = reverse("mana_migration:run_fragment", args=[village.run.pk])
    response = client.get(page, headers={"HX-Request": "true"})
    assert (response.status_code, response.headers["HX-Refresh"], response.content) == (200, "true", b"")


@pytest.mark.parametrize("place", ["run", "run_fragment", "report", "pause", "rollback_run"])
def test_a_run_that_is_not_there_is_not_found(place: str, admin_client: Client) -> None:
    for run in (1, 10**30):
        address_ = reverse(f"mana_migration:{place}", args=[run])
        method = "POST" if place in ("pause", "rollback_run") else "GET"
        assert admin_client.generic(method, address_).status_code == 404


REFUSALS = {
    403: ("post", "pause", "lacks the permission “Can pause a run” (mana_migration.pause_run)"),
    404: ("get", "run", "There is no run 4711."),
    405: ("put", "pause", "This address cannot be used like that."),
}


@pytest.mark.parametrize("status", REFUSALS)
def test_a_refusal_says_what_happened_and_offers_a_way_on(
    status: int, village: Village, sign_in: Callable[..., Client]
) -> None:
    method, place, words = REFUSALS[status]
    run = 4711 if status == 404 else village.run.pk
    response = getattr(sign_in(), method)(reverse(f"mana_migration:{place}", args=[run]))
    page = response.content.decode()
    assert response.status_code == status
    assert words in page
    assert f'href="{reverse("admin:index")}"' in page
    assert (f'href="{reverse("mana_migration:overview")}"' in page) == (status != 403)


@pytest.mark.parametrize("key", ["1000000", "9" * 40, "nobody", "-1", "x/../y", "%00", "1 OR 1=1"])
def test_a_user_who_is_not_there_is_not_found(key: str, admin_client: Client) -> None:
    assert admin_client.get(f"/migration/users/{key}/").status_code == 404
    assert admin_client.post(f"/migration/users/{key}/rollback").status_code == 404


def test_an_unknown_database_is_not_found(admin_client: Client) -> None:
    assert admin_client.get(reverse("mana_migration:overview"), {"database": "nowhere"}).status_code == 404


def test_pages_are_never_cached_and_carry_the_strict_policy(village: Village, sign_in: Callable[..., Client]) -> None:
    client = sign_in()
    for page in ("overview", "users"):
        response = client.get(reverse(f"mana_migration:{page}"))
        assert "no-store" in response.headers["Cache-Control"]
        policy = response.headers["Content-Security-Policy"]
        assert "script-src 'self';" in f"{policy};"
        assert "style-src 'self';" in f"{policy};"
        assert "unsafe" not in policy
        page_text = response.content.decode()
        assert " style=" not in page_text
        assert "<style" not in page_text
        assert " onclick=" not in page_text
        assert "hx-on" not in page_text
