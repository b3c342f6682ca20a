"""The cause for which a run ended, as a fixed word; for older runs as far as their records show it."""

from __future__ import annotations

from typing import Any

import django.db.models.deletion
from django.db import migrations, models


def fill(apps: Any, schema_editor: Any) -> None:
    runs = apps.get_model("mana_migration", "MigrationRun").objects.using(schema_editor.connection.alias)
    runs.filter(status="failed").update(stop_cause="integrity")
    stopped = runs.filter(status="stopped")
    stopped.update(stop_cause="operator")
    stopped.filter(stop_reason="a mass rollback begins").update(stop_cause="mass_rollback")
    stopped.filter(stop_reason__startswith="breaker tripped").update(stop_cause="breaker")
    breaker_rollbacks = runs.filter(kind="rollback", options__breaker=True)
    tripped = list(breaker_rollbacks.values_list("target_run_id", flat=True))
    runs.filter(pk__in=tripped).update(stop_cause="breaker")


class Migration(migrations.Migration):
    dependencies = [
        ("mana_migration", "0003_chain"),
    ]

    operations = [
        migrations.AddField(
            model_name="migrationrun",
            name="stop_cause",
            field=models.CharField(
                blank=True,
                choices=[
                    ("operator", "Stopped by an operator"),
                    ("mass_rollback", "A mass rollback began"),
                    ("breaker", "Too many users failed"),
                    ("integrity", "An integrity check failed"),
                ],
                db_default="",
                default="",
                help_text="Why it ended other than by completing; empty: it is open or completed.",
                max_length=16,
            ),
        ),
        migrations.AlterField(
            model_name="migrationrun",
            name="stop_reason",
            field=models.TextField(blank=True, help_text="The same in words, as the operator or the check said."),
        ),
        migrations.AlterField(
            model_name="runevent",
            name="kind",
            field=models.CharField(
                choices=[
                    ("started", "Started"),
                    ("joined", "Process joined"),
                    ("interrupted", "Interrupted"),
                    ("paused", "Paused"),
                    ("resumed", "Resumed"),
                    ("stopped", "Stopped"),
                    ("setting_changed", "Setting changed"),
                    ("batch_split", "Batch split"),
                    ("throttled", "Waiting for the database"),
                    ("database_lost", "Database lost"),
                    ("breaker_tripped", "Breaker tripped"),
                    ("checked", "Checked"),
                    ("finished", "Finished"),
                    ("rolled_back", "Rolled back"),
                ],
                max_length=20,
            ),
        ),
        migrations.AlterField(
            model_name="usermigration",
            name="mark",
            field=models.CharField(
                db_default="",
                default="",
                editable=False,
                help_text="Short hash of what was written here; shows which record was changed.",
                max_length=16,
            ),
        ),
        migrations.AlterField(
            model_name="usermigration",
            name="reversal_run",
            field=models.ForeignKey(
                blank=True,
                db_constraint=False,
                db_index=False,
                help_text="The rollback that reversed it.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="reversals",
                to="mana_migration.migrationrun",
            ),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
