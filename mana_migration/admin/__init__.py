"""The migration in the admin: everything to look at, nothing to change."""

from django.contrib import admin

from mana_migration.admin import runs, users

__all__ = ["register", "runs", "users"]


def register(site: admin.AdminSite) -> None:
    """Register the tables of both apps with an admin site beside Django's default one.

    Args:
        site: the site; call this before its ``urls`` are included.
    """
    for model, registered in list(admin.site._registry.items()):
        if model._meta.app_label in ("wishes", "mana_migration") and not site.is_registered(model):
            site.register(model, type(registered))
