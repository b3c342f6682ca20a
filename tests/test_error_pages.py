"""This site's pages for errors that are not those of a staff page."""

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

import config.urls


def broken(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("broken")


urlpatterns = [path("broken", broken), *config.urls.urlpatterns]


@pytest.mark.django_db
def test_an_unknown_address_offers_a_way_on(client: Client) -> None:
    response = client.get("/nothing/here")
    assert response.status_code == 404
    assert '<a href="/">All runs</a>' in response.content.decode()


@pytest.mark.django_db
def test_a_form_that_has_expired_says_what_to_do(admin_client: Client) -> None:
    strict = Client(enforce_csrf_checks=True, raise_request_exception=False)
    response = strict.post("/migration/users/", {"user": "7"})
    assert response.status_code == 403
    assert "Nothing was done." in response.content.decode()


@pytest.mark.django_db
@pytest.mark.urls(__name__)
def test_a_page_that_fails_says_that_the_migration_is_not_affected() -> None:
    response = Client(raise_request_exception=False).get("/broken")
    assert response.status_code == 500
    assert "A migration that runs is not affected" in response.content.decode()
