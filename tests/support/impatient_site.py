"""The site's settings, but a database that has gone away is waited for only two seconds once all others have ended."""

from config.settings import *  # noqa: F403

MANA_MIGRATION_READ_ONLY_WAIT = 2
