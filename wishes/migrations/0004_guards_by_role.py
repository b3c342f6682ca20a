"""Install the guards again: since this version a reversal is announced only by roles that may reverse."""

from __future__ import annotations

from typing import Any

from django.db import migrations

from wishes import guards


def install(apps: Any, schema_editor: Any) -> None:
    guards.uninstall(schema_editor.connection)
    # params=None: trigger texts may hold percent signs
    guards.install(schema_editor.connection, lambda sql: schema_editor.execute(sql, params=None))


class Migration(migrations.Migration):
    dependencies = (("wishes", "0003_room_on_pages"),)
    operations = (migrations.RunPython(install, migrations.RunPython.noop),)
