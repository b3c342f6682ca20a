"""Where the pages are."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

admin.autodiscover()

urlpatterns = [
    path("", RedirectView.as_view(url="/migration/")),
    path("admin/", admin.site.urls),
    path("migration/", include("mana_migration.urls")),
]
