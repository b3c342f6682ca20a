"""That a run makes no progress is an event."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = (("mana_migration", "0018_times"),)
    operations = (
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
                    ("stalled", "Stalled"),
                    ("requested", "Requested"),
                    ("approved", "Approved"),
                    ("declined", "Declined"),
                    ("withdrawn", "Withdrawn"),
                ],
                max_length=20,
                verbose_name="kind",
            ),
        ),
    )
