"""Read the schema migrations' files once: each command asks whether one is missing, and no test adds any."""

from typing import Any

from django.db.migrations.loader import MigrationLoader

_read: dict[str, Any] = {}


def remember_schema_migrations() -> None:
    """Let every later look at the files be answered from memory; call it once."""
    load_disk = MigrationLoader.load_disk

    def load_once(self: Any) -> None:
        if not _read:
            load_disk(self)
            _read.update(
                disk_migrations=self.disk_migrations,
                unmigrated_apps=self.unmigrated_apps,
                migrated_apps=self.migrated_apps,
            )
        for name, found in _read.items():
            setattr(self, name, found.copy())

    MigrationLoader.load_disk = load_once
