"""The passes of a run over its users get the name that they have everywhere."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("mana_migration", "0012_fixes_undone"),
    ]

    operations = [
        migrations.RenameField(model_name="migrationrun", old_name="look", new_name="passes"),
        migrations.AlterField(
            model_name="migrationrun",
            name="passes",
            field=models.PositiveSmallIntegerField(
                default=1, help_text="Passes over the users begun: after the first, those who signed up or were locked."
            ),
        ),
    ]
