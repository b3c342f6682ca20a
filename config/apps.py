"""This site as an app, so that its checks are found."""

from __future__ import annotations

from django.apps import AppConfig


class SiteConfig(AppConfig):
    """Registers the checks of a deployment."""

    name = "config"

    def ready(self) -> None:
        """Register them."""
        from config import checks  # noqa: F401, PLC0415 (needs the apps)
