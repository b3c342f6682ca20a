"""Where the club's pages are; the last lines are what the migration adds."""

from django.contrib.admin import AdminSite
from django.urls import include, path

from mana_migration.admin import register

site = AdminSite(name="verwaltung")
register(site)

urlpatterns = [
    path("verwaltung/", site.urls),
    path("umstellung/", include("mana_migration.urls")),
]
