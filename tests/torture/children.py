"""What the children of the zygote are asked to do to a database."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NoReturn
from unittest import mock

from django.core.management import call_command
from django.db import connections

import manage
from mana_migration.services import autofix
from mana_migration.services.executors import processes
from mana_migration.services.worker import failures, outage
from tests.support.together import together
from tests.torture import machine, points, seeds


def use(database: str) -> None:
    """Make a database this process's only one: a file, or the name of one on the zygote's server."""
    connections.settings["default"]["NAME"] = database


class Fork:
    """A helper of a command: a fork of it, with the database in use, where a new interpreter would take seconds."""

    def __init__(
        self, saboteur: points.Saboteur | None, command: Sequence[str], *, env: dict[str, str], stderr: Any, **_: Any
    ) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(write)
            self._live(command, env, read, stderr.fileno(), saboteur)
        os.close(read)
        self.stdin = os.fdopen(write, "wb")
        self._code: int | None = None

    def _live(
        self, command: Sequence[str], env: dict[str, str], stdin: int, stderr: int, saboteur: points.Saboteur | None
    ) -> NoReturn:
        code = 70
        try:
            for descriptor, opened in ((0, stdin), (1, os.open(os.devnull, os.O_WRONLY)), (2, stderr)):
                os.dup2(opened, descriptor)
            os.environ.update(env)
            if saboteur is not None:
                saboteur.done, saboteur.position = True, 0  # the parent's statement fails
            for alias in connections:  # the parent's own
                INHERITED.append(connections[alias])
                del connections[alias]
            manage.main(["manage.py", *command[3:]])
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""
        if self._code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if ended else None
        return self._code

    def wait(self) -> None:
        """Wait for its end."""
        while self.poll() is None:
            time.sleep(0.01)

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


#: Connections of the parent, kept so that nothing closes them in a fork.
INHERITED: list[Any] = []


def create_schema(database: str) -> None:
    """Apply the schema migrations to an empty database."""
    use(database)
    call_command("migrate", verbosity=0, skip_checks=True)
    connections.close_all()


def seed(database: str, name: str) -> dict[str, Any]:
    """Fill a database with the users of a scene; return what the scene wants to be remembered."""
    use(database)
    remembered = getattr(seeds, name)() or {}
    connections.close_all()
    return dict(remembered)


def command(
    database: str,
    argv: Sequence[str],
    kill: dict[str, Any] | None = None,
    fail: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Run ``manage.py ARGV``, as the operator's process would be; return its exit code and the moments passed.

    ``kill``: where to end it by SIGKILL, as arguments of ``points.killer``.  ``fail``: which statement to let end with
    which error, as arguments of ``points.Saboteur``.  Waits between tries are cut short.
    """
    use(database)
    saboteur = points.Saboteur(**fail) if fail else None
    code = 0
    with ExitStack() as stack:
        for module, name in ((failures, "FIRST_WAIT"), (outage, "LOST_FIRST_WAIT"), (autofix, "FIRST_WAIT")):
            stack.enter_context(mock.patch.object(module, name, 0.001))
        stack.enter_context(together())
        stack.enter_context(mock.patch.object(processes.subprocess, "Popen", partial(Fork, saboteur)))
        watcher = stack.enter_context(points.watch(points.killer(**kill) if kill else points.nothing, saboteur))
        try:
            manage.main(["manage.py", *argv])
        except SystemExit as stop:
            if isinstance(stop.code, str):
                sys.stderr.write(f"{stop.code}\n")
                code = 1
            else:
                code = stop.code or 0
    return {
        "code": code,
        "names": watcher.names,
        "done": watcher.done,
        "sabotaged": saboteur is not None and saboteur.done,
    }


def explore(database: str, examples: int, steps: int, seed: int, look_every: int) -> dict[str, int]:
    """Let the state machine work on a database; return the numbers of steps and sequences done."""
    use(database)
    return machine.explore(examples=examples, steps=steps, seed=seed, look_every=look_every)
