"""Users are kept by what their wallets held; the database's column stays as it is."""

from __future__ import annotations

from django.conf import settings
from django.db import migrations, models

import wishes.deletion


class Migration(migrations.Migration):
    dependencies = (("wishes", "0004_guards_by_role"),)
    operations = (
        migrations.AlterField(
            model_name="wallet",
            name="user",
            field=models.OneToOneField(
                on_delete=wishes.deletion.protect_history,
                primary_key=True,
                related_name="wish_wallet",
                serialize=False,
                to=settings.AUTH_USER_MODEL,
            ),
        ),
    )
