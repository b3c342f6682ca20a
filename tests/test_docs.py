"""The README names every command, and every page that is linked is there."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
COMMANDS = sorted(
    path.stem
    for path in (PROJECT / "mana_migration" / "management" / "commands").glob("*.py")
    if not path.stem.startswith("_")
)


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
