"""Pause, resume or stop an open run, or change its settings, from another terminal."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from mana_migration.domain.options import Controls
from mana_migration.errors import UsageError
from mana_migration.management import arguments
from mana_migration.management.run_command import CONTROLS, RunCommand
from mana_migration.states import Action


class Command(RunCommand):
    """Change an open run."""

    help = (
        "Pause, resume or stop an open migration or rollback, or change its settings, from any machine with the same "
        "database. Its processes notice within seconds. Who did it, when and why is kept with the run."
    )
    examples = (
        "control_migration pause --reason 'backup until 03:00'",
        "control_migration resume",
        "control_migration set batch_size=200 delay=0.5",
    )

    def add_options(self, parser: CommandParser) -> None:
        """Add what to do, with which run."""
        parser.add_argument(
            "action",
            choices=[str(action) for action in (*CONTROLS, Action.SET)],
            help="Let the run's processes finish their current batch and wait (pause), let them continue (resume), end "
            "the run for good and keep what it did (stop), or change settings (set).",
        )
        parser.add_argument(
            "words",
            nargs="*",
            type=arguments.run_or_setting,
            metavar="RUN|NAME=VALUE",
            help="The number of the run (default: the open one). With set: new values of "
            f"{', '.join(Controls.NAMES)}; they apply from the next batch, batch_size some thousand users later. "
            "until is an ISO date-time with its zone, or none.",
        )
        arguments.add_reason_option(parser)

    def run(self, **options: Any) -> int:
        """Do it."""
        action = Action(options["action"])
        named = [word for word in options["words"] if isinstance(word, int)]
        settings = dict(word for word in options["words"] if not isinstance(word, int))
        if len(named) > 1:
            raise UsageError(f"{len(named)} runs are named: give one")
        if bool(settings) != (action is Action.SET):
            what = f"{next(iter(settings))}=... is for set" if settings else "set needs NAME=VALUE, such as delay=0.5"
            raise UsageError(f"control_migration {action}: {what}")
        return self.control(action, named[0] if named else None, settings, reason=options["reason"])
