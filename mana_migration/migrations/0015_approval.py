"""Mass runs can be asked for by one person and approved by a second one; each step is an event."""

from __future__ import annotations

from typing import Any

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

from mana_migration import guards


def install(apps: Any, schema_editor: Any) -> None:
    # SQLite makes the table of events anew, without its triggers
    guards.uninstall(schema_editor.connection)
    # params=None: trigger texts may hold percent signs
    guards.install(schema_editor.connection, lambda sql: schema_editor.execute(sql, params=None))


class Migration(migrations.Migration):
    dependencies = [
        ("mana_migration", "0014_labels"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="migrationrun",
            options={
                "get_latest_by": "id",
                "ordering": ("-id",),
                "permissions": (
                    ("pause_run", "Can pause a run"),
                    ("resume_run", "Can resume a run"),
                    ("stop_run", "Can stop a run"),
                    ("start_run", "Can start a migration"),
                    ("approve_run", "Can approve a run that another person asks for"),
                    ("rollback_run", "Can roll back a run"),
                    ("rollback_user", "Can roll back a user"),
                    ("export_report", "Can download reports"),
                    ("view_metrics", "Can read the metrics"),
                ),
                "verbose_name": "migration run",
                "verbose_name_plural": "migration runs",
            },
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
                    ("checklist", "Checklist"),
                    ("window_over", "Window over"),
                    ("requested", "Requested"),
                    ("approved", "Approved"),
                    ("declined", "Declined"),
                    ("withdrawn", "Withdrawn"),
                ],
                max_length=20,
                verbose_name="kind",
            ),
        ),
        migrations.AlterField(
            model_name="runevent",
            name="run",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="events",
                to="mana_migration.migrationrun",
                verbose_name="run",
            ),
        ),
        migrations.CreateModel(
            name="RunRequest",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(
                        choices=[("migration", "Migration"), ("rollback", "Rollback"), ("import", "Import")],
                        max_length=10,
                        verbose_name="kind",
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("waiting", "Waiting for approval"),
                            ("approved", "Approved"),
                            ("declined", "Declined"),
                            ("withdrawn", "Withdrawn"),
                        ],
                        default="waiting",
                        max_length=10,
                        verbose_name="status",
                    ),
                ),
                ("options", models.JSONField(default=dict, help_text="What was asked for.", verbose_name="options")),
                (
                    "controls",
                    models.JSONField(
                        default=dict,
                        help_text="Batch size, delay, error threshold and window.",
                        verbose_name="controls",
                    ),
                ),
                (
                    "workers",
                    models.PositiveSmallIntegerField(
                        help_text="Celery tasks that are to share the run; empty: the setting.",
                        null=True,
                        verbose_name="workers",
                    ),
                ),
                (
                    "preview",
                    models.JSONField(
                        default=dict,
                        help_text="What the run would have done when it was asked for.",
                        verbose_name="preview",
                    ),
                ),
                ("actor", models.CharField(help_text="Who asked for it.", max_length=150, verbose_name="actor")),
                ("host", models.CharField(max_length=255, verbose_name="host")),
                ("reason", models.TextField(blank=True, verbose_name="reason")),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(), verbose_name="created at"
                    ),
                ),
                (
                    "run",
                    models.OneToOneField(
                        blank=True,
                        help_text="The run that the approval opened; empty: none.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="request",
                        to="mana_migration.migrationrun",
                        verbose_name="run",
                    ),
                ),
            ],
            options={
                "verbose_name": "run request",
                "verbose_name_plural": "run requests",
                "ordering": ("-id",),
            },
        ),
        migrations.AddField(
            model_name="runevent",
            name="request",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="events",
                to="mana_migration.runrequest",
                verbose_name="request",
            ),
        ),
        migrations.RunPython(install, install),
    ]
