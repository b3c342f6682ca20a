"""Integrity fixes are linked to one another, undone by others, and never changed."""

from __future__ import annotations

from typing import Any

import django.db.models.deletion
from django.db import migrations, models

from mana_migration import guards


def install(apps: Any, schema_editor: Any) -> None:
    # SQLite made tables anew, here and before, without their triggers
    guards.uninstall(schema_editor.connection)
    # params=None: trigger texts may hold percent signs
    guards.install(schema_editor.connection, lambda sql: schema_editor.execute(sql, params=None))


def uninstall(apps: Any, schema_editor: Any) -> None:
    guards.uninstall(schema_editor.connection)


class Migration(migrations.Migration):
    dependencies = (("mana_migration", "0011_window_event"), ("wishes", "0006_adjustments_of_wishes"))
    operations = (
        migrations.AddField(
            model_name="integrityfix",
            name="undoes",
            field=models.OneToOneField(
                blank=True,
                db_constraint=False,
                help_text="The earlier fix that this one undoes, by the rollback of its run.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="undone_by",
                to="mana_migration.integrityfix",
            ),
        ),
        migrations.AddField(
            model_name="integrityfix",
            name="link",
            field=models.CharField(
                db_default="",
                default="",
                editable=False,
                help_text="SHA-256 of the link of the fix before and of what is written here.",
                max_length=64,
            ),
        ),
        migrations.RunPython(install, uninstall),
    )
