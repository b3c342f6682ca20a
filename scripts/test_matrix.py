"""Run the tests on every Python at hand that is new enough, with every Django that it and we support.

Each pair has an environment of its own, .venv-PYTHON-DJANGO, which is kept; one more, with the oldest Python, has
psycopg 3 in the place of psycopg2. Arguments go to pytest. It ends with one line per pair.
"""

import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
# The Django that the requirements pin, and what else pyproject.toml allows, with the oldest Python it runs on.
DJANGOS = {"5.2": ("", (3, 11)), "6.0": ("django>=6.0,<6.1", (3, 12))}
PLACES = ("/usr/bin/python3*", "/usr/local/bin/python3*", "~/.pyenv/versions/*/bin/python3", "~/.local/bin/python3*")
WHICH = "import sys, venv, ensurepip; print(*sys.version_info[:2])"

Version = tuple[int, int]


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


def test(
    python: str, version: Version, name: str, requirement: str, arguments: list[str], *, psycopg3: bool = False
) -> bool:
    """Set up one environment and run the tests in it; ``arguments`` go to pytest."""
    folder = PROJECT / f".venv-{version[0]}.{version[1]}-django{name}{'-psycopg3' * psycopg3}"
    inside = str(folder / "bin" / "python")
    pip = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps = [
        [python, "-m", "venv", str(folder)],
        [*pip, "--require-hashes", "--no-deps", "-r", "requirements-dev.txt"],
        [inside, "-m", "pip", "--disable-pip-version-check", "check"],
        *([[*pip, requirement]] if requirement else []),
        *(
            [
                [inside, "-m", "pip", "uninstall", "--quiet", "--yes", "psycopg2-binary"],
                [*pip, "--require-hashes", "--no-deps", "-r", "requirements-psycopg3.txt"],
            ]
            if psycopg3
            else []
        ),
        [inside, "scripts/test_both.py", "-q", *arguments],
    ]
    return all(subprocess.run(step, cwd=PROJECT, check=False).returncode == 0 for step in steps)


def main(arguments: list[str]) -> int:
    """Run all pairs and return 1 if one of them failed."""
    outcomes: dict[str, bool] = {}
    pythons = find_pythons()
    for version, python in pythons.items():
        for name, (requirement, oldest) in DJANGOS.items():
            if version >= oldest:
                pair = f"Python {version[0]}.{version[1]}, Django {name}"
                print(f"\n=== {pair} ({python})", flush=True)
                outcomes[pair] = test(python, version, name, requirement, arguments)
    for version, python in list(pythons.items())[:1]:
        pair = f"Python {version[0]}.{version[1]}, psycopg 3"
        print(f"\n=== {pair} ({python})", flush=True)
        outcomes[pair] = test(python, version, next(iter(DJANGOS)), "", arguments, psycopg3=True)
    print()
    for pair, passed in outcomes.items():
        print(f"{pair}: {'passed' if passed else 'FAILED'}")
    return 0 if outcomes and all(outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
