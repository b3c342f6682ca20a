"""A process that has loaded Django and forks a child for each call: a real process without the start-up.

    with Zygote(environment) as zygote:
        child = zygote.start("tests.torture.children:command", argv=["migrate_users"])
        os.kill(child.pid, signal.SIGKILL)
        ended = child.wait()

The zygote never opens a database, so that nothing is shared between its children. A child has a database connection,
open files and signal handlers of its own, and can be killed like any other process.
"""

import contextlib
import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROJECT = Path(__file__).resolve().parent.parent.parent
LONGEST = 300  # seconds that a child may take before it is ended by SIGALRM


class ChildError(AssertionError):
    """A call that must succeed did not."""


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, negative for a signal, what it returned, and what it wrote."""

    code: int
    result: Any
    out: str
    err: str

    @property
    def killed(self) -> bool:
        """Say whether SIGKILL ended it."""
        return self.code == -signal.SIGKILL


@dataclass(frozen=True)
class Child:
    """A call under way."""

    zygote: "Zygote"
    pid: int
    files: Path

    def kill(self) -> None:
        """End it as a power cut would; nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def helpers(self) -> list[int]:
        """Return the processes that it has started."""
        try:
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except FileNotFoundError:
            return []

    def wait(self) -> Ended:
        """Wait for its end."""
        code = int(self.zygote.ask({"wait": self.pid})["code"])
        out, err, result = (self.files.with_suffix(suffix) for suffix in (".out", ".err", ".json"))
        # a child that was killed at once has not opened them yet
        said, complained, text = (path.read_text() if path.exists() else "" for path in (out, err, result))
        ended = Ended(code, json.loads(text) if text else None, said, complained)
        for path in (out, err, result):
            path.unlink(missing_ok=True)
        return ended


class Zygote:
    """The zygote as its user sees it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="zygote-"))
        self._number = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.zygote"],
            cwd=PROJECT,
            env=os.environ | dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for whoever started it
        )

    def __enter__(self) -> Self:
        """Return the zygote."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.close()

    def close(self) -> None:
        """End the process and its children, and remove what they wrote."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, function: str, *, longest: int = LONGEST, **arguments: Any) -> Child:
        """Call ``module:function`` with JSON arguments in a child of its own, which may take so many seconds."""
        self._number += 1
        files = self.folder / str(self._number)
        answer = self.ask({"call": function, "arguments": arguments, "files": str(files), "longest": longest})
        return Child(self, int(answer["pid"]), files)

    def call(self, function: str, *, longest: int = LONGEST, **arguments: Any) -> Any:
        """Call a function that must succeed, and return its result."""
        ended = self.start(function, longest=longest, **arguments).wait()
        if ended.code:
            raise ChildError(f"{function} ended with {ended.code}\n{ended.out[-2000:]}{ended.err[-4000:]}")
        return ended.result

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send one request and return the answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise ChildError("the zygote has died")
        answer: dict[str, Any] = json.loads(line)
        return answer


# --- Inside -----------------------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer requests until nobody can send any."""
    _load_everything()
    children: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "call" in request:
            pid = os.fork()
            if pid == 0:
                _live(request)
            children.add(pid)
            answer: dict[str, Any] = {"pid": pid}
        else:
            _, status = os.waitpid(request["wait"], 0)
            children.discard(request["wait"])
            answer = {"code": os.waitstatus_to_exitcode(status)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _load_everything() -> None:
    """Load what any child will need, so that no child has to."""
    import django
    from django.core import management

    django.setup()
    for name, app in management.get_commands().items():
        if app in ("wishes", "mana_migration"):
            management.load_command_class(app, name)
    for name in ("tests.torture.children", "tests.torture.books", "rich.progress", "rich.live", "config.urls"):
        importlib.import_module(name)
    gc.freeze()  # a collection in a child would copy every page


def _live(request: dict[str, Any]) -> None:
    """Be the child: never returns."""
    code = 70
    try:
        signal.alarm(request["longest"])
        files = Path(request["files"])
        for descriptor, path in ((0, "/dev/null"), (1, f"{files}.out"), (2, f"{files}.err")):
            opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            os.dup2(opened, descriptor)
            os.close(opened)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww")
        )
        module, _, name = request["call"].partition(":")
        try:
            result = getattr(importlib.import_module(module), name)(**request["arguments"])
            files.with_suffix(".json").write_text(json.dumps(result))
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            if isinstance(stop.code, str):
                sys.stderr.write(f"{stop.code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
