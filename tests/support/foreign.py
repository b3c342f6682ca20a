"""Triggers and rules of a site's own that drop, change or double what is written to our tables, generated."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection

#: What is written to each table, and the columns whose change must be noticed.
WRITTEN = {
    "wishes_wallet": (("INSERT", "UPDATE"), ("green", "blue", "red", "mana")),
    "wishes_manaentry": (("INSERT",), ("amount", "balance_after", "reference")),
    "wishes_wishentry": (("INSERT",), ("amount", "balance_after", "reference")),
    "mana_migration_usermigration": (("INSERT", "UPDATE"), ("green", "blue", "red", "mana_before", "mana_credited")),
    "mana_migration_migrationbatch": (("INSERT", "UPDATE"), ("selected", "migrated", "mana")),
    "mana_migration_integrityfix": (("INSERT",), ("green_change", "mana_change")),
}

#: What adds a row, or its worth, a second time.
_AGAIN = {
    "wishes_wallet": "UPDATE wishes_wallet SET mana = mana + 1, green = green + 0 WHERE user_id = NEW.user_id",
    "wishes_manaentry": (
        "INSERT INTO wishes_manaentry (user_id, amount, balance_after, kind, reference, created_at) VALUES "
        "(NEW.user_id, 1, NEW.balance_after + 1, 'adjustment', 'again:' || NEW.reference, NEW.created_at)"
    ),
    "wishes_wishentry": (
        "INSERT INTO wishes_wishentry (user_id, colour, amount, balance_after, kind, reference, created_at) VALUES "
        "(NEW.user_id, NEW.colour, 1, NEW.balance_after + 1, 'earn', 'again:' || NEW.reference, NEW.created_at)"
    ),
}
_WALLET_AGAIN = "UPDATE wishes_wallet SET mana = mana + NEW.amount WHERE user_id = NEW.user_id"


@dataclass(frozen=True, slots=True)
class Foreign:
    """Something of a site's own on one of our tables; ``body`` is what its trigger does, in this database's SQL."""

    kind: str
    table: str
    event: str
    when: str = "BEFORE"
    body: str = ""

    def __str__(self) -> str:
        return f"{self.kind}-{self.event.lower()}-{self.table}"

    def attach(self) -> None:
        """Create it."""
        with connection.cursor() as cursor:
            if self.kind == "rule":
                cursor.execute(f"CREATE RULE a_rule AS ON {self.event} TO {self.table} DO INSTEAD NOTHING")
            elif connection.vendor == "postgresql":
                cursor.execute(
                    "CREATE FUNCTION of_the_site() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN "
                    f"IF pg_trigger_depth() > 1 THEN RETURN NEW; END IF; {self.body} END $f$"
                )
                # a vacuum that has just begun gives way after a second, the run's own timeout may be shorter
                cursor.execute(
                    "SET LOCAL lock_timeout = 0; "
                    f"CREATE TRIGGER of_the_site {self.when} {self.event} ON {self.table} "
                    "FOR EACH ROW EXECUTE FUNCTION of_the_site()"
                )
            else:
                cursor.execute(
                    f"CREATE TRIGGER of_the_site {self.when} {self.event} ON {self.table} BEGIN {self.body}; END"
                )

    def detach(self) -> None:
        """Remove it."""
        with connection.cursor() as cursor:
            if self.kind == "rule":
                cursor.execute(f"DROP RULE a_rule ON {self.table}")
            elif connection.vendor == "postgresql":
                cursor.execute("DROP FUNCTION of_the_site() CASCADE")
            else:
                cursor.execute("DROP TRIGGER of_the_site")


def everything(*tables: str) -> list[Foreign]:
    """Return every kind of interference with what is written to these tables, for this database."""
    postgres = connection.vendor == "postgresql"
    found = []
    for table in tables:
        events, columns = WRITTEN[table]
        for event in events:
            found.append(Foreign("dropped", table, event, body="RETURN NULL;" if postgres else "SELECT RAISE(IGNORE)"))
            found.append(
                Foreign(
                    "raising", table, event,
                    body="RAISE EXCEPTION 'not today';" if postgres else "SELECT RAISE(ABORT, 'not today')",
                )
            )  # fmt: skip
            if postgres:
                found.append(Foreign("rule", table, event))
                for column in columns:
                    change = "NEW.reference || '!'" if column == "reference" else f"NEW.{column} + 1"
                    found.append(
                        Foreign(f"changed {column}", table, event, body=f"NEW.{column} := {change}; RETURN NEW;")
                    )
            again = {"doubled": _AGAIN.get(table, "")}
            if table == "wishes_manaentry":
                again["doubled in the wallet"] = _WALLET_AGAIN
            found += [
                Foreign(kind, table, event, "AFTER", f"{sql}; RETURN NULL;" if postgres else sql)
                for kind, sql in again.items()
                if sql
            ]
    return found
