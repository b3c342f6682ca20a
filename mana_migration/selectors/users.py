"""Find the users that an operator names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import connections
from django.db.models import Field

from mana_migration.engine import users
from mana_migration.errors import AmbiguousUserError, UserNotFoundError

PK, USERNAME = "pk:", "username:"

#: Values looked up in one query.
_CHUNK: Final = 500


def resolve_users(values: Sequence[str], using: str = "default") -> list[str]:
    """Return the primary keys, as text, of the users that these values name, in that order and each once.

    A value is a primary key or a username; ``pk:57`` and ``username:57`` say which.

    Raises:
        UserNotFoundError: a value is empty, or there is no such user.
        AmbiguousUserError: a value is the primary key of one user and the username of another.
    """
    for value in values:
        if not value.strip():
            raise UserNotFoundError(f"no such user: {value!r}; give a primary key or a username")
    keys = _known_keys([key for value in values if (key := _key_of(value, using)) is not None], using)
    names = _keys_by_username([name for value in values if (name := _username_of(value)) is not None], using)
    found: dict[str, None] = {}
    for value in values:
        key = _key_of(value, using)
        by_key = key if key in keys else None
        by_name = names.get(_username_of(value) or "")
        if by_key is not None and by_name is not None and by_key != by_name:
            raise AmbiguousUserError(
                f"{value!r} is the primary key of one user and the username of another; "
                f"say {PK}{value} or {USERNAME}{value}"
            )
        chosen = by_key or by_name
        if chosen is None:
            raise UserNotFoundError(_no_such_user(value))
        found[chosen] = None
    return list(found)


def _no_such_user(value: str) -> str:
    if value.startswith(PK):
        return f"no such user: {value!r}; no user has this primary key"
    if value.startswith(USERNAME):
        return f"no such user: {value!r}; no user has this username"
    return f"no such user: {value!r} is neither a primary key nor a username"


def _key_of(value: str, using: str) -> str | None:
    """Return the primary key that the value would be, as canonical text; None if it cannot be one."""
    if value.startswith(USERNAME):
        return None
    text = value.removeprefix(PK)
    field = get_user_model()._meta.pk
    try:
        key = users.to_text(field.to_python(text))
    except (ValidationError, ValueError, TypeError):
        return None
    # "007" and "1_000" are usernames at most; a UUID may be written with or without its dashes
    if key.replace("-", "") != text.lower().replace("-", "") or not _storable(key):
        return None
    return key if _in_range(field, field.to_python(key), using) else None


def _in_range(field: Field[Any, Any], key: Any, using: str) -> bool:
    if not isinstance(key, int):
        return True
    lowest, highest = connections[using].ops.integer_field_range(field.get_internal_type())
    return lowest <= key <= highest


def _username_of(value: str) -> str | None:
    if value.startswith(PK):
        return None
    name = value.removeprefix(USERNAME)
    return name if _storable(name) else None


def _storable(text: str) -> bool:
    """Say whether a database takes this text: no NUL, no half of a character pair."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _known_keys(keys: Sequence[str], using: str) -> set[str]:
    model = get_user_model()
    rows = (
        key
        for chunk in _chunks(keys)
        for key in model._base_manager.using(using).filter(pk__in=chunk).values_list("pk", flat=True)
    )
    return {users.to_text(key) for key in rows}


def _keys_by_username(names: Sequence[str], using: str) -> dict[str, str]:
    """Return the key of the user whom the database finds by each name, which may be written in another case."""
    model = get_user_model()
    field, everyone = model.USERNAME_FIELD, model._base_manager.using(using)
    found: dict[str, str] = {}
    for chunk in _chunks(names):
        rows = {
            name: users.to_text(key)
            for name, key in everyone.filter(**{f"{field}__in": chunk}).values_list(field, "pk")
        }
        found |= rows
        if rows.keys() <= set(chunk):
            continue
        for name in set(chunk) - rows.keys():
            key = everyone.filter(**{field: name}).values_list("pk", flat=True).first()
            if key is not None:
                found[name] = users.to_text(key)
    return found


def _chunks(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))
