"""Install the database's own refusals again."""

from __future__ import annotations

from typing import Any

from mana_migration.management.commands._base import DONE, MigrationCommand
from mana_migration.services import preflight


class Command(MigrationCommand):
    help = (
        "Install the guards that the database itself keeps, where they are missing: a schema change on SQLite rebuilds "
        "a table and silently drops its triggers."
    )

    def run(self, **options: Any) -> int:
        """Install what is missing."""
        installed = preflight.install_missing_guards(options["database"])
        sentence = f"installed {', '.join(installed)}" if installed else "every guard is in force"
        self.print_result({"installed": installed}, [sentence])
        return DONE
