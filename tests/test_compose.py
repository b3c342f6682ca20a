"""docker-compose.yml, Dockerfile and .dockerignore are read, not run: there is no Docker in the tests."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from django.core.management import get_commands

from tests.support.commands import PROJECT

pytestmark = pytest.mark.sqlite  # no database is asked

TEXT = (PROJECT / "docker-compose.yml").read_text()


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(TEXT)["services"]
    return found


def test_three_workers_a_database_a_broker_and_a_command(services: dict[str, Any]) -> None:
    assert set(services) == {"database", "broker", "worker-1", "worker-2", "worker-3", "command"}
    for name in ("worker-1", "worker-2", "worker-3"):
        assert services[name]["command"].startswith("celery -A config worker ")
        assert services[name]["environment"] == services["command"]["environment"]


def test_all_of_them_share_one_database_and_one_broker_which_are_waited_for(services: dict[str, Any]) -> None:
    environment = services["command"]["environment"]
    database = services["database"]["environment"]
    user, password, name = (database[f"POSTGRES_{part}"] for part in ("USER", "PASSWORD", "DB"))
    assert environment["DATABASE_URL"] == f"postgres://{user}:{password}@database:5432/{name}"
    assert environment["CELERY_BROKER_URL"].startswith("redis://broker:")
    for dependency in services["worker-1"]["depends_on"]:
        assert services["worker-1"]["depends_on"][dependency] == {"condition": "service_healthy"}
        assert "healthcheck" in services[dependency]


def test_every_variable_is_documented(services: dict[str, Any]) -> None:
    documented = set(re.findall(r"^#([A-Z_]+)=", (PROJECT / ".env.example").read_text(), flags=re.MULTILINE))
    assert set(services["command"]["environment"]) <= documented


def test_the_commands_it_tells_exist(services: dict[str, Any]) -> None:
    told = re.findall(r"run --rm command (\w+)", TEXT)
    assert len(told) >= 2
    assert {*told, *services["command"]["command"]} <= set(get_commands()) | {"COMMAND"}


def test_the_image_installs_one_hashed_lock_and_nothing_beside_it(services: dict[str, Any]) -> None:
    assert services["worker-1"]["build"] == "."
    installs = re.findall(r"pip install ([^&\n]*)", (PROJECT / "Dockerfile").read_text())
    assert len(installs) == 1
    assert set(installs[0].split()) == {
        "--no-cache-dir",
        "--require-hashes",
        "--no-deps",
        "-r",
        "requirements-celery.txt",
    }


def test_the_image_holds_what_the_site_needs_and_no_secret() -> None:
    first, *allowed = re.findall(r"^[^#\s].*$", (PROJECT / ".dockerignore").read_text(), flags=re.MULTILINE)
    assert first == "*"
    taken = {line.removeprefix("!") for line in allowed if line.startswith("!")}
    code = {"config", "mana_migration", "wishes", "templates", "manage.py"}
    assert taken == code | set(re.findall(r"COPY (\S+\.txt)", (PROJECT / "Dockerfile").read_text()))
