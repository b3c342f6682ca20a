"""Where the staff pages are; include them anywhere: path("migration/", include("mana_migration.urls"))."""

from __future__ import annotations

from django.urls import path

from mana_migration.views import machines

app_name = "mana_migration"

urlpatterns = [
    path("healthz", machines.healthz, name="healthz"),
]
