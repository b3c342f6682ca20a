"""Every text of the pages, the admin and the models goes through gettext, and the German catalogue has all of them."""

from __future__ import annotations

import ast
import gettext
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.template import engines
from django.template.base import Node
from django.templatetags.i18n import BlockTranslateNode, TranslateNode
from django.test import Client
from django.utils import translation

from mana_migration.states import UserStatus
from tests.mana_migration.stories import Village, url

PROJECT = Path(__file__).resolve().parent.parent
CATALOGUES = [PROJECT / app / "locale" / "de" / "LC_MESSAGES" for app in ("mana_migration", "wishes", "")]
FUNCTIONS = {"_", "gettext", "gettext_lazy", "gettext_noop", "ngettext", "pgettext"}
#: A report and the page for a failing site are in English: files for everybody, and a page that can rely on nothing.
ENGLISH = {"report.html", "500.html"}


def templates() -> list[Path]:
    """Return the templates of the apps and of this site."""
    folders = [PROJECT / "mana_migration", PROJECT / "wishes", PROJECT / "templates"]
    return [path for folder in folders for path in sorted(folder.rglob("templates/**/*.*")) if path.name not in ENGLISH]


def in_code() -> Iterator[str]:
    """Yield the texts that Python code marks for translation."""
    for app in ("mana_migration", "wishes"):
        for path in (PROJECT / app).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                name = getattr(getattr(node, "func", None), "id", "")
                if isinstance(node, ast.Call) and name in FUNCTIONS:
                    text = node.args[1 if name == "pgettext" else 0]
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        yield text.value


def in_templates() -> Iterator[str]:
    """Yield the texts that templates mark for translation."""
    for path in templates():
        source = path.read_text()
        yield from re.findall(r'_\("([^"]+)"\)', source)
        compiled: Any = engines["django"].from_string(source)
        for node in nodes(compiled.template.nodelist):
            if isinstance(node, TranslateNode):
                yield str(node.filter_expression.var.literal)
            elif isinstance(node, BlockTranslateNode):
                yield node.render_token_list(node.singular)[0]


def nodes(found: Any) -> Iterator[Node]:
    """Yield all nodes of a template, however deep."""
    for node in found:
        yield node
        for name in node.child_nodelists:
            yield from nodes(getattr(node, name, None) or [])


def known() -> dict[str, str]:
    """Return the German catalogue by the English text."""
    entries: dict[str, str] = {}
    for folder in CATALOGUES:
        with (folder / "django.mo").open("rb") as file:
            catalogue: dict[Any, str] = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        for key, text in catalogue.items():
            english = key[0] if isinstance(key, tuple) else key
            entries[english.rpartition("\x04")[2]] = text
    return entries


@pytest.mark.once
@pytest.mark.parametrize("source", [in_code, in_templates])
def test_the_german_catalogue_has_every_text(source: Callable[[], Iterator[str]]) -> None:
    entries = known()
    texts = set(source())
    assert len(texts) > 100
    assert {text for text in texts if not entries.get(text)} == set()


@pytest.mark.once
@pytest.mark.parametrize("folder", CATALOGUES, ids=lambda folder: str(folder.relative_to(PROJECT)))
def test_what_is_compiled_is_what_is_written(folder: Path) -> None:
    with (folder / "django.mo").open("rb") as file:
        compiled = set(gettext.GNUTranslations(file)._catalog.values())  # type: ignore[attr-defined]
    written = (folder / "django.po").read_text()
    assert "fuzzy" not in written
    texts = re.findall(r'^msgstr(?:\[\d\])? "(.+)"$', written, flags=re.MULTILINE)
    assert {text.replace('\\"', '"') for text in texts} <= compiled


@pytest.mark.once
@pytest.mark.parametrize("path", templates(), ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_template_has_a_text_that_is_not_marked(path: Path) -> None:
    text = re.sub(r"\{% blocktranslate.*?endblocktranslate %\}", " ", path.read_text(), flags=re.DOTALL)
    text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<code>.*?</code>|<!--.*?-->", " ", text, flags=re.DOTALL)
    labels = re.findall(r'(?:aria-label|placeholder|title|alt)="([^"]*[A-Za-z][^"]*)"', text)
    assert [*labels, *re.findall(r"[A-Za-z]{2,}", re.sub(r"<[^>]*>|&\w+;|app-mana_migration", " ", text))] == []


@pytest.mark.django_db
def test_a_page_speaks_the_language_of_the_browser(village: Village, sign_in: Callable[..., Client]) -> None:
    user = village.migrated("anna", spent=5)
    with translation.override("en"):  # which is in force again afterwards
        page = sign_in().get(url("user", user.pk), headers={"Accept-Language": "de"}).content.decode()
    assert 'lang="de"' in page
    for words in ("Zeitverlauf", "Umgewandelt", "1.230", "Alle Benutzer"):
        assert words in page


@pytest.mark.django_db
def test_what_services_say_is_in_the_language_of_the_page_as_well(village: Village) -> None:
    from tests.mana_migration.stories import make_staff

    client = Client(headers={"accept-language": "de"})
    client.force_login(make_staff("boss", "view_migrationrun", "start_run", "rollback_run"))
    village.failed("dora")
    kept = "the user is migrated already"
    village.record(village.pending("anna"), UserStatus.SKIPPED, error_class="already_migrated", error_message=kept)
    with translation.override("en"):
        skipped = client.get(url("run_users", village.run.pk), {"status": "skipped"}).content.decode()
        refused = client.post(url("start"), {"preview": "1", "batch_size": "many"}).content.decode()
        found = client.get(url("start")).content.decode()
        nothing = client.get(url("rollback_run", village.rollback.pk)).content.decode()
    assert "der Benutzer ist schon migriert" in skipped
    assert "Stapelgröße &#x27;many&#x27;: Geben Sie eine ganze Zahl" in refused
    for words in ("Wünsche sind negativ", "Fehler", "angenommen: Keine Migration"):
        assert words in found
    assert "ist ein Rollback: Nur die Umwandlungen eines Migrationslaufs" in nothing


@pytest.mark.django_db
def test_commands_and_reports_stay_english(village: Village, capsys: pytest.CaptureFixture[str]) -> None:
    village.batch.selected = village.batch.migrated = 1
    village.batch.mana = 1230
    village.batch.save()
    with translation.override("de"):
        call_command("monitor_migration", "--report", "--run", village.run.pk)
    said = capsys.readouterr().out
    assert "1,230" in said
    assert "completed" in said.lower()
    assert "abgeschlossen" not in said.lower()


@pytest.fixture
def village(db: None) -> Village:
    """Return a completed run and a rollback, without users yet."""
    return Village()


@pytest.fixture
def sign_in(db: None) -> Callable[..., Client]:
    """Return a function that signs a staff account in."""
    from tests.mana_migration.stories import make_staff

    def client() -> Client:
        found = Client()
        found.force_login(make_staff("staff", "view_migrationrun"))
        return found

    return client
