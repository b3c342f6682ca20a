"""Run the tests on every Python at hand that is new enough, with every Django and PostgreSQL driver that is supported.

Each combination has an environment of its own, .venv-PYTHON-NAME, which is kept. ``--only NAME`` runs one variant on
the Python that runs this script. Other arguments go to pytest. It ends with one line per combination.
"""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
SITES = "-m pytest -q -p no:randomly --db postgres --long tests/test_foreign_sites.py"

Version = tuple[int, int]


@dataclass(frozen=True)
class Variant:
    """What pip installs and uninstalls after the lock, the oldest Python for it, and what is run."""

    name: str
    install: str = ""
    uninstall: str = ""
    python: Version = OLDEST
    run: str = "scripts/test_both.py -q"


VARIANTS = (
    Variant("django5.2"),
    Variant("django6.0", "django>=6.0,<6.1", python=(3, 12)),
    Variant("django6.1", "django>=6.1,<6.2", python=(3, 12)),
    Variant("psycopg3", "--require-hashes --no-deps -r requirements-psycopg3.txt", uninstall="psycopg2-binary"),
    Variant("sites", run=SITES),  # sites that are not ours make environments of their own
)
PLACES = ("/usr/bin/python3*", "/usr/local/bin/python3*", "~/.pyenv/versions/*/bin/python3", "~/.local/bin/python3*")
WHICH = "import sys, venv, ensurepip; print(*sys.version_info[:2])"


def find_pythons() -> dict[Version, str]:
    """Return one interpreter for each minor version at hand, those that can make environments."""
    patterns = [str(Path(place).expanduser()).lstrip("/") for place in PLACES]
    candidates = [sys.executable, *sorted(str(path) for pattern in patterns for path in Path("/").glob(pattern))]
    found: dict[Version, str] = {}
    for candidate in candidates:
        if not re.fullmatch(r"python(3(\.\d+)?)?", Path(candidate).name):
            continue
        answer = subprocess.run([candidate, "-c", WHICH], check=False, capture_output=True, text=True)
        if answer.returncode == 0:
            major, minor = map(int, answer.stdout.split())
            if (major, minor) >= OLDEST:
                found.setdefault((major, minor), candidate)
    return dict(sorted(found.items()))


def test(python: str, version: Version, variant: Variant, arguments: list[str]) -> bool:
    """Set up one environment and run the tests in it; ``arguments`` go to pytest."""
    folder = PROJECT / f".venv-{version[0]}.{version[1]}-{variant.name}"
    inside = str(folder / "bin" / "python")
    pip = [inside, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    steps = [
        [python, "-m", "venv", str(folder)],
        [*pip, "install", "--require-hashes", "--no-deps", "-r", "requirements-dev.txt"],
        [*pip, "check"],
        *([[*pip, "uninstall", "--yes", variant.uninstall]] if variant.uninstall else []),
        *([[*pip, "install", *variant.install.split()]] if variant.install else []),
        [inside, *variant.run.split(), *arguments],
    ]
    return all(subprocess.run(step, cwd=PROJECT, check=False).returncode == 0 for step in steps)


def main(arguments: list[str]) -> int:
    """Run all combinations and return 1 if one of them failed."""
    outcomes: dict[str, bool] = {}
    pythons, variants = find_pythons(), VARIANTS
    if arguments[:1] == ["--only"]:
        pythons = {(sys.version_info.major, sys.version_info.minor): sys.executable}
        variants = tuple(each for each in VARIANTS if each.name == arguments[1])
        arguments = arguments[2:]
    for version, python in pythons.items():
        for variant in [each for each in variants if version >= each.python]:
            name = f"Python {version[0]}.{version[1]}, {variant.name}"
            print(f"\n=== {name} ({python})", flush=True)
            outcomes[name] = test(python, version, variant, arguments)
    print()
    for name, passed in outcomes.items():
        print(f"{name}: {'passed' if passed else 'FAILED'}")
    return 0 if outcomes and all(outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
