"""The frame around the staff pages: the site's own admin where there is one, a plain page elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.http import HttpRequest
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, resolve, reverse

if TYPE_CHECKING:
    from django.contrib.admin import AdminSite


def context(request: HttpRequest) -> dict[str, Any]:
    """Return what the frame's template needs, and which template it is."""
    site = admin_site()
    if site is None:
        return {"frame": "mana_migration/frame.html"}
    request.current_app = site.name  # so that {% url 'admin:index' %} means this site
    return {**site.each_context(request), "is_nav_sidebar_enabled": False, "frame": "admin/base_site.html"}


def sign_in_address() -> str:
    """Return where visitors sign in: the admin's page, or the setting ``LOGIN_URL``."""
    site = admin_site()
    return resolve_url(settings.LOGIN_URL) if site is None else reverse("admin:login", current_app=site.name)


def admin_site() -> AdminSite | None:
    """Return the admin site that the URL configuration includes, the default one first; None where there is none."""
    if not apps.is_installed("django.contrib.admin"):
        return None
    try:
        # The default site may be installed without being included, and another one included in its place.
        index = resolve(reverse("admin:index"))
    except NoReverseMatch:
        return None
    site: AdminSite | None = getattr(index.func, "admin_site", None)
    return site
