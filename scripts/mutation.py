"""Change the code in small ways, one at a time, and see whether the tests notice: ``make mutation``.

    python scripts/mutation.py                       every module of the list below
    python scripts/mutation.py breaker rates         those whose names contain a word
    python scripts/mutation.py posting --every 5     one in five of the changes
    python scripts/mutation.py runs --lines 183 276  the changes of two lines

The changes are Cosmic Ray's, changes of the SQL inside texts, which Cosmic Ray leaves alone and where most of this
project's arithmetic is, and values that get into HTML unescaped. One that leaves the meaning as it is (an annotation,
how an argument is passed) is not counted. Each change is tried in a fork of a process that has loaded everything and
seen the tests pass (see trials.py), with a few fast tests chosen for the module, on SQLite; with --postgres those that
survive there are tried on PostgreSQL as well. It prints a Markdown table and the changes that no test noticed, and ends
with 1 if there are more of those than --survivors.
"""

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import CodeType
from typing import Any

import hypothesis
import pytest
from mutants import Change, changes_of
from trials import CONSTANTS, LEAST_PATIENCE, PATIENCE, QUICK, changed_part, try_warm

PROJECT = Path(__file__).resolve().parent.parent

#: Everything that can happen to a user, with the oracle after each step: the quickest to notice a wrong balance.
ECONOMY = "tests/support/test_oracle.py::test_nothing_that_the_product_does_breaks_a_rule"

#: Modules that build HTML, and of which only that is changed: what gets into it unescaped.
BUILDERS = (
    "mana_migration/templatetags/mana.py",
    "mana_migration/reports/charts.py",
    "mana_migration/admin/lists.py",
    "mana_migration/admin/runs.py",
    "mana_migration/admin/users.py",
    "wishes/admin.py",
)

VALIDATION = "tests/mana_migration/services/test_validation.py"
CHECKS = (
    "tests/mana_migration/engine/integrity",
    "tests/mana_migration/services/test_findings.py",
    "tests/mana_migration/engine/test_terms_of_statements.py",
    VALIDATION,
    # what findings.txt says more exactly, and what takes seconds
    *(
        f"--deselect={VALIDATION}::{test}"
        for test in (
            "test_every_planted_violation_is_seen_by_its_check",
            "test_every_planted_violation_of_a_run_is_seen_when_the_run_is_checked",
            "test_nothing_that_the_product_does_is_an_error_afterwards",
            "test_a_run_is_judged_by_its_own_users_alone",
            "test_named_users_are_checked_alone",
            "test_ranges_of_users_tell_the_same_as_one",
            "test_validating_changes_no_row",
            "test_everything_is_seen_at_one_moment",
            "test_the_number_of_queries_does_not_grow_with_the_users",
        )
    ),
)

#: The modules whose mistakes cost money or open a door, each with tests that are quick and close to it.
TARGETS: dict[str, tuple[str, ...]] = {
    "wishes/rates.py": ("tests/wishes/test_rates.py",),
    "mana_migration/domain/breaker.py": ("tests/mana_migration/domain/test_breaker.py",),
    "mana_migration/domain/pacing.py": ("tests/mana_migration/domain/test_pacing.py",),
    "mana_migration/domain/pressure.py": ("tests/mana_migration/domain/test_pressure.py",),
    "mana_migration/reports/cells.py": ("tests/mana_migration/reports/test_cells.py",),
    **dict.fromkeys(BUILDERS, ("tests/mana_migration/test_escaping.py",)),
    "wishes/posting.py": (
        ECONOMY,
        "tests/mana_migration/engine/test_conversion.py",
        "tests/mana_migration/engine/test_reversal.py",
        "tests/mana_migration/engine/test_import_users.py",
        "tests/mana_migration/services/test_import_balances.py",
    ),
    "mana_migration/engine/conversion.py": (
        ECONOMY,
        "tests/mana_migration/engine/test_terms_of_statements.py",
        "tests/mana_migration/engine/test_conversion.py",
        "tests/mana_migration/services/test_dry_run.py",
        "tests/mana_migration/services/test_selected_users.py",
    ),
    "mana_migration/engine/reversal.py": (
        ECONOMY,
        "tests/mana_migration/engine/test_terms_of_reversals.py",
        "tests/mana_migration/engine/test_terms_of_statements.py",
        "tests/mana_migration/engine/test_reversal.py",
        "tests/mana_migration/services/test_rollback.py",
    ),
    **{
        f"mana_migration/engine/integrity/{module}.py": CHECKS
        for module in ("wallets", "ledger", "records", "value", "states", "runs", "counting", "findings", "scope")
    },
}

#: Modules that are plain Python, as are their tests: no settings, no database, no plugin is needed.
PLAIN = re.compile(r"domain/|wishes/rates|reports/cells")

#: How many changes were tried, which no test noticed, and the seconds that it took.
Outcome = tuple[int, list[Change], float]


def main(arguments: list[str] | None = None) -> int:
    """Try the changes and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="parts of the modules' names; none is all of them")
    parser.add_argument("--every", type=int, default=1, help="try one in so many changes (default 1: all)")
    parser.add_argument("--lines", type=int, nargs="+", help="try only the changes of these lines")
    parser.add_argument("--survivors", type=int, default=0, help="how many unnoticed changes are accepted (default 0)")
    parser.add_argument("--postgres", action="store_true", help="try what survives on SQLite on PostgreSQL as well")
    parser.add_argument("--quick", action="store_true", help="leave out what cannot be grafted: fields, decorators")
    parser.add_argument("--list", action="store_true", help="only count the changes")
    options = parser.parse_args(arguments)
    os.chdir(PROJECT)
    sys.path.insert(0, str(PROJECT))
    chosen = [name for name in TARGETS if not options.words or any(word in name for word in options.words)]
    if not chosen:
        parser.error(f"no module's name contains {' or '.join(options.words)}; --list alone names them")
    changes = {name: list(changes_of(Path(name), escaping_alone=name in BUILDERS))[:: options.every] for name in chosen}
    if options.lines:
        changes = {name: [one for one in found if one.line in options.lines] for name, found in changes.items()}
    if options.list:
        for name, found in changes.items():
            print(f"{name}: {len(found)}")
        return 0
    load_libraries()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        return report({name: try_all(name, found, Path(folder), options) for name, found in changes.items()}, options)


def report(outcomes: dict[str, Outcome], options: argparse.Namespace) -> int:
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


def try_all(name: str, changes: list[Change], folder: Path, options: argparse.Namespace) -> Outcome:
    """Try the changes of one module; return how many there were, which survived, and the seconds that it took."""
    begun = time.monotonic()
    original = Path(name).read_text()
    warm: list[tuple[Change, tuple[str, ...]]] = []
    cold: list[Change] = []
    for change in changes:
        part = changed_part(original, change.text)
        if part is None:
            cold.append(change)
        else:
            warm.append((change, part))
    later = [(change, part) for change, part in warm if options.postgres and is_same_on_sqlite(change)]
    survivors = later + try_in_functions(name, [each for each in warm if each not in later], "sqlite")
    if survivors and options.postgres:
        survivors = try_in_functions(name, survivors, "postgres")
    if options.quick:
        left = [change for change, _ in survivors]
        return len(warm), sorted(left, key=lambda change: change.line), time.monotonic() - begun
    cold += [change for change, part in survivors if part == CONSTANTS]
    left = [change for change, part in survivors if part != CONSTANTS] + try_around_functions(name, cold, folder)
    return len(changes), sorted(left, key=lambda change: change.line), time.monotonic() - begun


def is_same_on_sqlite(change: Change) -> bool:
    """Say whether a change compares the database's name with "postgresql" in a way that SQLite's name answers alike."""
    line = change.text.splitlines()[change.line - 1]
    return bool(re.search(r'vendor (<|<=|is) "postgresql"', line))


def try_in_functions(
    name: str, changes: list[tuple[Change, tuple[str, ...]]], database: str
) -> list[tuple[Change, tuple[str, ...]]]:
    """Return the changes of functions' code and of constants that no test notices on one database."""
    if not changes:
        return []
    told = try_warm(
        name,
        [change for change, _ in changes],
        [part for _, part in changes],
        TARGETS[name],
        database,
        looks_only=TARGETS[name] is CHECKS,
    )
    first = next(told, {"problem": "the tests could not be run"})
    if "problem" in first:
        raise SystemExit(f"{name} on {database}: fails before anything is changed: {first['problem']}")
    say(f"{name} on {database}: {first['tests']} tests in {first['seconds']:.1f} s, {len(changes)} changes grafted")
    survivors = []
    count = 0
    for count, outcome in enumerate(told, 1):
        change = changes[outcome["change"]][0]
        if outcome["survived"]:
            survivors.append(changes[outcome["change"]])
            say(f"{name}:{change.line}: survived {outcome['tests']} tests on {database}: {change.what}")
        if count % 25 == 0:
            say(f"{name} on {database}: {count} of {len(changes)}, {len(survivors)} unnoticed")
    if count < len(changes):
        raise SystemExit(f"{name} on {database}: only {count} of {len(changes)} changes were tried")
    return survivors


def try_around_functions(name: str, changes: list[Change], folder: Path) -> list[Change]:
    """Return the changes, of any kind, that no test notices in processes that import the changed module."""
    if not changes:
        return []
    begun = time.monotonic()
    template = folder / f"{name.replace('/', '.')}.sqlite3"
    tests = TARGETS[name]
    original = Change(0, "nothing", Path(name).read_text())
    if not passes(name, original, tests, template, seconds=3600, keep=True):
        raise SystemExit(f"{', '.join(tests)}: fails before anything is changed")
    patience = max(LEAST_PATIENCE, round(PATIENCE * (time.monotonic() - begun)))
    survivors = []
    for change in changes:
        if passes(name, change, tests, template, seconds=patience):
            survivors.append(change)
            say(f"{name}:{change.line}: survived: {change.what}")
    return survivors


def say(text: str) -> None:
    """Tell how it goes on."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


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
    hypothesis.settings.register_profile("mutation", QUICK)
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
