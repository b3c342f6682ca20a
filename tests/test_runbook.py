"""The runbook is typed as it stands at three in the morning: its commands parse, and its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

DOCS = Path(__file__).resolve().parents[1] / "docs"
TEXT = (DOCS / "runbook.md").read_text()


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, made as Markdown viewers make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_command_line_is_accepted_by_the_real_parser() -> None:
    apps = get_commands()
    ours = "|".join(name for name, app in apps.items() if app == "mana_migration")
    lines = re.findall(rf"(?:^\$ |`)((?:python manage\.py \w+|(?:{ours})\b)[^`\n]*)", TEXT, re.MULTILINE)
    assert len(lines) > 40
    for line in lines:
        program = "manage.py"
        name, *options = shlex.split(line.removeprefix("python manage.py "))
        assert name in apps, line
        try:
            load_command_class(str(apps[name]), name).create_parser(program, name).parse_args(options)
        except Exception as error:
            raise AssertionError(f"{line}: {error}") from error


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`(--[a-z-]+)", TEXT))))
def test_every_option_exists(option: str) -> None:
    ours = [name for name, app in get_commands().items() if app == "mana_migration"]
    parsers = [load_command_class("mana_migration", name).create_parser("manage.py", name) for name in ours]
    assert any(option in action.option_strings for parser in parsers for action in parser._actions)


def test_every_link_leads_to_a_heading() -> None:
    for page, anchor in re.findall(r"\]\(([a-z-]*(?:\.md)?)#([^)]+)\)", TEXT):
        assert anchor in anchors(DOCS / (page or "runbook.md")), f"{page}#{anchor}"


def test_every_question_is_in_the_table_and_answered() -> None:
    asked = re.findall(r"^\| [^|]+ \| \[([^\]]+)\]\(#[^)]+\) \|$", TEXT, re.MULTILINE)
    assert asked == re.findall(r"^## (.+)$", TEXT, re.MULTILINE)


def test_nothing_names_a_machine() -> None:
    assert not re.findall(r"/(?:tmp|work|root|home)/", TEXT)
