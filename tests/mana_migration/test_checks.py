"""What a site lacks is a system check with an id and a hint."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.core.checks import CheckMessage, run_checks
from django.db import connection
from django.test import override_settings

from mana_migration import checks, conf
from mana_migration.engine import support
from tests.support.processes import as_ordinary_user
from wishes import guards as wishes_guards


def ids(found: list[CheckMessage]) -> list[str]:
    return [str(message.id) for message in found]


def without(name: str, *paths: str) -> dict[str, Any]:
    from django.conf import settings

    return {name: [path for path in getattr(settings, name) if path not in paths]}


@pytest.mark.django_db
def test_this_site_lacks_nothing() -> None:
    tags = ["mana_migration", "mana_migration_pages", "database"]
    assert run_checks(tags=tags, databases=["default"]) == []


def test_each_message_has_an_id_of_its_own_that_its_check_names() -> None:
    source = inspect.getsource(checks)
    used = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    found = sorted(str(value) for value in used if str(value).startswith("mana_migration."))
    numbers = [value.partition(".")[2] for value in found if value.partition(".")[2][1:].isdecimal()]
    docs = (Path(__file__).parents[2] / "docs" / "install-into-your-site.md").read_text()
    assert len(numbers) == 12
    for number in numbers:
        assert f"mana_migration.{number}" in docs, number


def test_every_setting_that_is_read_is_known_to_the_checks() -> None:
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(conf))) if isinstance(node, ast.Call)]
    readers = ("_get", "_whole", "_folder")
    read = {
        node.args[0].value
        for node in calls
        if isinstance(node.func, ast.Name) and node.func.id in readers and isinstance(node.args[0], ast.Constant)
    }
    assert read == set(conf.READERS)


@pytest.mark.parametrize(
    ("name", "value"),
    [("LOG_DAYS", "7"), ("LOG_DAYS", -1), ("LOG_DAYS", True), ("CELERY_WORKERS", 0), ("EXECUTOR", "cron"),
     ("LOCK_TIMEOUT_MS", None), ("LOG_DIR", 7)],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_its_value(name: str, value: object) -> None:
    with override_settings(**{f"MANA_MIGRATION_{name}": value}):
        (message,) = checks.check_settings()
    assert message.id == "mana_migration.E002"
    assert message.msg.startswith(f"MANA_MIGRATION_{name} = {value!r}: ")


def test_a_misspelt_setting_is_named() -> None:
    with override_settings(MANA_MIGRATION_LOGDIR="/var/log/mana"):
        (message,) = checks.check_settings()
    assert (message.id, message.msg) == ("mana_migration.W001", "MANA_MIGRATION_LOGDIR is no setting of this app.")
    assert "LOG_DIR" in str(message.hint)


def test_folders_start_at_the_sites_own_not_where_a_command_is_given(settings: Any, tmp_path: Path) -> None:
    del settings.MANA_MIGRATION_LOG_DIR
    settings.MANA_MIGRATION_REPORT_DIR = "made/reports"
    settings.BASE_DIR = str(tmp_path)
    assert (conf.log_dir(), conf.report_dir()) == (tmp_path / "logs", tmp_path / "made" / "reports")
    del settings.BASE_DIR
    assert conf.log_dir().is_relative_to(Path.home())


def test_a_log_folder_that_cannot_be_written_is_named(settings: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    settings.MANA_MIGRATION_LOG_DIR = tmp_path / "logs"
    with as_ordinary_user():
        assert ids(checks.check_log_folder()) == ["mana_migration.W002"]
    (tmp_path / "file").touch()
    settings.MANA_MIGRATION_LOG_DIR = tmp_path / "file" / "logs"
    assert ids(checks.check_log_folder()) == ["mana_migration.W002"]
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("app", ["django_htmx", "django.contrib.messages", "django.contrib.sessions"])
def test_an_app_that_the_pages_need_is_named(app: str) -> None:
    with override_settings(**without("INSTALLED_APPS", app, "django.contrib.admin")):
        found = checks.check_pages()
    assert ids(found) == ["mana_migration.E003"]
    assert app in found[0].msg


def test_middleware_that_the_pages_need_is_named() -> None:
    path = "django.contrib.messages.middleware.MessageMiddleware"
    with override_settings(**without("MIDDLEWARE", path)):
        found = checks.check_pages()
    assert (ids(found), path in found[0].msg) == (["mana_migration.E004"], True)


def test_templates_that_are_not_found_are_named(settings: Any) -> None:
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "APP_DIRS": False}]
    assert ids(checks.check_pages()) == ["mana_migration.E005"]


def test_a_site_that_does_not_include_the_pages_needs_nothing_for_them() -> None:
    addresses = ModuleType("addresses_of_this_test")
    addresses.urlpatterns = []  # type: ignore[attr-defined]
    with override_settings(ROOT_URLCONF=addresses, **without("INSTALLED_APPS", "django_htmx"), MIDDLEWARE=[]):
        assert checks.check_pages() == []


@pytest.mark.django_db
def test_missing_guards_are_named_and_no_obstacle_for_migrate() -> None:
    wishes_guards.uninstall(connection)
    (message,) = checks.check_databases(databases=["default"])
    assert (message.id, message.is_serious()) == ("mana_migration.W005", False)
    assert "wishes_wallet_no_stale_write" in message.msg


@pytest.mark.django_db
def test_an_unsupported_database_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "unsupported", lambda connection: "it is CockroachDB")
    (message,) = checks.check_databases(databases=["default"])
    assert (message.id, message.is_serious()) == ("mana_migration.E007", True)


@pytest.mark.sqlite
@pytest.mark.django_db
def test_options_that_sqlite_needs_are_named(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA recursive_triggers=OFF")
        try:
            assert ids(checks.check_databases(databases=["default"])) == ["mana_migration.W003"]
        finally:
            cursor.execute("PRAGMA recursive_triggers=ON")
    monkeypatch.setitem(settings.DATABASES["default"], "TIME_ZONE", "Europe/Berlin")
    assert ids(checks.check_databases(databases=["default"])) == ["mana_migration.W004"]
