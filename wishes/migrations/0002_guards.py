"""Install the database's own refusals; see ``wishes.guards``."""

from __future__ import annotations

from typing import Any

from django.db import migrations

from wishes import guards


def install(apps: Any, schema_editor: Any) -> None:
    # params=None: trigger texts may hold percent signs
    guards.install(schema_editor.connection, lambda sql: schema_editor.execute(sql, params=None))


def uninstall(apps: Any, schema_editor: Any) -> None:
    guards.uninstall(schema_editor.connection)


class Migration(migrations.Migration):
    dependencies = (("wishes", "0001_initial"),)
    operations = (migrations.RunPython(install, uninstall),)
