"""New users get what their model would give them, whatever model the site has."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth.models import AbstractBaseUser, User
from django.db import connection, models
from django.db.models.functions import Now
from django.test.utils import isolate_apps
from django.utils import timezone

from mana_migration.engine import new_users
from mana_migration.engine.new_users import UserTemplate, user_template
from mana_migration.errors import PreflightError
from tests.support.databases import own_database

PROJECT = Path(__file__).resolve().parent.parent.parent.parent
SITE = PROJECT / "tests" / "foreign_sites"


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    with isolate_apps("wishes"):
        yield


def template_of(model: Any) -> UserTemplate:
    with mock.patch.object(new_users, "get_user_model", return_value=model):
        return user_template(connection)


class Base(AbstractBaseUser):
    handle = models.CharField(max_length=40, unique=True)
    USERNAME_FIELD = "handle"

    class Meta:
        abstract = True
        app_label = "wishes"


def test_djangos_own_user_is_made_of_its_defaults() -> None:
    template = template_of(User)
    assert template.obstacle == ""
    assert template.generated == {}
    assert (template.table, template.key, template.username, template.username_length) == (
        '"auth_user"', '"id"', '"username"', 150,
    )  # fmt: skip
    assert set(template.constants) == {
        f'"{name}"'
        for name in ("last_login", "is_superuser", "first_name", "last_name", "email", "is_staff", "is_active")
    } | {'"date_joined"'}


def test_a_value_that_each_user_has_of_their_own_is_made_for_each_user() -> None:
    class Member(Base):
        key = models.UUIDField(primary_key=True, default=uuid.uuid4)
        token = models.CharField(max_length=20, unique=True, default=secrets.token_hex)
        invitation = models.CharField(max_length=20, default=secrets.token_hex)
        joined = models.DateTimeField(default=timezone.now)

    template = template_of(Member)
    assert [field.name for field in template.generated.values()] == ["key", "token", "invitation"]
    assert '"joined"' in template.constants
    fresh = template.fresh_values(connection)
    first, second = fresh(), fresh()
    assert len(first) == 3
    assert not set(first) & set(second)


def test_a_default_of_the_database_is_left_to_the_database() -> None:
    class Member(Base):
        seen = models.DateTimeField(db_default=Now())

    assert '"seen"' not in template_of(Member).constants


def test_a_column_that_nothing_fills_is_an_obstacle() -> None:
    class Member(Base):
        age = models.IntegerField()
        nickname = models.CharField(max_length=10)
        optional = models.IntegerField(null=True)

    template = template_of(Member)
    assert "age has no default" in template.obstacle
    assert "nickname" not in template.obstacle
    assert "optional" not in template.obstacle


def test_a_unique_column_that_all_would_share_is_an_obstacle() -> None:
    class Member(Base):
        email = models.EmailField(unique=True)
        phone = models.CharField(max_length=20, unique=True, null=True, default=None)  # noqa: DJ001

    template = template_of(Member)
    assert "email is unique" in template.obstacle
    assert "phone" not in template.obstacle


def test_a_username_that_is_no_text_is_refused() -> None:
    class Member(AbstractBaseUser):
        number = models.BigIntegerField(unique=True)
        USERNAME_FIELD = "number"

        class Meta:
            app_label = "wishes"

    with pytest.raises(PreflightError, match="holds no text"):
        template_of(Member)


def test_users_in_two_tables_are_refused() -> None:
    class Parent(Base):
        class Meta:
            app_label = "wishes"

    class Member(Parent):
        extra = models.IntegerField(default=0)

        class Meta:
            app_label = "wishes"

    with pytest.raises(PreflightError, match="two tables"):
        template_of(Member)


# --- Somebody else's site, with UUID keys and e-mail addresses as usernames -------------------------------------------

ROWS = """id,name,green_balance,blue_balance,red_balance,mana_balance,legacy_migration_completed
a@shop.example,A,1,2,3,0,f
b@shop.example,B,5,0,0,70,t
c@shop.example,C,,0,0,30,t
"""
LOOK = """
import json
from members.models import Member
from mana_migration.models import MigrationBatch, UserMigration
from wishes.models import ManaEntry, Wallet
batch = MigrationBatch.objects.get()
wallets = Wallet.objects.all()
print(json.dumps({
    "wallets": {w.user.email: [w.green, w.blue, w.red, w.mana, w.migrated_at is not None] for w in wallets},
    "passwords": len({m.password for m in Member.objects.all()}),
    "usable": [m.email for m in Member.objects.all() if m.has_usable_password()],
    "records": sorted(r.user.email for r in UserMigration.objects.all()),
    "entries": sorted(e.user.email for e in ManaEntry.objects.all()),
    "references": all(e.reference.removeprefix("opening:").replace("-", "") == e.user_id.hex
                      for e in ManaEntry.objects.all()),
    "range": [batch.first_user, batch.last_user] == sorted(str(r.user_id) for r in UserMigration.objects.all()),
}))
"""


@pytest.mark.slow
@pytest.mark.django_db
def test_a_site_with_uuid_keys_gets_its_users(tmp_path: Path) -> None:
    (tmp_path / "export.csv").write_text(ROWS)
    with own_database(tmp_path) as database:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "MANA"))}
        environment |= {
            "SITE_DATABASE": json.dumps(database),
            "SITE_FOLDER": str(tmp_path),
            "DJANGO_SETTINGS_MODULE": "shop.settings",
            "PYTHONPATH": str(PROJECT),
        }

        def manage(*argv: str) -> str:
            done = subprocess.run(
                [sys.executable, "manage.py", *argv],
                cwd=SITE,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{argv}: {done.stdout}\n{done.stderr}"
            return done.stdout

        manage("migrate", "--verbosity", "0")
        told = json.loads(manage("import_balances", str(tmp_path / "export.csv"), "--dry-run", "--format", "json"))
        done = json.loads(manage("import_balances", str(tmp_path / "export.csv"), "--format", "json"))
        assert told["wallets"] == done["wallets"]
        again = json.loads(manage("import_balances", str(tmp_path / "export.csv"), "--format", "json"))
        found = json.loads(manage("shell", "--no-imports", "-c", LOOK))
    assert done["imported"] == 3
    assert again["wallets"]["unchanged"] == 3
    assert found == {
        "wallets": {
            "a@shop.example": [1, 2, 3, 0, False],
            "b@shop.example": [0, 0, 0, 70, True],
            "c@shop.example": [0, 0, 0, 30, True],
        },
        "passwords": 3,
        "usable": [],
        "records": ["b@shop.example", "c@shop.example"],
        "entries": ["b@shop.example", "c@shop.example"],
        "references": True,
        "range": True,
    }
