"""Pause, resume or stop an open run, or change its settings, from another terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from mana_migration.domain.options import Controls
from mana_migration.errors import UsageError
from mana_migration.management import arguments
from mana_migration.management.commands._base import DONE, PARTLY
from mana_migration.management.run_command import CONTROLS, RunCommand
from mana_migration.services import closing
from mana_migration.services.context import current_actor
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
            choices=[*(str(action) for action in (*CONTROLS, Action.SET)), "close", "reopen"],
            help="Let the run's processes finish their current batch and wait (pause), let them continue (resume), end "
            "the run for good and keep what it did (stop), change settings (set), close the whole migration after a "
            "clean validation (close), or reopen it (reopen).",
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
        parser.add_argument(
            "--archives",
            type=Path,
            metavar="FOLDER",
            help="With close: say what still keeps the tables of mana_migration from being removed, by the archives of "
            "archive_runs in this folder; nothing is changed.",
        )
        arguments.add_reason_option(parser)

    def run(self, **options: Any) -> int:
        """Do it."""
        if options["archives"] is not None and options["action"] != "close":
            raise UsageError("--archives is for control_migration close")
        if options["action"] in ("close", "reopen"):
            return self.close_or_reopen(options)
        action = Action(options["action"])
        named = [word for word in options["words"] if isinstance(word, int)]
        settings = dict(word for word in options["words"] if not isinstance(word, int))
        if len(named) > 1:
            raise UsageError(f"{len(named)} runs are named: give one")
        if bool(settings) != (action is Action.SET):
            what = f"{next(iter(settings))}=... is for set" if settings else "set needs NAME=VALUE, such as delay=0.5"
            raise UsageError(f"control_migration {action}: {what}")
        return self.control(action, named[0] if named else None, settings, reason=options["reason"])

    def close_or_reopen(self, options: dict[str, Any]) -> int:
        """Close the migration for good, reopen it, or say what may be removed."""
        if options["words"]:
            raise UsageError(f"control_migration {options['action']} concerns the whole migration: name no run")
        if options["archives"] is not None:
            problems = closing.removable(options["archives"], using=self.using)
            lines = problems or ["every run is archived: the tables of mana_migration may be removed"]
            self.print_result({"removable": not problems, "problems": problems}, lines)
            return PARTLY if problems else DONE
        change = closing.close if options["action"] == "close" else closing.reopen
        done = change(actor=current_actor(), reason=options["reason"], using=self.using)
        self.print_result({"closed": done.closed, "details": done.details}, [f"the migration is {_state(done.closed)}"])
        return DONE


def _state(closed: bool) -> str:
    return "closed: runs and mass rollbacks are refused from now on" if closed else "open again"
