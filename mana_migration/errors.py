"""What can go wrong with a migration, one class per cause.

Every message is one line: what happened, with the value, and what to do next.  None carries a
username or an e-mail address.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

#: Commands that a message may advise.
_COMMANDS: Final = re.compile(
    r"\b(migrate_users|rollback_migration|monitor_migration|validate_migration|import_balances|work_migration"
    r"|control_migration|install_guards|archive_runs|manage\.py migrate)\b(?! --database)"
)


def for_database(message: str, alias: str) -> str:
    """Return a message whose advice is right for a database other than the default one: its commands name it."""
    return message if alias == "default" else _COMMANDS.sub(rf"\1 --database {alias}", message)


class MigrationError(Exception):
    """Base of every error that ends a command with one clear line and exit code 1.

    A message of plain Python that a page may show is given with its values apart, so that the page can translate it.
    """

    def __init__(self, message: str = "", **values: object) -> None:
        self.message, self.values = message, values
        super().__init__(message.format(**values) if values else message)


class UsageError(MigrationError):
    """An option or a value that cannot be meant; ends a command with exit code 2."""


class TransitionError(MigrationError):
    """A run cannot go from its status to the one asked for."""

    def __init__(self, *, run: int, current: str, target: str, allowed: Sequence[str], why: str = "") -> None:
        self.run, self.current, self.target = run, current, target
        why = why or (f"from there it can only become {', '.join(allowed)}" if allowed else "that is its end")
        super().__init__(f"run {run} is {current} and cannot become {target}: {why}")


class RunConflictError(MigrationError):
    """Another run is open, or the open one was started with other options."""


class RunNotFoundError(MigrationError):
    """There is no such run."""


class UserNotFoundError(MigrationError):
    """No user has this primary key or username."""


class AmbiguousUserError(UsageError):
    """The value is the primary key of one user and the username of another."""


class ArchiveError(MigrationError):
    """An archive, or what it is to be made of, is not what was written."""


class PreflightError(MigrationError):
    """The database is not fit for a run; the message names what is missing."""


class FindingsError(MigrationError):
    """Error-level findings block a run."""


class NothingToDoError(MigrationError):
    """There is nothing to do, which is a success: no run is opened, and commands end with 0."""


class NothingToMigrateError(NothingToDoError):
    """No user is selected by the options."""


class NothingToRollBackError(NothingToDoError):
    """The selection holds no conversion that could be reversed."""


class ImportRejectedError(MigrationError):
    """It is not certain which users the source means; nothing was imported."""


class ImportConflictError(MigrationError):
    """What an import was about to write was changed meanwhile; nothing was imported."""


class SourceError(MigrationError):
    """The legacy source cannot be read as such."""


class ReportError(MigrationError):
    """The report cannot be written where it should go."""


class DatabaseUnavailableError(MigrationError):
    """The database cannot be reached or refuses the work."""


class BrokerUnavailableError(MigrationError):
    """Celery's broker cannot be reached, so that no worker can be asked for anything."""


class NotConfirmedError(MigrationError):
    """The operator's answer to a question was no; nothing was changed."""
