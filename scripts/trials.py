"""A process that has loaded everything and seen the tests pass; each change is tried in a fork of it.

# Note [Grafting]
Whoever has imported a function keeps it, so a changed one is not put in its place: its code is, in the function that
everybody has.  That works for the bodies of functions and methods, which is where nearly all changes are.  A constant
is put in the place of the old one in every module that has it under its name; what survives so is tried once more like
the rest (a decorator, the fields of a class): in a process that imports the changed module, which is slower.

# Note [The tests of a change]
In the run before any change every function of the module notes which tests it was called in.  A change is tried with
the tests that called its function alone, those that noticed most changes for their time first.

# Note [The economy is made once]
Many tests begin with the ``economy`` fixture, which takes half a second to let everything happen that can.  Where the
changed module only looks at it, it is made once, before any change, and each such test gets a copy of SQLite's file.
"""

import __future__

import ast
import contextlib
import copy
import functools
import gc
import importlib
import json
import math
import os
import resource
import select
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import hypothesis
import pytest
from django.db import connections
from mutants import Change
from pytest_django.plugin import blocking_manager_key

#: After so many times what the tests take without a change, and never before so many seconds, a change is taken to have
#: made them endless, which they notice.  A trial's are seconds of the processor, unless it does nothing for an hour.
PATIENCE, LEAST_PATIENCE, IDLE = 4, 20, 3600
UNCHANGED, NOTICED = 0, 1

#: What stands for the constants of a module where else the name of a function does.
CONSTANTS: tuple[str, ...] = ()

#: How the name of a trial's own database ends.
TRIAL = ".trial"

#: The same examples for every change, none kept, none made smaller; a slow machine is no notice of a change.
QUICK = hypothesis.settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    suppress_health_check=list(hypothesis.HealthCheck),
)


def changed_part(before: str, after: str) -> tuple[str, ...] | None:
    """Return the name of the one function, or of class and method, whose code differs; None if more than that does.

    It is ``CONSTANTS`` where the value of a constant differs.
    """
    old, new = ast.parse(before).body, ast.parse(after).body
    path: tuple[str, ...] = ()
    while True:
        differing = [pair for pair in zip(old, new, strict=False) if ast.dump(pair[0]) != ast.dump(pair[1])]
        if len(old) != len(new) or len(differing) != 1:
            return None
        one, other = differing[0]
        if not path and isinstance(one, ast.Assign | ast.AnnAssign) and isinstance(other, type(one)):
            return CONSTANTS if targets(one) == targets(other) else None
        if isinstance(one, ast.FunctionDef) and isinstance(other, ast.FunctionDef):
            same = [ast.dump(node) for node in one.decorator_list] == [ast.dump(node) for node in other.decorator_list]
            return (*path, one.name) if same and one.name == other.name else None
        if not isinstance(one, ast.ClassDef) or not isinstance(other, ast.ClassDef) or path:
            return None
        old, new, path = one.body, other.body, (one.name,)


def targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    """Return what is assigned to."""
    return [ast.dump(target) for target in (node.targets if isinstance(node, ast.Assign) else [node.target])]


def plain_function(found: Any) -> FunctionType:
    """Return the function inside properties, caches and the like."""
    while not isinstance(found, FunctionType) or hasattr(found, "__wrapped__"):
        if isinstance(found, property):
            found = found.fget
        elif isinstance(found, staticmethod | classmethod):
            found = found.__func__
        else:
            found = found.__wrapped__ if hasattr(found, "__wrapped__") else found.func
    return found


def find(names: dict[str, Any], path: tuple[str, ...]) -> FunctionType:
    """Return a function by its name, or by class and name."""
    first = names[path[0]]
    return plain_function(first if len(path) == 1 else vars(first)[path[1]])


def graft(module: ModuleType, tree: ast.Module, path: tuple[str, ...]) -> None:
    """Give a function of a module the code that it has in a changed text: Note [Grafting]."""
    if path == CONSTANTS:
        graft_constants(module, tree)
        return
    statement = next(node for node in tree.body if getattr(node, "name", None) == path[0])
    if isinstance(statement, ast.ClassDef):
        statement.decorator_list = []  # to register a class twice is refused, and only its methods are wanted
    names = dict(vars(module))
    lone = ast.Module([statement], type_ignores=[])
    exec(compile(lone, str(module.__file__), "exec", __future__.annotations.compiler_flag), names)  # noqa: S102
    old, new = find(vars(module), path), find(names, path)
    old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__


def graft_constants(module: ModuleType, tree: ast.Module) -> None:
    """Give every module that has a constant of this one the value that it has in a changed text."""
    names = dict(vars(module))
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            lone = ast.Module([node], type_ignores=[])
            exec(compile(lone, str(module.__file__), "exec", __future__.annotations.compiler_flag), names)  # noqa: S102
    for name, old in list(vars(module).items()):
        if repr(names[name]) != repr(old):
            for other in list(sys.modules.values()):
                if isinstance(other, ModuleType) and vars(other).get(name) is old:
                    setattr(other, name, names[name])


def functions_of(tree: ast.Module) -> Iterator[tuple[tuple[str, ...], ast.FunctionDef]]:
    """Yield the functions of a module and the methods of its classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield (node.name,), node
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield (node.name, inner.name), inner


class Trials:
    """The plugin of the process that tries changes: it runs the tests once as they are, and then for each change."""

    def __init__(
        self, name: str, changes: list[Change], paths: list[tuple[str, ...]], output: int, *, looks_only: bool
    ) -> None:
        self.name, self.changes, self.paths, self.output = name, changes, paths, output
        self.looks_only, self.economy = looks_only, ""
        self.seconds: dict[str, float] = defaultdict(float)
        self.noticed: dict[str, int] = defaultdict(int)
        self.called: dict[tuple[str, ...], set[str]] = defaultdict(set)
        self.caches: list[Any] = []
        self.now, self.failed, self.in_trial, self.pipe = "", "", False, -1

    # --- what pytest calls --------------------------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what writes to a server's database for good: it is one for all changes."""
        if config.getoption("db") == "postgres":
            marks = [(item, item.get_closest_marker("django_db")) for item in items]
            items[:] = [item for item, mark in marks if mark is None or not mark.kwargs.get("transaction")]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """End a trial at the first test that fails."""
        if report.failed:
            self.failed = self.failed or f"{report.nodeid}\n{report.longrepr}"
            if self.in_trial:
                os.write(self.pipe, self.now.encode())
                os._exit(NOTICED)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests as they are, then try the changes."""
        module = importlib.import_module(self.name.removesuffix(".py").replace("/", "."))
        found = [found for found in gc.get_objects() if isinstance(found, functools._lru_cache_wrapper)]
        self.caches = [cache for cache in found if cache.__module__.partition(".")[0] in ("mana_migration", "wishes")]
        begun = time.monotonic()
        original = Path(str(module.__file__)).read_text()
        self._mark(module, original)
        for item in session.items:
            forget(self.caches)
            self._run(item, None)
        if self.failed:
            self._tell(problem=self.failed)
            return True
        for path, _ in functions_of(ast.parse(original)):
            graft(module, ast.parse(original), path)
        if self.looks_only and session.config.getoption("db") == "sqlite":
            with session.config.stash[blocking_manager_key].unblock():
                self.economy = prepare_economy()
        few = sorted(session.items, key=lambda item: self.seconds[item.nodeid])
        survived, by = self._try(lambda: None, few if self.economy else few[: 1 + len(few) // 2], 600)
        if not survived:
            self._tell(problem=f"in a trial of nothing {by} fails")
            return True
        self._tell(seconds=time.monotonic() - begun, tests=len(session.items))
        gc.freeze()  # or every child would copy what is only looked at
        for number, (change, path) in enumerate(zip(self.changes, self.paths, strict=True)):
            begun = time.monotonic()
            tests = self._tests(session, path)
            limit = max(LEAST_PATIENCE, PATIENCE * sum(self.seconds[item.nodeid] for item in tests))
            survived, by = self._try(functools.partial(graft, module, ast.parse(change.text), path), tests, limit)
            self.noticed[by] += 1
            self._tell(change=number, survived=survived, by=by, tests=len(tests), seconds=time.monotonic() - begun)
        return True

    # --- the run before any change ------------------------------------------------------------------------------------

    def _mark(self, module: ModuleType, text: str) -> None:
        """Let every function note that it was called."""
        vars(module)["__called__"] = lambda path: self.called[path].add(self.now)
        for path, _ in functions_of(ast.parse(text)):
            tree = ast.parse(text)
            function = dict(functions_of(tree))[path]
            function.body.insert(0, ast.parse(f"__called__({path!r})").body[0])
            graft(module, ast.fix_missing_locations(tree), path)

    def _run(self, item: pytest.Item, following: pytest.Item | None) -> None:
        """Run one test, and note its seconds of the processor; what lasts for the whole session stays."""
        begun = time.process_time()
        self.now = item.nodeid
        if self.in_trial and self.economy:
            own_database(self.economy if "economy" in getattr(item, "fixturenames", ()) else "")
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following or item.session)
        self.seconds[item.nodeid] += time.process_time() - begun

    def _tell(self, **values: Any) -> None:
        os.write(self.output, (json.dumps(values) + "\n").encode())

    # --- one change ---------------------------------------------------------------------------------------------------

    def _tests(self, session: pytest.Session, path: tuple[str, ...]) -> list[pytest.Item]:
        """Return the tests that call a function, the most promising first: Note [The tests of a change]."""
        called = set().union(*self.called.values()) if path == CONSTANTS else self.called[path]
        tests = [item for item in session.items if item.nodeid in called]
        return sorted(tests, key=lambda item: (self.seconds[item.nodeid] + 0.02) / (1 + self.noticed[item.nodeid]))

    def _try(self, apply: Callable[[], None], tests: list[pytest.Item], limit: float) -> tuple[bool, str]:
        """Return whether a change survives so many seconds of the processor, and which test noticed it."""
        connections.close_all()
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = NOTICED
            with contextlib.suppress(BaseException):
                resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit)))
                self.in_trial, self.pipe = True, write
                own_database()
                apply()
                forget(self.caches)
                for item, following in zip(tests, [*tests[1:], None], strict=True):
                    self._run(item, following)
                code = UNCHANGED
            os._exit(code)
        os.close(write)
        watch = os.pidfd_open(pid)
        if not select.select([watch], [], [], IDLE)[0]:
            os.kill(pid, signal.SIGKILL)
        os.close(watch)
        _, status = os.waitpid(pid, 0)
        by = os.read(read, 10_000).decode() if os.waitstatus_to_exitcode(status) == NOTICED else "time"
        os.close(read)
        survived = os.waitstatus_to_exitcode(status) == UNCHANGED
        return survived, "" if survived else by


def forget(caches: list[Any]) -> None:
    """Empty every cache, where what a change makes would not be seen otherwise."""
    for cache in caches:
        cache.cache_clear()


def own_database(other: str = "") -> None:
    """Go on with a copy of SQLite's file, or of another: nothing that a change writes is there for the next."""
    for connection in connections.all():
        name = str(connection.settings_dict["NAME"]).removesuffix(TRIAL)
        if connection.vendor == "sqlite" and Path(name).exists():
            connection.close()
            own = f"{name}{TRIAL}"
            for end in ("-wal", "-shm"):
                Path(own + end).unlink(missing_ok=True)
            connection.settings_dict["NAME"] = shutil.copyfile(other or name, own)


def prepare_economy() -> str:
    """Let everything happen in a copy of SQLite's file, give it to the fixture; return the file's name."""
    economies: Any = importlib.import_module("tests.support.economy")  # which needs settings
    settings = connections["default"].settings_dict
    name = settings["NAME"]
    connections.close_all()
    settings["NAME"] = shutil.copyfile(name, f"{name}.economy")
    lived = economies.live_through()
    connections.close_all()
    settings["NAME"], made = name, settings["NAME"]
    # the fixture lives through it, or writes what it remembers of the first time
    economies.live_through = economies.again = lambda: copy.deepcopy(lived)
    return str(made)


def try_warm(
    name: str,
    changes: list[Change],
    paths: list[tuple[str, ...]],
    tests: tuple[str, ...],
    database: str,
    *,
    looks_only: bool = False,
) -> Iterator[dict[str, Any]]:
    """Try changes of functions; yield what came of the tests as they are, then of each change, in order.

    ``looks_only``: the module only looks at what is there: Note [The economy is made once].
    """
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        silent = os.open(os.devnull, os.O_WRONLY)
        if "MUTATION_LOUD" not in os.environ:
            for descriptor in (1, 2):
                os.dup2(silent, descriptor)
        options = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-o", "timeout=0", "--db", database]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        hypothesis.settings.register_profile("mutation", QUICK)
        hypothesis.settings.load_profile("mutation")
        with contextlib.suppress(BaseException):
            pytest.main([*options, *tests], plugins=[Trials(name, changes, paths, write, looks_only=looks_only)])
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as lines:
        for line in lines:
            yield json.loads(line)
    os.waitpid(pid, 0)
