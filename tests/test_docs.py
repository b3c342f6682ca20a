"""The pages say what the commands do: every option is explained, every page that is linked is there."""

import argparse
import re
from pathlib import Path

import pytest
from django.core.management import load_command_class

PROJECT = Path(__file__).resolve().parents[1]
COMMANDS = sorted(
    path.stem
    for path in (PROJECT / "mana_migration" / "management" / "commands").glob("*.py")
    if not path.stem.startswith("_")
)


def section(command: str) -> str:
    """Return the part of docs/commands.md that is about one command."""
    page = (PROJECT / "docs" / "commands.md").read_text()
    found = re.search(rf"^## {command}$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"docs/commands.md says nothing of {command}"
    return found.group(1)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_in_the_docs_with_its_help(command: str) -> None:
    parser = load_command_class("mana_migration", command).create_parser("manage.py", command)
    text = " ".join(section(command).split())
    for action in parser._actions:
        if action.help is argparse.SUPPRESS:  # Django's own, and former spellings
            continue
        assert not [option for option in action.option_strings if option not in text]
        if action.help and "%" not in action.help:
            # a word may be broken at its hyphen where a line ends
            assert " ".join(action.help.split()).replace("- ", "-") in text.replace("- ", "-"), action.option_strings


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command: str) -> None:
    assert f"`{command}`" in (PROJECT / "README.md").read_text()


@pytest.mark.parametrize("page", sorted(path.name for path in [PROJECT / "README.md", *PROJECT.glob("docs/*.md")]))
def test_every_link_leads_somewhere(page: str) -> None:
    path = PROJECT / page if page == "README.md" else PROJECT / "docs" / page
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    # reference/ is written from the code by "make docs", which fails on a link that leads nowhere
    written = [target for target in targets if not target.startswith("reference/")]
    assert [target for target in written if not (path.parent / target).exists()] == []
