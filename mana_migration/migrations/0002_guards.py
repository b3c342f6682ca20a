"""Where the guards were installed before they knew the columns of the chain; ``0003_chain`` installs them now."""

from __future__ import annotations

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = (("mana_migration", "0001_initial"), ("wishes", "0002_guards"))
    operations = ()
