"""The events of a run are linked to one another."""

from __future__ import annotations

from typing import Any

from django.db import migrations, models

from mana_migration import guards


def install(apps: Any, schema_editor: Any) -> None:
    # SQLite makes the table anew without its triggers
    guards.uninstall(schema_editor.connection)
    # params=None: trigger texts may hold percent signs
    guards.install(schema_editor.connection, lambda sql: schema_editor.execute(sql, params=None))


def uninstall(apps: Any, schema_editor: Any) -> None:
    guards.uninstall(schema_editor.connection)


class Migration(migrations.Migration):
    dependencies = (("mana_migration", "0015_approval"),)
    operations = (
        migrations.AddField(
            model_name="runevent",
            name="link",
            field=models.CharField(db_default="", default="", editable=False, max_length=64, verbose_name="link"),
        ),
        migrations.RunPython(install, uninstall),
    )
