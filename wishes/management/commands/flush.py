"""Django's ``flush``, which empties the ledgers as well where that is meant: in tests, and with ``--with-ledgers``."""

from __future__ import annotations

from typing import Any

from django.core import mail
from django.core.management.base import CommandError, CommandParser
from django.core.management.commands import flush
from django.db import connections, transaction

from wishes import guards
from wishes.hooks import hooks


class Command(flush.Command):
    def add_arguments(self, parser: CommandParser) -> None:
        """Add the option that a development database needs."""
        super().add_arguments(parser)
        parser.add_argument(
            "--with-ledgers",
            action="store_true",
            help="Empty the ledgers of wishes and mana as well, which the database otherwise refuses.",
        )

    def handle(self, **options: Any) -> None:
        """Empty the tables while the guards that forbid it are lifted, in one transaction.

        Raises:
            CommandError: the ledgers hold entries, and neither a test nor the option says that they may go.
        """
        connection = connections[options["database"]]
        found = guards.statements(connection.vendor) + hooks.more_guards(connection.vendor)
        in_tests = hasattr(mail, "outbox")  # setup_test_environment() makes it
        with transaction.atomic(using=connection.alias):
            against = guards.against_emptying(connection, found)
            if against and not (in_tests or options["with_ledgers"]) and guards.has_entries(connection):
                raise CommandError(
                    "the ledgers of wishes and mana have entries, which are never deleted; to empty a development "
                    "database, pass --with-ledgers"
                )
            guards.drop_triggers(connection, against)
            super().handle(**options)
            guards.run_statements(connection, against)
