"""A page can ask for a report of the whole migration, and for the statistics."""

from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("mana_migration", "0016_event_links"),
    ]

    operations = [
        migrations.AlterField(
            model_name="reportfile",
            name="kind",
            field=models.CharField(
                help_text="html, json, csv, xlsx, summary.csv, or statistics.", max_length=12, verbose_name="kind"
            ),
        ),
        migrations.AlterField(
            model_name="reportfile",
            name="run",
            field=models.ForeignKey(
                help_text="Empty: the whole migration.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="report_files",
                to="mana_migration.migrationrun",
                verbose_name="run",
            ),
        ),
    ]
