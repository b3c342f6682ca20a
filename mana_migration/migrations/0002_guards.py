"""Install the database's own refusals; see ``mana_migration.guards``."""

from __future__ import annotations

from typing import Any

from django.db import migrations

from mana_migration import guards


def install(apps: Any, schema_editor: Any) -> None:
    # params=None: trigger texts may hold percent signs
    guards.install(schema_editor.connection, lambda sql: schema_editor.execute(sql, params=None))


def uninstall(apps: Any, schema_editor: Any) -> None:
    guards.uninstall(schema_editor.connection)


class Migration(migrations.Migration):
    dependencies = (("mana_migration", "0001_initial"), ("wishes", "0002_guards"))
    operations = (migrations.RunPython(install, uninstall),)
