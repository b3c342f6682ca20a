"""Where the guards were installed before they knew later columns; ``0012_fixes_undone`` installs them now."""

from __future__ import annotations

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = (("mana_migration", "0001_initial"), ("wishes", "0002_guards"))
    operations = ()
