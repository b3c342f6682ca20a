"""Django system checks: what a site lacks, with an id and a hint, before it fails in the middle of a run or a page.

Commands run the checks tagged ``mana_migration`` before they begin. ``manage.py check`` and the development server run
those of the pages as well, ``manage.py check --database ALIAS`` and ``migrate`` those of a database.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DatabaseError, InterfaceError, connections, router
from django.template import TemplateDoesNotExist, TemplateSyntaxError
from django.template.loader import get_template
from django.urls import NoReverseMatch, reverse

from mana_migration import conf, guards
from mana_migration.engine import support
from mana_migration.models import MigrationRun
from wishes import conf as wishes_conf
from wishes import guards as wishes_guards
from wishes.errors import InvalidRatesError


@register("mana_migration")
def check_rates(**kwargs: Any) -> list[CheckMessage]:
    """E001: the conversion rates are whole numbers of mana for exactly the three colours."""
    try:
        wishes_conf.rates()
    except InvalidRatesError as error:
        return [Error(f"WISHES_RATES: {error}", id="mana_migration.E001")]
    return []


@register("mana_migration")
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """E002: each setting has a value that it can have. W001: each ``MANA_MIGRATION_`` setting is known."""
    found: list[CheckMessage] = []
    for name, read in conf.READERS.items():
        try:
            read()
        except (TypeError, ValueError) as error:
            value = getattr(settings, f"MANA_MIGRATION_{name}")
            found.append(Error(f"MANA_MIGRATION_{name} = {value!r}: {error}", id="mana_migration.E002"))
    given = {name.removeprefix("MANA_MIGRATION_") for name in dir(settings) if name.startswith("MANA_MIGRATION_")}
    found += [
        Warning(
            f"MANA_MIGRATION_{name} is no setting of this app.",
            hint=f"Known are: {', '.join(sorted(conf.READERS))}.",
            id="mana_migration.W001",
        )
        for name in sorted(given - set(conf.READERS))
    ]
    return found


@register("mana_migration_pages")
def check_log_folder(**kwargs: Any) -> list[CheckMessage]:
    """W002: the folder of the log files can be written; commands refuse to begin otherwise."""
    folder = conf.log_dir()
    if _writable(folder):
        return []
    hint = "Make it writable for the account that runs the commands, or set MANA_MIGRATION_LOG_DIR to another folder."
    return [Warning(f"The log folder {folder} cannot be written.", hint=hint, id="mana_migration.W002")]


def _writable(folder: Path) -> bool:
    """Say whether this process can write into a folder, or can make it."""
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        effective = os.access in os.supports_effective_ids
        return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK, effective_ids=effective)
    except PermissionError:
        return False


# --- The staff pages --------------------------------------------------------------------------------------------------


@register("mana_migration_pages")
def check_pages(**kwargs: Any) -> list[CheckMessage]:
    """E003 to E006: the apps, middleware, templates and static files that the staff pages need, where they are used."""
    try:
        reverse("mana_migration:overview")
    except NoReverseMatch:
        return []  # the site does not include them
    found: list[CheckMessage] = [
        Error(
            f"The staff pages need {app} in INSTALLED_APPS.",
            hint=f'Add "{app}" to INSTALLED_APPS, or do not include mana_migration.urls.',
            id="mana_migration.E003",
        )
        for app in ("django_htmx", "django.contrib.messages", "django.contrib.sessions")
        if not apps.is_installed(app)
    ]
    needed = (
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    )
    names = {path.rpartition(".")[2] for path in settings.MIDDLEWARE}  # a site may have its own subclass
    found += [
        Error(
            f"The staff pages need {path} in MIDDLEWARE.",
            hint=f'Add "{path}" to MIDDLEWARE, or do not include mana_migration.urls.',
            id="mana_migration.E004",
        )
        for path in needed
        if path not in settings.MIDDLEWARE and path.rpartition(".")[2] not in names
    ]
    if apps.is_installed("django_htmx"):
        try:
            get_template("mana_migration/run.html")
        except (TemplateDoesNotExist, TemplateSyntaxError) as error:
            hint = 'Let TEMPLATES have a DjangoTemplates back end with "APP_DIRS": True.'
            found.append(
                Error(f"The templates of the staff pages are not found: {error}", hint=hint, id="mana_migration.E005")
            )
    if not settings.STATIC_URL:
        found.append(
            Error("The staff pages need STATIC_URL.", hint='Set it, such as "static/".', id="mana_migration.E006")
        )
    return found


# --- Databases --------------------------------------------------------------------------------------------------------


@register(Tags.database)
def check_databases(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """E007: the database is one that this works on. W003, W004: SQLite's options. W005: the guards are there."""
    found: list[CheckMessage] = []
    for alias in databases or ():
        if router.allow_migrate_model(alias, MigrationRun):
            found += _check_database(alias)
    return found


def _check_database(alias: str) -> list[CheckMessage]:
    connection = connections[alias]
    found = _check_sqlite_options(alias) if connection.vendor == "sqlite" else []
    try:
        reason = support.unsupported(connection)
        if reason:
            hint = "See the page “Requirements” of the documentation."
            return [Error(f"Database {alias!r}: {reason}", hint=hint, id="mana_migration.E007")]
        with connection.cursor() as cursor:
            present = set(connection.introspection.table_names(cursor))
        # before the first migrate there is nothing to guard
        if not {"wishes_wallet", MigrationRun._meta.db_table} <= present:
            return found
        missing = sorted(wishes_guards.faults(connection) | guards.faults(connection))
    except (DatabaseError, InterfaceError):
        return found  # Django's own checks and commands report a database that cannot be reached
    if missing:
        found.append(
            # a warning, because migrate runs this check before it installs what a new release brings
            Warning(
                f"Database {alias!r} lacks the guards {', '.join(missing)}; runs are refused.",
                hint="Install them with: python manage.py migrate, then python manage.py install_guards",
                id="mana_migration.W005",
            )
        )
    return found


def _check_sqlite_options(alias: str) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    with connections[alias].cursor() as cursor:
        cursor.execute("PRAGMA recursive_triggers")
        if cursor.fetchone()[0] == 0:
            found.append(
                Warning(
                    f"Database {alias!r}: recursive_triggers is off, so that INSERT OR REPLACE can change a ledger.",
                    hint='Add "PRAGMA recursive_triggers=ON;" to OPTIONS["init_command"].',
                    id="mana_migration.W003",
                )
            )
    if settings.DATABASES[alias].get("TIME_ZONE"):
        found.append(
            Warning(
                f"Database {alias!r} has a TIME_ZONE, but this app writes UTC on SQLite.",
                hint="Remove TIME_ZONE from this database; the setting TIME_ZONE of the site is not meant.",
                id="mana_migration.W004",
            )
        )
    return found
