"""The commands of docs/from-the-scripts.md run as they are written there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from django.test import override_settings

from mana_migration import api
from tests.factories import UserFactory, WalletFactory
from tests.support.commands import run_command

pytestmark = pytest.mark.django_db

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "from-the-scripts.md").read_text()
COMMANDS = re.findall(r"^\|[^|]*\|[^|]*\| `((?:migrate|monitor|rollback|validate)_[^`]*)` \|$", PAGE, re.MULTILINE)


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) == 18


@pytest.mark.parametrize("line", [line for line in COMMANDS if "--watch" not in line])
def test_each_command_runs_as_it_is_written(line: str, tmp_path: Path) -> None:
    WalletFactory(user=UserFactory(username="1001"))
    WalletFactory()
    if not line.startswith("migrate_users") or "--rollback" in line:
        assert run_command("migrate_users").code == 0
    with override_settings(MANA_MIGRATION_REPORT_DIR=tmp_path / "reports"):
        result = run_command(*shlex.split(line))
    assert (result.code, result.err) == (0, ""), result


def test_the_figures_of_the_site_have_the_names_that_the_page_says() -> None:
    WalletFactory()
    api.migrate_users()
    found = api.statistics().as_dict()
    _, _, table = PAGE.partition("| statistics there |")
    names = set(re.findall(r"`users\.(\w+)`", table.partition("## ")[0]))
    assert {"total", "migrated", "pending", "progress"} <= names <= set(found["users"])
    for name in ("mana", "average_mana", "largest_mana", "smallest_mana", "negative_balances", "latest"):
        assert f"`{name}`" in table
        assert name in found
