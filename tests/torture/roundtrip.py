"""Many users migrated and rolled back again: byte for byte what they had."""

from typing import Any

from django.contrib.auth import get_user_model
from django.db import connection, connections

from tests.torture.children import use


def populate(database: str, users: int) -> None:
    """Fill an empty database with users who hold wishes; written by the database itself, because they are many."""
    use(database)
    table = get_user_model()._meta.db_table
    numbers = (
        f"SELECT n FROM generate_series(1, {users}) n"
        if connection.vendor == "postgresql"
        else f"WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < {users}) SELECT n FROM g"
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} (username, password, first_name, last_name, email, is_staff, is_active, "
            "is_superuser, date_joined) SELECT 'user-' || n, '', '', '', '', false, true, false, CURRENT_TIMESTAMP "
            f"FROM ({numbers}) s"
        )
        cursor.execute(
            "INSERT INTO wishes_wallet (user_id, green, blue, red, mana, updated_at) "
            f"SELECT id, id % 1009 * 7919 % 1009, id % 53, id % 11 * (id % 3), 0, CURRENT_TIMESTAMP FROM {table}"
        )
        cursor.execute("ANALYZE")
    connections.close_all()


def look(database: str) -> dict[str, Any]:
    """Return the rules that do not hold; with many users this takes minutes."""
    from tests.support import oracle

    use(database)
    found = {"violations": [str(violation) for violation in oracle.violations()][:20]}
    connections.close_all()
    return found
