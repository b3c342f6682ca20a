"""The site's settings on a database that takes no writes: a file opened read-only, or a session like a standby's."""

from typing import Any

from config.settings import *  # noqa: F403
from config.settings import DATABASES

_database: dict[str, Any] = DATABASES["default"]
if _database["ENGINE"].endswith("sqlite3"):
    _database["NAME"] = f"file:{_database['NAME']}?mode=ro"
    _database["OPTIONS"] = _database["OPTIONS"] | {"uri": True}
else:
    _database["OPTIONS"] = _database["OPTIONS"] | {"options": "-c default_transaction_read_only=on"}
