"""Where the staff pages are; include them anywhere: path("migration/", include("mana_migration.urls"))."""

from __future__ import annotations

from django.urls import path

from mana_migration.views import actions, monitoring, pages, reports, requests

app_name = "mana_migration"

urlpatterns = [
    path("", pages.overview, name="overview"),
    path("counts", pages.counts_fragment, name="counts"),
    path("runs/start", actions.start, name="start"),
    path("runs/<int:run_id>/", pages.run_page, name="run"),
    path("runs/<int:run_id>/fragment", pages.run_fragment, name="run_fragment"),
    path("runs/<int:run_id>/pause", actions.pause, name="pause"),
    path("runs/<int:run_id>/resume", actions.resume, name="resume"),
    path("runs/<int:run_id>/stop", actions.stop, name="stop"),
    path("runs/<int:run_id>/settings", actions.settings, name="settings"),
    path("runs/<int:run_id>/retry", actions.retry, name="retry"),
    path("runs/<int:run_id>/users/", pages.run_users, name="run_users"),
    path("runs/<int:run_id>/send-again", actions.send_again, name="send_again"),
    path("runs/<int:run_id>/rollback", actions.roll_back_run, name="rollback_run"),
    path("runs/<int:run_id>/report", reports.report, name="report"),
    path("runs/<int:run_id>/report/<str:kind>", reports.download, name="download"),
    path("requests/<int:request_id>/", requests.request_page, name="request"),
    path("requests/<int:request_id>/approve", requests.approve, name="approve"),
    path("requests/<int:request_id>/decline", requests.decline, name="decline"),
    path("requests/<int:request_id>/withdraw", requests.withdraw, name="withdraw"),
    path("whole", reports.whole, name="whole"),
    path("statistics", reports.statistics, name="statistics"),
    path("users/", pages.user_search, name="users"),
    path("users/<path:key>/rollback", actions.roll_back_user, name="rollback_user"),
    path("users/<path:key>/", pages.user_page, name="user"),
    path("metrics", monitoring.metrics, name="metrics"),
    path("healthz", monitoring.healthz, name="healthz"),
]
