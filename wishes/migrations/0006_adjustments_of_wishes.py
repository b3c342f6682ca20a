"""A correction of wishes is booked as an adjustment."""

from __future__ import annotations

from typing import Any

from django.db import migrations, models

from wishes import guards


def uninstall(apps: Any, schema_editor: Any) -> None:
    # SQLite makes a table anew for a constraint, and triggers that read it are in the way
    guards.uninstall(schema_editor.connection)


def install(apps: Any, schema_editor: Any) -> None:
    # params=None: trigger texts may hold percent signs
    guards.install(schema_editor.connection, lambda sql: schema_editor.execute(sql, params=None))


class Migration(migrations.Migration):
    dependencies = (("wishes", "0005_deletion_of_users"),)
    operations = (
        migrations.RunPython(uninstall, install),
        migrations.RemoveConstraint(model_name="wishentry", name="wishes_wishentry_sign_of_kind"),
        migrations.AddConstraint(
            model_name="wishentry",
            constraint=models.CheckConstraint(
                condition=models.Q(kind="earn", amount__gt=0)
                | models.Q(kind="spend", amount__lt=0)
                | models.Q(kind="adjustment"),
                name="wishes_wishentry_sign_of_kind",
            ),
        ),
        migrations.RunPython(install, uninstall),
    )
