"""Run the test suite on SQLite, then on PostgreSQL, and close with one line that adds both up.

Arguments go to pytest. Exits 1 if either run failed.
"""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

PROJECT = Path(__file__).resolve().parent.parent
NO_TESTS = 5  # pytest's exit code when the arguments select no test on this database


def run(database: str, arguments: list[str]) -> tuple[int, Counter[str]]:
    """Run pytest on one database and return its exit code and its counts."""
    report = PROJECT / "var" / "tests" / f"{database}.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    # In one order, so that a failure here is the same failure elsewhere; "pytest" alone shuffles.
    order = ["-p", "no:randomly"]
    command = [sys.executable, "-m", "pytest", *order, "--db", database, f"--junitxml={report}", *arguments]
    code = subprocess.run(command, cwd=PROJECT, check=False).returncode
    counts: Counter[str] = Counter()
    if report.exists():
        # Our own file, written a moment ago by pytest.
        for suite in ElementTree.parse(report).iter("testsuite"):  # noqa: S314
            failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
            skipped = int(suite.attrib["skipped"])
            counts += Counter(failed=failed, skipped=skipped, passed=int(suite.attrib["tests"]) - failed - skipped)
    return code, counts


def main(arguments: list[str]) -> int:
    """Run both and return the exit code."""
    results = [run(database, arguments) for database in ("sqlite", "postgres")]
    total = sum((counts for _, counts in results), Counter[str]())
    broken = any(code not in (0, NO_TESTS) for code, _ in results) or total["passed"] == 0
    sys.stdout.flush()
    line = f"both: {total['passed']} passed, {total['failed']} failed"
    print(line + (f", {total['skipped']} skipped" if total["skipped"] else ""))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
