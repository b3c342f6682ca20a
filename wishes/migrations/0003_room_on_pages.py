"""Leave room for a second version of each wallet on its page.

A conversion writes every wallet once.  Where the new version finds room on the page of the old one,
no index needs to learn of it (a HOT update), and the place of the old one is used again: a table
that was filled to the brim would grow to twice its size all the same, and its index with it.
"""

from __future__ import annotations

from typing import Any

from django.db import migrations


def leave_room(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE wishes_wallet SET (fillfactor = 50)")


def fill_up(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("ALTER TABLE wishes_wallet RESET (fillfactor)")


class Migration(migrations.Migration):
    dependencies = (("wishes", "0002_guards"),)
    operations = (migrations.RunPython(leave_room, fill_up),)
