"""Digests of batches, their chain and marks of records.

Batches that were done before have no digest and no place in a chain: nothing can be said of them.
"""

from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("mana_migration", "0002_guards"),
    ]

    operations = [
        migrations.AddField(
            model_name="migrationbatch",
            name="digest",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="SHA-256 of what was written in its records.",
                max_length=64,
            ),
        ),
        migrations.AddField(
            model_name="migrationbatch",
            name="link",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="SHA-256 of the link before, its number, digest and figures.",
                max_length=64,
            ),
        ),
        migrations.AddField(
            model_name="migrationbatch",
            name="number",
            field=models.IntegerField(help_text="Its place in the run's chain, from 1.", null=True),
        ),
        migrations.AddField(
            model_name="usermigration",
            name="mark",
            field=models.CharField(
                db_default="",
                default="",
                editable=False,
                help_text="Short hash of what was written here; tells which record was changed.",
                max_length=16,
            ),
        ),
        migrations.AddField(
            model_name="usermigration",
            name="reversal_batch",
            field=models.ForeignKey(
                blank=True,
                db_constraint=False,
                db_index=False,
                help_text="The batch of that rollback.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="reversals",
                to="mana_migration.migrationbatch",
            ),
        ),
        migrations.AddField(
            model_name="usermigration",
            name="reversal_mark",
            field=models.CharField(
                db_default="",
                default="",
                editable=False,
                help_text="Short hash of what was written of the reversal.",
                max_length=16,
            ),
        ),
        migrations.AddConstraint(
            model_name="migrationbatch",
            constraint=models.UniqueConstraint(fields=("run", "number"), name="mana_migration_batch_one_place"),
        ),
    ]
