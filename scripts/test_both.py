"""Run the test suite on SQLite and on PostgreSQL at the same time, and close with one line that adds both up.

Tests that touch no database, or go one way through the code on either, run once, beside SQLite's.  PostgreSQL's run is
the longer one: what needs a server or a database of its own anyway is run by whichever of the two has ended first.
PostgreSQL's run is shown as it goes, the others when they have ended.  Arguments go to pytest.  Exits 1 if any failed.
"""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from places import PROJECT, var

RESULTS = var() / "tests"
NO_TESTS = 5  # pytest's exit code when the arguments select no test on this database
#: Left out of PostgreSQL's run and done by one of their own: together about an eighth of both.
APART = ("tests/benchmarks", "tests/journeys/test_bank.py", "tests/torture/test_doubles.py")

Process = subprocess.Popen[str]


def start(name: str, database: str, arguments: list[str], *, shown: bool = False) -> Process:
    """Start pytest on one database under a name; its output goes to our own, or to a file."""
    report(name).unlink(missing_ok=True)
    # In one order, so that a failure here is the same failure elsewhere; "pytest" alone shuffles.
    order = ["-p", "no:randomly"]
    # Two runs would overwrite one another's cache.
    apart = ["-o", f"cache_dir={RESULTS / name}", f"--junitxml={report(name)}"]
    once = ["--on-database"] if database == "postgres" else []
    command = [sys.executable, "-m", "pytest", *order, *apart, "--db", database, *once, *arguments]
    # Compiling everything anew in each of some two hundred processes takes half a minute.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if shown:
        return subprocess.Popen(command, cwd=PROJECT, env=environment, text=True)
    with output(name).open("w") as file:
        return subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=file, stderr=subprocess.STDOUT, text=True)


def report(name: str) -> Path:
    """Return where the results of a run are."""
    return RESULTS / f"{name}.xml"


def output(name: str) -> Path:
    """Return where that is what a run says."""
    return RESULTS / f"{name}.log"


def counts(name: str) -> Counter[str]:
    """Return how many tests passed, failed and were skipped."""
    found: Counter[str] = Counter()
    if report(name).exists():
        # Our own file, written a moment ago by pytest.
        for suite in ElementTree.parse(report(name)).iter("testsuite"):  # noqa: S314
            failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
            skipped = int(suite.attrib["skipped"])
            found += Counter(failed=failed, skipped=skipped, passed=int(suite.attrib["tests"]) - failed - skipped)
    return found


def main(arguments: list[str]) -> int:
    """Run all of them and return the exit code."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    print("running the tests on SQLite and on PostgreSQL side by side; first what PostgreSQL says", flush=True)
    chosen = any((PROJECT / argument.partition("::")[0]).exists() for argument in arguments if argument[:1] != "-")
    left_out = [] if chosen else [f"--ignore={path}" for path in APART]
    running = {
        "postgres": start("postgres", "postgres", [*left_out, *arguments], shown=True),
        "sqlite": start("sqlite", "sqlite", arguments),
    }
    try:
        if not chosen:
            while all(process.poll() is None for process in running.values()):
                time.sleep(0.2)
            running["postgres-apart"] = start("postgres-apart", "postgres", [*arguments, *APART])
        codes = [process.wait() for process in running.values()]
    finally:  # Ctrl-C has reached them as well; they tidy up
        for process in running.values():
            process.wait()
    for name in [name for name in running if name != "postgres"]:
        print(f"\nand {name}:\n{output(name).read_text()}", flush=True)
    total = sum((counts(name) for name in running), Counter())
    broken = any(code not in (0, NO_TESTS) for code in codes) or total["passed"] == 0
    line = f"both: {total['passed']} passed, {total['failed']} failed"
    print(line + (f", {total['skipped']} skipped" if total["skipped"] else ""))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
