"""Where the site's pages are; the last line is what the migration adds."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("staff/", admin.site.urls),
    path("staff-migration/", include("mana_migration.urls")),
]
