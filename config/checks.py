"""What ``check --deploy`` says of this site beyond Django's own checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register


@register(Tags.security, deploy=True)
def check_deployment(**kwargs: Any) -> list[CheckMessage]:
    """Name what a deployment lacks.

    W001: static files were not collected. W002: only this machine's names are served. W003: SQLite. W004: the secret
    key is one that this machine made for itself.
    """
    found = []
    root = settings.STATIC_ROOT
    if root is None or not (Path(root) / "staticfiles.json").exists():
        found.append(("W001", "Static files were not collected.", "Run: python manage.py collectstatic"))
    if set(settings.ALLOWED_HOSTS) <= {"localhost", "127.0.0.1", "[::1]"}:
        found.append(("W002", "ALLOWED_HOSTS names this machine alone.", "Set ALLOWED_HOSTS to the site's names."))
    if any(database["ENGINE"].endswith("sqlite3") for database in settings.DATABASES.values()):
        found.append(("W003", "The database is SQLite.", "Set DATABASE_URL to a PostgreSQL database."))
    if settings.SECRET_KEY_FILE.exists() and settings.SECRET_KEY_FILE.read_text().strip() == settings.SECRET_KEY:
        hint = "Set SECRET_KEY, the same on every machine."
        found.append(("W004", f"The secret key is the one that was made in {settings.SECRET_KEY_FILE}.", hint))
    return [Warning(text, hint=hint, id=f"config.{number}") for number, text, hint in found]
