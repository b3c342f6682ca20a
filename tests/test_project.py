"""The project around the code: dependencies, settings, commands, packaging."""

import email
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import get_commands
from django.db import connection
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import packages
from tests.support.commands import PROJECT, Result, run_command

OUR_APPS = ("wishes", "mana_migration")
OUR_COMMANDS = sorted(name for name, app in get_commands().items() if app in OUR_APPS)


def run(*command: str | Path, env: dict[str, str] | None = None) -> Result:
    """Run a program in the project's folder."""
    done = subprocess.run(
        command, cwd=PROJECT, env=os.environ | (env or {}), capture_output=True, text=True, check=False, timeout=300
    )
    return Result(done.stdout, done.stderr, done.returncode)


def tool(name: str) -> Path:
    """Return a program of this environment."""
    return Path(sys.executable).parent / name


# --- Dependencies -----------------------------------------------------------------------------------------------------


#: Django uses psycopg 3 wherever it can be imported; ``make test-matrix`` has an environment with it.
IN_PSYCOPG3 = importlib.util.find_spec("psycopg2") is None
LOCKS = ("requirements.txt", "requirements-dev.txt", "requirements-celery.txt", "requirements-psycopg3.txt")


@pytest.mark.postgres
@pytest.mark.django_db
@pytest.mark.skipif(IN_PSYCOPG3, reason="this is the environment with psycopg 3")
def test_psycopg2_drives_postgres() -> None:
    connection.ensure_connection()
    assert type(connection.connection).__module__.startswith("psycopg2")


@pytest.mark.skipif(IN_PSYCOPG3, reason="this is the environment with psycopg 3")
def test_psycopg_3_is_absent_because_django_would_use_it() -> None:
    assert importlib.util.find_spec("psycopg") is None


@pytest.mark.parametrize("name", LOCKS)
def test_requirements_are_pinned_by_hash_and_name_no_registry(name: str) -> None:
    text = (PROJECT / name).read_text()
    pins = re.findall(r"^([a-z0-9-]+)(?:\[[a-z0-9,_-]+\])?==\S+", text, flags=re.MULTILINE)
    hashes = re.findall(r"^ +--hash=sha256:[0-9a-f]{64}( \\)?$", text, flags=re.MULTILINE)
    assert len(pins) > 15
    assert len(hashes) >= len(pins)
    assert ("psycopg" in pins, "psycopg2-binary" in pins) == ((True, False) if "psycopg3" in name else (False, True))
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host", text)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_of_every_locked_package_has_its_pin(name: str, python: str) -> None:
    """Follow the requirements through extras and markers, as an installer does that may take nothing but the lock."""
    here = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "os_name": "posix"}
    pins = read_pins(name, here)
    if version_of(pins["django"]) != importlib.metadata.version("django"):
        pytest.skip("this environment has another Django than the lock, to be tested with it")
    wanted = [(pin, "the lock") for pin in pins.values()]
    seen: set[tuple[str, str]] = set()
    lacking, elsewhere = [], set()
    while wanted:
        requirement, by = wanted.pop()
        package = canonicalize_name(requirement.name)
        pin = pins.get(package)
        if pin is None or not requirement.specifier.contains(version_of(pin), prereleases=True):
            lacking.append(f"{requirement} of {by}: the lock has {pin}")
            continue
        # pip before 23.3 looks for a release of its own where the lock lacks an extra that a package asks for
        if not requirement.extras <= pin.extras:
            lacking.append(f"{requirement} of {by}: the lock pins it without these extras")
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == package}:
            seen.add((package, extra))
            try:
                installed = importlib.metadata.distribution(package)
            except importlib.metadata.PackageNotFoundError:
                installed = None
            if installed is None or installed.version != version_of(pin):
                elsewhere.add(package)  # pinned for another Python or system, where this test reads it
                continue
            for need in map(Requirement, installed.requires or []):
                if need.marker is None or need.marker.evaluate(here | {"extra": extra}):
                    wanted.append((need, package))
    assert not lacking
    assert {package for package, _ in seen} - elsewhere >= {"django", "tablib", "openpyxl", "odfpy"}
    assert all(pins[package].marker for package in elsewhere - {"psycopg"})  # which is never installed here


def read_pins(name: str, environment: dict[str, str]) -> dict[str, Requirement]:
    """Return the pins of a requirements file that hold in an environment, by the name of the package."""
    lines = re.findall(r"^([a-z0-9][^#\n]*==[^\\\n]*?) *\\?$", (PROJECT / name).read_text(), flags=re.MULTILINE)
    pins = [pin for pin in map(Requirement, lines) if pin.marker is None or pin.marker.evaluate(environment)]
    assert len({pin.name for pin in pins}) == len(pins)
    return {canonicalize_name(pin.name): pin for pin in pins}


def version_of(pin: Requirement) -> str:
    """Return the only version that a pin allows."""
    (version,) = pin.specifier
    return version.version


def test_requirements_agree_on_what_both_install() -> None:
    def pins(name: str) -> set[str]:
        return set(
            re.findall(r"^[a-z0-9-]+(?:\[[a-z0-9,_-]+\])?==[^\s;]+", (PROJECT / name).read_text(), flags=re.MULTILINE)
        )

    assert pins("requirements.txt") <= pins("requirements-celery.txt") <= pins("requirements-dev.txt")


# --- Checks -----------------------------------------------------------------------------------------------------------


@pytest.mark.sqlite  # once is enough
@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("lint-imports", "--no-cache")],
    ids=["lint", "format", "layers"],
)
def test_the_checks_hold(command: tuple[str, ...]) -> None:
    result = run(tool(command[0]), *command[1:])
    assert result.code == 0, result.out + result.err


@pytest.mark.django_db
def test_no_migration_is_missing() -> None:
    result = run_command("makemigrations", "--check", "--dry-run")
    assert result.code == 0, result.out + result.err


# --- Commands ---------------------------------------------------------------------------------------------------------


def test_the_commands_of_the_design_are_there() -> None:
    expected = {"migrate_users", "monitor_migration", "rollback_migration", "validate_migration", "import_balances"}
    assert expected <= set(OUR_COMMANDS)


@pytest.mark.parametrize("name", OUR_COMMANDS)
def test_every_command_shows_help(name: str) -> None:
    result = run_command(name, "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("usage: manage.py " + name)


@pytest.mark.parametrize("name", OUR_COMMANDS)
def test_the_readme_names_every_command(name: str) -> None:
    assert name in (PROJECT / "README.md").read_text()


# --- Settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.sqlite  # no database is asked
@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("DEBUG", "perhaps", "manage.py: DEBUG='perhaps' is neither true nor false; allowed: true, yes, on, 1, "),
        ("RED_RATE", "0", "manage.py: RED_RATE='0' is not allowed; give a whole number from 1 to 1000000000."),
        ("GREEN_RATE", "ten", "manage.py: GREEN_RATE='ten' is not allowed; give a whole number from 1 to 1000000000."),
        ("LOG_LEVEL", "loud", "manage.py: LOG_LEVEL='loud' is not allowed; give one of: DEBUG, INFO, WARNING, ERROR."),
        ("TIME_ZONE", "Atlantis", "manage.py: TIME_ZONE='Atlantis' is not a time zone; give a name like UTC or "),
        ("DATABASE_URL", "mysql://u:hunter2@h/n", "manage.py: DATABASE_URL is not the URL of a database that is "),
        ("DATABASE_URL", "postgres://u:hunter2@h:x/n", "manage.py: DATABASE_URL cannot be read as a URL; give "),
        ("DATABASE_URL_EU", "postgres://u:hunter2@h", "manage.py: DATABASE_URL_EU names no database; give "),
        ("SECRET_KEY", "hunter2", "manage.py: SECRET_KEY has 7 characters; give at least 50 random ones"),
    ],
)
def test_a_wrong_variable_is_one_line_and_no_secret(variable: str, value: str, message: str) -> None:
    result = run(sys.executable, "manage.py", "check", env={variable: value})
    assert result.code == 1
    assert result.out == ""
    assert result.err.startswith(message)
    assert result.err.count("\n") == 1
    assert "hunter2" not in result.err


@pytest.mark.sqlite  # no database is asked
@pytest.mark.parametrize("options", [["--format", "json"], ["--format=json"]], ids=" ".join)
def test_a_wrong_variable_is_an_error_object_for_a_script(options: list[str]) -> None:
    result = run(sys.executable, "manage.py", "migrate_users", *options, env={"RED_RATE": "0"})
    assert result.code == 1
    message = "RED_RATE='0' is not allowed; give a whole number from 1 to 1000000000."
    assert json.loads(result.out) == {"error": {"class": "ConfigurationError", "message": message, "exit_code": 1}}
    assert result.err == f"manage.py: {message}\n"


@pytest.mark.sqlite  # no database is asked
def test_a_secret_key_is_made_once_and_kept_for_us_alone(tmp_path: Path) -> None:
    read = f"env.secret('NONE', keep_in=Path('{tmp_path}/var/key'))"
    code = f"from config import env; from pathlib import Path; print({read})"
    first, second = (run(sys.executable, "-c", code) for _ in range(2))
    assert first.code == 0
    assert first.out == second.out
    assert (tmp_path / "var" / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "var").iterdir()] == ["key"]


PRODUCTION = {
    "DJANGO_ALLOW_ASYNC_UNSAFE": "",  # browser tests of the same session set it
    "HTTPS_ONLY": "",
    "COLLECTED_STATIC": "",
    "SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz" * 2,
    "ALLOWED_HOSTS": "mana.example.org",
    "DATABASE_URL": "postgres://mana@localhost:1/mana",
}


def check_deployment(**environment: str) -> Result:
    command = ("manage.py", "check", "--deploy", "--fail-level", "WARNING")
    return run(sys.executable, *command, env=PRODUCTION | environment)


@pytest.mark.sqlite  # no database is asked
def test_production_settings_pass_the_deployment_checks_but_for_what_is_collected_there() -> None:
    result = check_deployment()
    collected = (PROJECT / "staticfiles" / "staticfiles.json").exists()
    assert re.findall(r"\((\w+\.W\d+)\)", result.err) == ([] if collected else ["config.W001"])


@pytest.mark.sqlite  # no database is asked
def test_the_deployment_checks_name_what_is_missing() -> None:
    result = check_deployment(
        ALLOWED_HOSTS="localhost", DATABASE_URL="sqlite:///db.sqlite3", DEBUG="true", HTTPS_ONLY="false"
    )
    assert result.code == 1
    for number in ("config.W001", "config.W002", "config.W003", "security.W008", "security.W012", "security.W018"):
        assert number in result.err


@pytest.mark.sqlite  # no database is asked
def test_hsts_binds_other_sites_of_the_domain_only_where_that_is_asked_for() -> None:
    names = ("SECONDS", "INCLUDE_SUBDOMAINS", "PRELOAD")
    values = ", ".join(f"settings.SECURE_HSTS_{name}" for name in names)
    code = f"from config import settings; print({values})"
    assert run(sys.executable, "-c", code, env=PRODUCTION).out == "31536000 False False\n"
    asked = {"HSTS_INCLUDE_SUBDOMAINS": "true", "HSTS_PRELOAD": "true"}
    assert run(sys.executable, "-c", code, env=PRODUCTION | asked).out == "31536000 True True\n"


@pytest.mark.sqlite
@pytest.mark.django_db
def test_sqlite_is_set_up_for_money() -> None:
    with connection.cursor() as cursor:
        found = {}
        for pragma in ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers"):
            cursor.execute(f"PRAGMA {pragma}")
            found[pragma] = cursor.fetchone()[0]
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "recursive_triggers": 1}


@pytest.mark.sqlite  # no database is asked
def test_env_example_names_every_variable() -> None:
    source = (PROJECT / "config" / "settings.py").read_text()
    read = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', source)) - {"ENV_FILE"}
    documented = set(re.findall(r"^#([A-Z_]+)=", (PROJECT / ".env.example").read_text(), flags=re.MULTILINE))
    assert read <= documented
    assert documented - read <= {"DATABASE_URL_EU"}


# --- Packaging --------------------------------------------------------------------------------------------------------


@pytest.mark.sqlite  # no database is asked
@pytest.mark.slow
def test_the_wheel_holds_both_apps_with_their_templates_and_static_files() -> None:
    packed = set(zipfile.ZipFile(packages.wheel()).namelist())
    source = packages.source()
    wanted = {str(path.relative_to(source)) for app in OUR_APPS for path in (source / app).rglob("*") if path.is_file()}
    assert {name for name in wanted if not name.endswith(".po")} <= packed
    assert {name.split("/")[0] for name in packed if ".dist-info/" not in name} == set(OUR_APPS)


@pytest.mark.sqlite  # no database is asked
@pytest.mark.slow
def test_the_wheel_says_what_it_is_and_needs_only_what_it_imports() -> None:
    with zipfile.ZipFile(packages.wheel()) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        found = email.message_from_bytes(archive.read(name))
    needed = {Requirement(text).name for text in found.get_all("Requires-Dist", []) if "extra ==" not in text}
    assert needed == {"django", "django-htmx", "ijson", "openpyxl", "prometheus-client", "rich", "tablib"}
    assert set(found.get_all("Provides-Extra", [])) == {"postgres", "celery", "notify", "site"}
    (django,) = (text for text in found.get_all("Requires-Dist", []) if Requirement(text).name == "django")
    assert {each.operator for each in Requirement(django).specifier} == {">="}  # no cap: a host keeps its release
    text = str(found.get_payload())
    assert "migrate_users" in text
    links = re.findall(r"\]\(([^)]*)\)|<img", text)
    assert not [link for link in links if not link.startswith("https://")]


@pytest.mark.sqlite  # no database is asked
@pytest.mark.slow
def test_the_source_distribution_can_be_tested(tmp_path: Path) -> None:
    packages.run("tar", "-xzf", packages.sdist(), "-C", tmp_path)
    (folder,) = tmp_path.iterdir()
    source = packages.source()
    files = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    lacking = {name for name in files if not (folder / name).exists() and not name.startswith((".git", "logs/"))}
    assert not lacking
    chosen = "tests/mana_migration/domain/test_chain.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", chosen],
        cwd=folder, env=without_our_settings(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.sqlite  # no database is asked
@pytest.mark.slow
def test_an_editable_install_finds_its_templates(tmp_path: Path) -> None:
    source = shutil.copytree(packages.source(), tmp_path / "source")
    installed = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-index", "--no-build-isolation"]
    packages.run(*pip, "--target", installed, "--editable", source)
    look = """
from importlib.metadata import version
import site, sys; site.addsitedir(sys.argv[1])
import django
from django.conf import settings
apps = ["django.contrib.auth", "django.contrib.contenttypes", "django_htmx", "wishes", "mana_migration"]
settings.configure(INSTALLED_APPS=apps, TEMPLATES=[
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}])
django.setup()
from django.template.loader import get_template
print(get_template("mana_migration/run.html").origin.name)
"""
    found = packages.run(sys.executable, "-c", look, installed, cwd=tmp_path, env=without_our_settings())
    assert found.startswith(str(source / "mana_migration"))


def without_our_settings() -> dict[str, str]:
    """Return the environment without what these tests set."""
    ours = ("DJANGO", "MANA", "DATABASE_URL", "ENV_FILE", "PYTEST")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def test_the_site_finds_its_templates() -> None:
    assert settings.TEMPLATES[0]["DIRS"] == [PROJECT / "templates"]
    assert (PROJECT / "templates").is_dir()
