"""A run and a batch never end before they begin.

Earlier releases wrote the times of imports and of selected users by the clock of the client's machine, and any clock can
be set back: such an end is set to the beginning.  Records are left as they are, since they are never rewritten.
"""

from __future__ import annotations

from typing import Any

from django.db import migrations, models
from django.db.models import F

from mana_migration import guards


def clamp(apps: Any, schema_editor: Any) -> None:
    using = schema_editor.connection.alias
    for name, begins in (("MigrationRun", "created_at"), ("MigrationBatch", "started_at")):
        rows = apps.get_model("mana_migration", name).objects.using(using)
        rows.filter(finished_at__lt=F(begins)).update(finished_at=F(begins))


def install(apps: Any, schema_editor: Any) -> None:
    # SQLite makes both tables anew, without their triggers
    guards.uninstall(schema_editor.connection)
    # params=None: trigger texts may hold percent signs
    guards.install(schema_editor.connection, lambda sql: schema_editor.execute(sql, params=None))


class Migration(migrations.Migration):
    dependencies = (("mana_migration", "0017_whole_report_file"),)
    operations = (
        migrations.RunPython(clamp, migrations.RunPython.noop),
        migrations.AddConstraint(
            model_name="migrationrun",
            constraint=models.CheckConstraint(
                condition=models.Q(("finished_at__gte", models.F("created_at"))),
                name="mana_migration_run_ends_after_start",
            ),
        ),
        migrations.AddConstraint(
            model_name="migrationbatch",
            constraint=models.CheckConstraint(
                condition=models.Q(("finished_at__gte", models.F("started_at"))),
                name="mana_migration_batch_ends_after_start",
            ),
        ),
        migrations.RunPython(install, install),
    )
