"""Where the site's pages are; the last line is what the migration adds."""

from django.http import HttpRequest, HttpResponse
from django.urls import include, path


def sign_in(request: HttpRequest) -> HttpResponse:
    """Stand for the site's own page."""
    return HttpResponse("sign in")


urlpatterns = [
    path("sign-in/", sign_in),
    path("mana/", include("mana_migration.urls")),
]
