"""Change the code in small ways, one at a time, and see whether the tests notice: ``make mutation``.

    python scripts/mutation.py                       every module of the list below
    python scripts/mutation.py breaker rates         those whose names contain a word
    python scripts/mutation.py posting --every 5     one in five of the changes

The changes are Cosmic Ray's, and changes of the SQL inside texts, which Cosmic Ray leaves alone and where most of this
project's arithmetic is. One that leaves the meaning as it is (an annotation, how an argument is passed) is not
counted. Each change is tried in a fork of a process that has loaded everything but this project, with a few fast tests
chosen for the module, on SQLite. It prints a Markdown table and the changes that no test noticed, and ends with 1 if
there are more of those than --survivors.
"""

import argparse
import ast
import importlib.abc
import importlib.machinery
import importlib.util
import io
import itertools
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tokenize
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import hypothesis
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

PROJECT = Path(__file__).resolve().parent.parent

#: Everything that can happen to a user, with the oracle after each step: the quickest to notice a wrong balance.
ECONOMY = "tests/support/test_oracle.py::test_nothing_that_the_product_does_breaks_a_rule"

#: The modules whose mistakes cost money or open a door, each with tests that are quick and close to it.
TARGETS: dict[str, tuple[str, ...]] = {
    "wishes/rates.py": ("tests/wishes/test_rates.py",),
    "mana_migration/domain/breaker.py": ("tests/mana_migration/domain/test_breaker.py",),
    "mana_migration/domain/pacing.py": ("tests/mana_migration/domain/test_pacing.py",),
    "mana_migration/domain/pressure.py": ("tests/mana_migration/domain/test_pressure.py",),
    "mana_migration/reports/cells.py": ("tests/mana_migration/reports/test_cells.py",),
    "wishes/posting.py": (
        ECONOMY,
        "tests/mana_migration/engine/test_conversion.py",
        "tests/mana_migration/engine/test_reversal.py",
        "tests/mana_migration/engine/test_import_users.py",
        "tests/mana_migration/services/test_import_balances.py",
    ),
    "mana_migration/engine/conversion.py": (
        ECONOMY,
        "tests/mana_migration/engine/test_conversion.py",
        "tests/mana_migration/services/test_dry_run.py",
        "tests/mana_migration/services/test_named.py",
    ),
    "mana_migration/engine/reversal.py": (
        ECONOMY,
        "tests/mana_migration/engine/test_reversal.py",
        "tests/mana_migration/services/test_rollback.py",
    ),
    "mana_migration/engine/integrity/wallets.py": ("tests/mana_migration/services/test_validation.py",),
    "mana_migration/engine/integrity/ledger.py": ("tests/mana_migration/services/test_validation.py",),
    "mana_migration/engine/integrity/records.py": ("tests/mana_migration/services/test_validation.py",),
    "mana_migration/engine/integrity/value.py": ("tests/mana_migration/services/test_validation.py",),
    "mana_migration/engine/integrity/states.py": ("tests/mana_migration/services/test_validation.py",),
}

#: Modules that are plain Python, as are their tests: no settings, no database, no plugin is needed.
PLAIN = re.compile(r"domain/|wishes/rates|reports/cells")

#: Words of SQL, and what they become.  A space on each side keeps to operators.
SQL_CHANGES: tuple[tuple[str, str], ...] = (
    (" + ", " - "),
    (" - ", " + "),
    (" AND ", " OR "),
    (" OR ", " AND "),
    (" = ", " <> "),
    (" <> ", " = "),
    (" < ", " <= "),
    (" < ", " > "),
    (" > ", " >= "),
    (" > ", " < "),
    (" <= ", " < "),
    (" >= ", " > "),
    ("IS NULL", "IS NOT NULL"),
    ("IS NOT NULL", "IS NULL"),
    ("NOT EXISTS", "EXISTS"),
    ("WHERE NOT ", "WHERE "),
    ("-debit", "debit"),
    (" = 0", " = 1"),
    ("THEN 0", "THEN 1"),
    ("ELSE 0", "ELSE 1"),
    (" DESC", " ASC"),
)
SQL = re.compile(r"\b(SELECT|WHERE|UPDATE|INSERT|DELETE|FROM|CASE|WHEN|AND|OR|NULL|EXISTS|BETWEEN)\b|\w\.\w+ [-<>=+]")
#: After so many times what the tests take without a change, and never before so many seconds, a change is taken to have
#: made them endless, which they notice.
PATIENCE, LEAST_PATIENCE = 5, 60


@dataclass(frozen=True)
class Change:
    """One change of a module: where, what, and the module's text with it."""

    line: int
    what: str
    text: str


def main(arguments: list[str] | None = None) -> int:
    """Try the changes and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="parts of the modules' names; none is all of them")
    parser.add_argument("--every", type=int, default=1, help="try one in so many changes (default 1: all)")
    parser.add_argument("--survivors", type=int, default=0, help="how many unnoticed changes are accepted (default 0)")
    parser.add_argument("--list", action="store_true", help="only count the changes")
    options = parser.parse_args(arguments)
    os.chdir(PROJECT)
    sys.path.insert(0, str(PROJECT))
    chosen = [name for name in TARGETS if not options.words or any(word in name for word in options.words)]
    changes = {name: list(itertools.islice(changes_of(Path(name)), 0, None, options.every)) for name in chosen}
    if options.list:
        for name, found in changes.items():
            print(f"{name}: {len(found)}")
        return 0
    load_libraries()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        return report({name: try_all(name, found, Path(folder)) for name, found in changes.items()}, options)


def report(outcomes: dict[str, tuple[int, list[Change], float]], options: argparse.Namespace) -> int:
    """Print the table and the survivors."""
    print("| module | changes | noticed | share | seconds |\n| --- | ---: | ---: | ---: | ---: |")
    for name, (count, survivors, seconds) in outcomes.items():
        noticed = count - len(survivors)
        share = f"{noticed / count:.1%}" if count else "-"
        print(f"| `{name}` | {count} | {noticed} | {share} | {seconds:,.0f} |")
    for name, (_, survivors, _) in outcomes.items():
        for change in survivors:
            print(f"{name}:{change.line}: {change.what}")
    return int(sum(len(survivors) for _, survivors, _ in outcomes.values()) > options.survivors)


# --- The changes ------------------------------------------------------------------------------------------------------


def changes_of(path: Path) -> Iterator[Change]:
    """Yield every change of a module that changes what it means, each once."""
    text = path.read_text()
    seen = {meaning(text)}
    for change in itertools.chain(of_cosmic_ray(text), of_sql(text)):
        try:
            now = meaning(change.text)
        except SyntaxError:
            continue
        if now not in seen:
            seen.add(now)
            yield change


def meaning(text: str) -> str:
    """Return what is left of a module without annotations, docstrings and the marks of how arguments are passed."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.arguments):  # by place or by name is how, not what
            node.args, node.posonlyargs = [*node.posonlyargs, *node.args, *node.kwonlyargs], []
            node.defaults = [*node.defaults, *(default for default in node.kw_defaults if default)]
            node.kwonlyargs, node.kw_defaults = [], []
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not is_text(one)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def is_text(node: ast.AST) -> bool:
    """Say whether a statement is a text and nothing else."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def of_cosmic_ray(text: str) -> Iterator[Change]:
    """Yield the changes that Cosmic Ray's operators make."""
    tree = get_ast(text)
    for name in operator_names():
        operator_class = get_operator(name)
        if operator_class.arguments():
            continue
        operator: Any = operator_class()
        positions = [place for node in ast_nodes(tree) for place in operator.mutation_positions(node)]
        for occurrence, (start, _) in enumerate(positions):
            changed = mutate_code(text, operator, occurrence)
            if changed is not None:
                yield Change(start[0], name.removeprefix("core/"), changed)


def of_sql(text: str) -> Iterator[Change]:
    """Yield the changes of SQL in texts."""
    lines = text.splitlines(keepends=True)
    offsets = list(itertools.accumulate((len(line) for line in lines), initial=0))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.STRING or token.string.lstrip("rf").startswith('"""') or not SQL.search(token.string):
            continue
        begin = offsets[token.start[0] - 1] + token.start[1]
        for old, new in SQL_CHANGES:
            for found in re.finditer(re.escape(old), token.string):
                place = begin + found.start()
                yield Change(
                    token.start[0],
                    f"{old.strip()} -> {new.strip()} in {token.string[max(0, found.start() - 25) : found.end() + 25]}",
                    text[:place] + new + text[place + len(old) :],
                )


# --- The trials -------------------------------------------------------------------------------------------------------


def load_libraries() -> None:
    """Load what every trial needs and this project does not own."""
    for name in (
        *("django", "django.test", "django.contrib.admin", "django.contrib.auth.models", "django.db.models"),
        *("_pytest.assertion.rewrite", "hypothesis", "factory", "psycopg2", "jsonschema"),
        *("tablib", "rich.console", "rich.progress", "openpyxl", "prometheus_client"),
    ):
        try:
            importlib.import_module(name)
        except Exception:  # noqa: S112 - some cannot be loaded before the settings are
            continue


def try_all(name: str, changes: list[Change], folder: Path) -> tuple[int, list[Change], float]:
    """Try the changes of one module; return how many there were, which survived, and the seconds that it took."""
    begun = time.monotonic()
    template = folder / "template.sqlite3"
    tests = TARGETS[name]
    original = Change(0, "nothing", Path(name).read_text())
    if not passes(name, original, tests, template, seconds=3600, keep=True):
        raise SystemExit(f"{', '.join(tests)}: fails before anything is changed")
    patience = max(LEAST_PATIENCE, round(PATIENCE * (time.monotonic() - begun)))
    survivors = []
    for number, change in enumerate(changes, 1):
        if passes(name, change, tests, template, seconds=patience):
            survivors.append(change)
            print(f"{name}:{change.line}: survived: {change.what}", file=sys.stderr, flush=True)
        if number % 25 == 0:
            print(f"{name}: {number} of {len(changes)}, {len(survivors)} unnoticed", file=sys.stderr, flush=True)
    return len(changes), survivors, time.monotonic() - begun


def passes(
    name: str, change: Change, tests: tuple[str, ...], template: Path, *, seconds: int, keep: bool = False
) -> bool:
    """Run the tests on a changed module in a process of its own; return whether they pass in so many seconds."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)
            code = run_tests(name, change, tests, template, keep=keep)
        except BaseException:  # whatever it is, the change was noticed
            if keep:
                traceback.print_exc()
            code = 99
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == 0


def run_tests(name: str, change: Change, tests: tuple[str, ...], template: Path, *, keep: bool) -> int:
    """Be the trial: let the import of the module give the changed one, and run the tests."""
    sys.meta_path.insert(0, Changed(name, change.text))
    silent = os.open(os.devnull, os.O_WRONLY)
    if not keep:
        for descriptor in (1, 2):
            os.dup2(silent, descriptor)

    # a slow machine is no notice of a change
    hypothesis.settings.register_profile("mutation", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("mutation")
    if PLAIN.search(name):
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        plain = ["-x", "-q", "--noconftest", "-c", os.devnull, "--rootdir", str(PROJECT), "--import-mode=importlib"]
        return int(pytest.main([*plain, "-p", "no:cacheprovider", *(str(PROJECT / test) for test in tests)]))

    class Databases:
        """The schema is made once and copied."""

        @staticmethod
        def where() -> Path:
            return Path(os.environ["MANA_TESTS_FOLDER"], "test.sqlite3")

        def pytest_sessionstart(self) -> None:
            if template.exists():
                shutil.copyfile(template, self.where())

        @pytest.hookimpl(trylast=True)
        def pytest_sessionfinish(self) -> None:
            if keep and not template.exists() and self.where().exists():
                shutil.copyfile(self.where(), template)

    options = ["-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--reuse-db", "--no-header", "--no-summary"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*options, *tests], plugins=[Databases()]))


class Changed(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Find one module, with another text than that of its file."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name.removesuffix(".py").replace("/", ".")
        self.path, self.text = str(PROJECT / name), text

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Return this loader for that module alone."""
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)  # type: ignore[arg-type]

    def get_source(self, fullname: str) -> str:
        """Return the changed text."""
        return self.text

    def get_code(self, fullname: str) -> CodeType:
        """Return the changed code."""
        return compile(self.text, self.path, "exec")

    def is_package(self, fullname: str) -> bool:
        """Say that it is a module."""
        return False


if __name__ == "__main__":
    sys.exit(main())
