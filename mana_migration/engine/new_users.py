"""What the row of a new user holds, whatever the site's user model is.

Users are created with one INSERT ... SELECT, so that a model's ``save()`` and its signals are not
called; what ``save()`` would take from the model's own defaults is taken from one instance here.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from django.contrib.auth import get_user_model
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.fields import NOT_PROVIDED, AutoFieldMixin

from mana_migration.domain.legacy import normalised
from mana_migration.errors import PreflightError

_CLOCK: Final = (datetime.date, datetime.time)

#: A password that cannot be used to sign in, random as Django makes it, so that no two users' tokens are alike.
UNUSABLE_PASSWORD: Final = {
    "postgresql": "'!' || gen_random_uuid()::text",
    "sqlite": "'!' || lower(hex(randomblob(20)))",
}

Field: TypeAlias = "models.Field[Any, Any]"


@dataclass(frozen=True, slots=True)
class UserTemplate:
    """How a new user's row is made.

    ``user_side`` and ``row_side``: the SQL that is equal where user ``u`` is the one of staging row ``s``.
    ``constants``: values by column that all new users share; ``generated``: fields by the name of
    the staging column that holds each user's own value; ``obstacle``: why no user can be created,
    empty where they can.  ``name_type``: the type of a column that calls those usernames equal which the site's own
    column does; ``folded``: what a unique index of the site's makes of a username before it compares.
    """

    table: str
    key: str
    username: str
    username_length: int | None
    password: str | None
    constants: dict[str, Any] = field(default_factory=dict)
    generated: dict[str, Field] = field(default_factory=dict)
    obstacle: str = ""
    user_side: str = ""
    row_side: str = ""
    name_type: str = "text"
    folded: str = "{}"

    def matching(self, match: str, connection: BaseDatabaseWrapper) -> UserTemplate:
        """Return the template for exports whose id is this column, ``username`` or ``pk``."""
        if match == "username":
            user, row = (self.folded.format(name) for name in (f"u.{self.username}", "s.username"))
            return replace(self, user_side=user, row_side=row)
        row_side = "s.username"
        if isinstance(get_user_model()._meta.pk, models.UUIDField):
            # SQLite keeps a UUID as 32 digits
            digits = "s.username" if connection.features.has_native_uuid_field else "REPLACE(s.username, '-', '')"
            row_side = f"LOWER({digits})"
        return replace(self, user_side=f"CAST(u.{self.key} AS text)", row_side=row_side)

    @property
    def condition(self) -> str:
        """Return the SQL by which user ``u`` is the one of staging row ``s``."""
        return f"{self.user_side} = {self.row_side}"

    def fresh_values(self, connection: BaseDatabaseWrapper) -> Callable[[], tuple[Any, ...]]:
        """Return a function that makes one user's own values, in the order of ``generated``."""
        fields = list(self.generated.values())
        if not fields:
            return tuple
        return lambda: tuple(one.get_db_prep_save(one.get_default(), connection) for one in fields)

    def insert(self, vendor: str, source: str) -> tuple[str, list[Any]]:
        """Return the INSERT of new users, and its parameters, from staging rows ``s`` picked by ``source``."""
        values: dict[str, str] = {self.username: "s.username"}
        if self.password is not None:
            values[self.password] = UNUSABLE_PASSWORD[vendor]
        for name, one in self.generated.items():
            values[_quoted(one.column)] = f"s.{name}"
        parameters = list(self.constants.values())
        columns = [*values, *self.constants]
        expressions = [*values.values(), *(["%s"] * len(parameters))]
        return f"INSERT INTO {self.table} ({', '.join(columns)}) SELECT {', '.join(expressions)} {source}", parameters


def user_template(connection: BaseDatabaseWrapper) -> UserTemplate:
    """Read off the site's user model how its rows are made.

    Raises:
        PreflightError: the model keeps its users in two tables, or its username is not text.
    """
    model: Any = get_user_model()._meta.concrete_model
    meta = model._meta
    name = meta.get_field(model.USERNAME_FIELD)
    if meta.parents or not isinstance(name, models.CharField | models.TextField):
        raise PreflightError(
            f"users of the model {meta.label} cannot be imported: its "
            + ("rows are spread over two tables" if meta.parents else f"username field {name.name} holds no text")
        )
    constants: dict[str, Any] = {}
    generated: dict[str, Field] = {}
    obstacles: list[str] = []
    instance = model()
    for one in meta.concrete_fields:
        if one is name or one.name == "password" or isinstance(one, AutoFieldMixin) or one.generated:
            continue
        if one.default is NOT_PROVIDED and one.db_default is not NOT_PROVIDED:
            continue  # the database's own default
        if _differs_by_user(one):
            generated[f"own_{len(generated)}"] = one
            continue
        value = one.pre_save(instance, add=True)
        if value is None and not one.null:
            obstacles.append(f"{one.name} has no default")
        elif one.unique and value is not None:
            obstacles.append(f"{one.name} is unique and has no default of its own for each user")
        constants[_quoted(one.column)] = one.get_db_prep_save(value, connection)
    has_password = any(one.name == "password" for one in meta.concrete_fields)
    template = UserTemplate(
        table=_quoted(meta.db_table),
        key=_quoted(meta.pk.column),
        username=_quoted(name.column),
        username_length=name.max_length,
        password=_quoted(meta.get_field("password").column) if has_password else None,
        constants=constants,
        generated=generated,
        obstacle=(
            f"{meta.label} cannot be created by an import: {'; '.join(obstacles)}. "
            "Create these users first, with their ids as usernames; the import then gives them their wallets"
            if obstacles
            else ""
        ),
    )
    return template.matching("username", connection)


def with_equal_names(connection: BaseDatabaseWrapper, template: UserTemplate) -> UserTemplate:
    """Return the template with what is known of the usernames that the site's database calls equal."""
    model: Any = get_user_model()
    return replace(
        template, **_equality(connection, model._meta.db_table, model._meta.get_field(model.USERNAME_FIELD).column)
    )


def _equality(connection: BaseDatabaseWrapper, table: str, column: str) -> dict[str, Any]:
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(
                "SELECT c.coll FROM pragma_index_list(%s) i, pragma_index_xinfo(i.name) c "
                'WHERE i."unique" AND c.key AND c.name = %s',
                [table, column],
            )
            collations = [name for (name,) in cursor.fetchall() if name != "BINARY"]
            return {"folded": f"{{}} COLLATE {_quoted(collations[0])}"} if collations else {}
        cursor.execute(
            """
            SELECT t.typname = 'citext',
                   CASE WHEN NOT c.collisdeterministic THEN c.oid::regcollation::text END,
                   EXISTS (
                       SELECT 1 FROM pg_index i
                       WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indnkeyatts = 1
                         AND pg_get_indexdef(i.indexrelid, 1, true) = 'lower(' || quote_ident(a.attname) || '::text)'
                   )
            FROM pg_attribute a
            JOIN pg_type t ON t.oid = a.atttypid
            LEFT JOIN pg_collation c ON c.oid = a.attcollation
            WHERE a.attrelid = to_regclass(%s) AND a.attname = %s
            """,
            [_quoted(table), column],
        )
        citext, collation, lower = cursor.fetchone() or (False, None, False)
    found = {"name_type": "citext" if citext else f"text COLLATE {collation}"} if citext or collation else {}
    return found | ({"folded": "lower({})"} if lower else {})


def username_normaliser() -> Callable[[str], str]:
    """Return the function that gives a username as the site's user model stores it at sign-up."""
    found: Callable[[str], str] = getattr(get_user_model(), "normalize_username", normalised)
    return found


def _differs_by_user(one: Field) -> bool:
    """Say whether each user has a value of their own: a key, or a default such as a random token."""
    if one.default is NOT_PROVIDED or not callable(one.default):  # NOT_PROVIDED is a class
        return False
    if one.primary_key or one.unique:
        return True
    first, second = one.get_default(), one.get_default()
    return bool(first != second) and not isinstance(first, _CLOCK)


def _quoted(name: str | None) -> str:
    return '"' + str(name).replace('"', '""') + '"'
