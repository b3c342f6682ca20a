"""The migration in the admin: everything to look at, nothing to change."""

from mana_migration.admin import runs, users

__all__ = ["runs", "users"]
