"""docs/commands.md names options by purpose, every exit code and status."""

from __future__ import annotations

import argparse
import re
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand

from mana_migration.engine import conversion, reversal
from mana_migration.management.commands import _base
from mana_migration.states import RunStatus
from tests.support.commands import PROJECT

TEXT = (PROJECT / "docs" / "commands.md").read_text()
COMMANDS = sorted(name for name, app in get_commands().items() if app == "mana_migration")
DJANGOS_OWN = {
    option for action in BaseCommand().create_parser("manage.py", "x")._actions for option in action.option_strings
}


def options_of(name: str) -> set[str]:
    actions = load_command_class("mana_migration", name).create_parser("manage.py", name)._actions
    listed = [action for action in actions if action.help is not argparse.SUPPRESS]
    return {option for action in listed for option in action.option_strings} - DJANGOS_OWN


def section(title: str) -> str:
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found
    return found.group(1)


def test_no_option_is_documented_that_does_not_exist() -> None:
    documented = set(re.findall(r"`(--[a-z-]+)", TEXT))
    known = set().union(*map(options_of, COMMANDS))
    assert not documented - known - DJANGOS_OWN


def test_every_option_of_the_two_that_move_money_is_told_by_purpose() -> None:
    told = set(re.findall(r"(--[a-z-]+)", section("By what you want to do")))
    common = {"--database", "--log-level", "--format", "--preserve-logs", "--workers", "--executor"}
    for name in ("migrate_users", "rollback_migration"):
        assert not options_of(name) - told - common, name


def test_every_exit_code_is_documented() -> None:
    for code in (_base.DONE, _base.REFUSED, _base.USAGE, _base.PARTLY, _base.TRIPPED):
        assert f"| {code} |" in section("Exit codes")
    assert "130, 143" in section("Exit codes")


@pytest.mark.parametrize(
    "word", dict.fromkeys([*(status.value for status in RunStatus), *conversion.PROBLEMS, *reversal.PROBLEMS])
)
def test_every_status_and_reason_is_documented(word: str) -> None:
    assert f"`{word}`" in section("JSON")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_text_is_a_sentence(name: str) -> None:
    command: Any = load_command_class("mana_migration", name)
    for action in command.create_parser("manage.py", name)._actions:
        if action.help is argparse.SUPPRESS or (
            action.option_strings and DJANGOS_OWN.issuperset(action.option_strings)
        ):
            continue
        assert action.help, action.dest
        assert action.help[0].isupper(), action.help
        assert action.help.rstrip().endswith((".", ")")), action.help
