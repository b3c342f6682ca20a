"""The runbook is typed as it stands at three in the morning: its commands parse, and its links lead somewhere."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from tests.support.commands import PROJECT
from tests.support.databases import address, own_database

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


# --- A part every night -----------------------------------------------------------------------------------------------

ROW = re.compile(r"^\d+ \d+ \* \* \*  (.*)$", re.MULTILINE)
UNITS = dict(re.findall(r"^```ini\n# /etc/systemd/system/(\S+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))

EXPORT = """id,name,green_balance,blue_balance,red_balance,mana_balance,legacy_migration_completed
ann,Ann,3,2,1,0,false
bob,Bob,0,0,5,0,false
"""


class Site:
    """The site of the page in a folder of its own, with its settings in .env and its Python in .venv."""

    def __init__(self, folder: Path, database: str) -> None:
        """Lay it out with two users to migrate."""
        self.folder = folder
        shutil.copytree(PROJECT / "config", folder / "config")
        shutil.copy(PROJECT / "manage.py", folder)
        for name in ("wishes", "mana_migration"):
            (folder / name).symlink_to(PROJECT / name)
        (folder / ".venv").symlink_to(sys.prefix)
        (folder / ".env").write_text(f"DATABASE_URL={database}\nDEBUG=true\n")
        (folder / "export.csv").write_text(EXPORT)
        for line in ("migrate --verbosity 0", "import_balances export.csv --no-input"):
            assert self.shell(f"cd /srv/site && .venv/bin/python manage.py {line}").returncode == 0

    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a line of the page as cron does: by /bin/sh in the home folder, with nothing else in the environment."""
        return subprocess.run(
            ["/bin/sh", "-c", line.replace("/srv/site", str(self.folder))],
            env={"HOME": str(self.folder), "LOGNAME": "site", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"},
            cwd=self.folder.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Return a site with two users to migrate."""
    folder = tmp_path / "site"
    folder.mkdir()
    with own_database(folder) as settings:
        on_sqlite = "sqlite" in settings["ENGINE"]
        yield Site(folder, f"sqlite:///{settings['NAME']}" if on_sqlite else address(settings))


def setting(unit: str, name: str) -> str:
    """Return a setting of a unit."""
    (found,) = re.findall(rf"^{name}=(.*)$", UNITS[unit], re.MULTILINE)
    return str(found)


@pytest.mark.once
@pytest.mark.own_database
def test_crons_line_and_the_units_command_migrate_with_what_cron_and_systemd_give_them(site: Site) -> None:
    (line,) = ROW.findall(TEXT)
    first = site.shell(line)
    assert (first.returncode, first.stderr.count("Traceback")) == (0, 0), first
    assert "  migrated   2" in first.stdout
    service = "mana-migration.service"
    second = site.shell(f"cd {setting(service, 'WorkingDirectory')} && {setting(service, 'ExecStart')}")
    assert second.returncode == 0
    assert "all 2 users are migrated" in second.stdout


@pytest.mark.once
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_takes_the_units_as_they_are_written(tmp_path: Path) -> None:
    assert sorted(UNITS) == ["mana-migration.service", "mana-migration.timer"]
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for name, text in UNITS.items():
        (tmp_path / name).write_text(text.replace("/srv/site", str(tmp_path)).replace("User=site", "User=root"))
    found = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in sorted(UNITS))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert str(tmp_path) not in found.stderr  # where it would name what is wrong with them
    calendar = ["systemd-analyze", "calendar", setting("mana-migration.timer", "OnCalendar")]
    assert subprocess.run(calendar, capture_output=True, check=False).returncode == 0
