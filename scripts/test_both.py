"""Run the test suite on SQLite and on PostgreSQL at the same time, and close with one line that adds both up.

Tests that touch no database run once, beside SQLite's. PostgreSQL's run is shown as it goes, SQLite's when it has
ended. Arguments go to pytest. Exits 1 if either run failed.
"""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

PROJECT = Path(__file__).resolve().parent.parent
RESULTS = PROJECT / "var" / "tests"
NO_TESTS = 5  # pytest's exit code when the arguments select no test on this database


def start(database: str, arguments: list[str], output: int | None = None) -> "subprocess.Popen[str]":
    """Start pytest on one database; its output goes to our own, or to a pipe."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    report(database).unlink(missing_ok=True)
    # In one order, so that a failure here is the same failure elsewhere; "pytest" alone shuffles.
    order = ["-p", "no:randomly"]
    # Two runs would overwrite one another's cache.
    apart = ["-o", f"cache_dir=.pytest_cache/{database}", f"--junitxml={report(database)}"]
    once = ["--on-database"] if database == "postgres" else []
    command = [sys.executable, "-m", "pytest", *order, *apart, "--db", database, *once, *arguments]
    # Compiling everything anew in each of some two hundred processes takes half a minute.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.Popen(
        command, cwd=PROJECT, env=environment, stdout=output, stderr=subprocess.STDOUT if output else None, text=True
    )


def report(database: str) -> Path:
    """Return where the results of a run are."""
    return RESULTS / f"{database}.xml"


def counts(database: str) -> Counter[str]:
    """Return how many tests passed, failed and were skipped."""
    found: Counter[str] = Counter()
    if report(database).exists():
        # Our own file, written a moment ago by pytest.
        for suite in ElementTree.parse(report(database)).iter("testsuite"):  # noqa: S314
            failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
            skipped = int(suite.attrib["skipped"])
            found += Counter(failed=failed, skipped=skipped, passed=int(suite.attrib["tests"]) - failed - skipped)
    return found


def main(arguments: list[str]) -> int:
    """Run both and return the exit code."""
    print("running the tests on SQLite and on PostgreSQL side by side; first what PostgreSQL says", flush=True)
    with start("sqlite", arguments, subprocess.PIPE) as sqlite, start("postgres", arguments) as postgres:
        said, _ = sqlite.communicate()
        postgres.wait()
    print(f"\nand SQLite:\n{said}", flush=True)
    codes = (sqlite.returncode, postgres.returncode)
    total = counts("sqlite") + counts("postgres")
    broken = any(code not in (0, NO_TESTS) for code in codes) or total["passed"] == 0
    line = f"both: {total['passed']} passed, {total['failed']} failed"
    print(line + (f", {total['skipped']} skipped" if total["skipped"] else ""))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
