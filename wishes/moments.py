"""Points in time that mean the same whatever ``USE_TZ`` says.

# Note [Time zones of the columns]
On SQLite these columns are always UTC.  They hold text there, which our SQL and ``Now()`` write in UTC, whereas Django
reads and writes local time when ``USE_TZ`` is false, so the field converts.  PostgreSQL's columns hold instants.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import models
from django.utils import timezone

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    _DateTimeField = models.DateTimeField[Any, Any]
else:
    _DateTimeField = models.DateTimeField


class MomentField(_DateTimeField):
    """A ``DateTimeField`` that keeps instants; without ``USE_TZ`` its values are naive local times, as Django's are.

    Args:
        always_aware: give values with a time zone even without ``USE_TZ``, so that they can be compared with others.
    """

    def __init__(self, *args: Any, always_aware: bool = False, **kwargs: Any) -> None:
        self.always_aware = always_aware
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> tuple[str, str, list[Any], dict[str, Any]]:
        """Describe it as Django's own field, which has the same column."""
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.DateTimeField", list(args), dict(kwargs)

    def from_db_value(
        self, value: datetime | None, expression: Any, connection: BaseDatabaseWrapper
    ) -> datetime | None:
        """Return a value of the database as code without or with ``USE_TZ`` expects it."""
        if value is None or settings.USE_TZ:
            return value
        aware = from_database(value, connection)
        return aware if self.always_aware else aware.replace(tzinfo=None)

    def get_db_prep_value(self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False) -> Any:
        """Return a value as the database keeps it."""
        if not prepared:
            value = self.get_prep_value(value)
        if isinstance(value, datetime) and not settings.USE_TZ:
            value = for_database(value, connection)
        return connection.ops.adapt_datetimefield_value(value)


def aware(value: datetime) -> datetime:
    """Return an instant with its time zone, of a value that a model of the site gives: without one it is local."""
    return timezone.make_aware(value, timezone.get_default_timezone()) if timezone.is_naive(value) else value


def from_database(value: datetime, connection: BaseDatabaseWrapper) -> datetime:
    """Return an instant with its time zone, of a value that a cursor returned."""
    if timezone.is_aware(value):
        return value
    local = timezone.get_default_timezone()
    stored = UTC if connection.vendor == "sqlite" or settings.USE_TZ else local
    return value.replace(tzinfo=stored).astimezone(local)


def for_database(value: datetime, connection: BaseDatabaseWrapper) -> datetime:
    """Return an instant as Django hands it to the database: without a zone on SQLite where ``USE_TZ`` is false."""
    if settings.USE_TZ:
        return value
    if timezone.is_naive(value):
        value = value.replace(tzinfo=timezone.get_default_timezone())
    return value.astimezone(UTC).replace(tzinfo=None) if connection.vendor == "sqlite" else value
