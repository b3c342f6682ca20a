"""The project as its users get it: a wheel and an sdist, and environments into which it is installed.

What is made is kept for the run, and environments with packages of their own for later runs as well, in the folder that
``MANA_TESTS_ENVIRONMENTS`` names, else in var/ of the checkout or in the temporary folder.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

#: What is no part of the project, at its top and anywhere: environments, caches, data.
_AT_TOP = ("build", "dist", "var", "logs", "reports", "staticfiles", "htmlcov", ".git", ".env", ".hypothesis")
_ANYWHERE = ("__pycache__", "*.egg-info", ".*_cache", ".venv*", "*.sqlite3*", ".coverage*", "_build")


def _not_ours(folder: str, names: list[str]) -> set[str]:
    found = shutil.ignore_patterns(*_ANYWHERE)(folder, names)
    return found | set(_AT_TOP).intersection(names) if Path(folder) == PROJECT else found


def run(*argv: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        AssertionError: it failed; with all that it printed.
    """
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv} ended with {done.returncode}: {done.stdout}\n{done.stderr}"
    return done.stdout


@functools.cache
def source() -> Path:
    """Return a copy of the project's files as they are published."""
    return shutil.copytree(PROJECT, _folder_of_this_run() / "source", ignore=_not_ours)


def _to_build() -> Path:
    """Return one more copy, because a build leaves its traces."""
    return shutil.copytree(source(), Path(tempfile.mkdtemp(dir=_folder_of_this_run())) / "source")


@functools.cache
def sdist() -> Path:
    """Return the source distribution."""
    target = _folder_of_this_run() / "sdist"
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    target.mkdir()
    run(sys.executable, "-c", build, target, cwd=_to_build())
    (found,) = target.iterdir()
    return found


@functools.cache
def wheel() -> Path:
    """Return the wheel, built without a network."""
    target = _folder_of_this_run() / "wheel"
    run(*_pip(), "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", target, _to_build())
    (found,) = target.glob("*.whl")
    return found


@functools.cache
def environment() -> Path:
    """Return the Python of an environment with the wheel and the packages of the one that runs the tests."""
    folder = _folder_of_this_run() / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(packages) / "packages-of-the-tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(*_pip(), "install", "--no-deps", "--no-index", "--target", packages, wheel())
    return python


@functools.cache
def environment_with(*requirements: str) -> Path:
    """Return the Python of an environment with the wheel, its dependencies and these, fetched once and then kept.

    The test is skipped where packages cannot be fetched.
    """
    key = hashlib.sha256(json.dumps([sys.version, *requirements, _dependencies()]).encode()).hexdigest()[:16]
    folder = _kept() / key
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        run(sys.executable, "-m", "venv", folder)
        try:
            run(*_pip(python), "install", "--retries", "1", *requirements, wheel())
        except AssertionError as error:
            reason = str(error).strip().splitlines()[-1]
            pytest.skip(f"{', '.join(requirements)} could not be installed: {reason}")
        (folder / "complete").touch()
    run(*_pip(python), "install", "--no-deps", "--no-index", "--force-reinstall", wheel())
    return python


def _pip(python: Path | str = sys.executable) -> list[str]:
    return [str(python), "-m", "pip", "-qq", "--disable-pip-version-check"]


def _dependencies() -> str:
    text = (PROJECT / "pyproject.toml").read_text()
    return text[text.index("\ndependencies = [") :].partition("\n]")[0]


@functools.cache
def _folder_of_this_run() -> Path:
    return Path(tempfile.mkdtemp(dir=os.environ["MANA_TESTS_FOLDER"]))  # removed when the session ends


def _kept() -> Path:
    if "MANA_TESTS_ENVIRONMENTS" in os.environ:
        return Path(os.environ["MANA_TESTS_ENVIRONMENTS"])
    writable = os.access(PROJECT, os.W_OK)
    folder = PROJECT / "var" / "environments" if writable else Path(tempfile.gettempdir()) / "mana-environments"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
