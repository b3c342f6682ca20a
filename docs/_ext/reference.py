"""Write the reference from the code, before Sphinx reads the pages: commands, settings, tables and system checks."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management import get_commands, load_command_class
from django.db import models
from sphinx.application import Sphinx

from mana_migration import checks, conf

APPS = ("wishes", "mana_migration")
#: The functions of conf that read a setting.
READERS = ("_get", "_whole", "_folder")
OURS = "Written from the code by `make docs`."


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}


def write(app: Sphinx) -> None:
    """Write the pages that changed into docs/reference/."""
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    for name, lines in (("commands", commands()), ("settings", setting_rows()), ("tables", tables())):
        page = folder / f"{name}.md"
        text = "\n".join(lines) + "\n"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def cell(text: object) -> str:
    """Return a text for a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")


# --- Commands ---------------------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    """Yield the page of all commands with their options."""
    yield from (
        "# Commands: all options",
        "",
        f"{OURS} What the commands are for is in [commands](../commands.md).",
        "",
    )
    for name, app in sorted(get_commands().items()):
        if app not in APPS:
            continue
        command = load_command_class(app, name)
        parser = command.create_parser("manage.py", name)
        yield from (f"## {name}", "", cell(command.help or ""), "", "| option | meaning |", "| --- | --- |")
        for action in parser._actions:
            if action.help == argparse.SUPPRESS or action.dest in ("help", "version"):
                continue
            yield f"| {option(action)} | {cell(parser._get_formatter()._expand_help(action)) if action.help else ''} |"
        yield ""


def option(action: argparse.Action) -> str:
    """Return how an option is written."""
    value = ""
    if action.nargs != 0:
        shown = action.metavar or ("\\|".join(map(str, action.choices)) if action.choices else action.dest.upper())
        value = " ".join(shown) if isinstance(shown, tuple) else str(shown)
    if not action.option_strings:
        return f"`{value}`"
    return ", ".join(f"`{one} {value}`" if value else f"`{one}`" for one in action.option_strings)


# --- Settings ---------------------------------------------------------------------------------------------------------


def setting_rows() -> Iterator[str]:
    """Yield the page of all settings and system checks."""
    yield from ("# Settings and system checks", "", OURS, "", "## Settings", "")
    yield from ("| setting | default | meaning |", "| --- | --- | --- |")
    yield "| `WISHES_RATES` | `{'green': 10, 'blue': 100, 'red': 1000}` | Mana for one wish of each colour. |"
    tree = ast.parse(inspect.getsource(conf))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            name, default = read_by(node)
            if name:
                meaning = (ast.get_docstring(node) or "").partition("\n")[0].removeprefix("Return ")
                yield f"| `MANA_MIGRATION_{name}` | `{default}` | {cell(meaning[:1].upper() + meaning[1:])} |"
    yield from ("", "## System checks", "", "| id | what |", "| --- | --- |")
    for _, check in sorted(vars(checks).items()):
        if inspect.isfunction(check) and check.__module__ == checks.__name__ and check.__name__.startswith("check_"):
            yield f"| {' '.join(f'`mana_migration.{number}`' for number in numbers(check))} | {cell(says(check))} |"


def read_by(node: ast.FunctionDef) -> tuple[str, str]:
    """Return the setting that a function reads, and its default as Python writes it; empty where it reads none."""
    for call in ast.walk(node):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id in ("_get", "_whole", "_folder")
        ):
            name = ast.literal_eval(call.args[0])
            default = ast.unparse(call.args[1])
            return name, f"BASE_DIR / {default}" if call.func.id == "_folder" else default
    return "", ""


def numbers(check: Any) -> list[str]:
    """Return the ids that a check reports."""
    source = inspect.getsource(check)
    helpers = [name for name in re.findall(r"\b(_check_\w+)\(", source) if hasattr(checks, name)]
    sources = [source]
    for helper in helpers:
        sources.append(inspect.getsource(getattr(checks, helper)))
        sources += [
            inspect.getsource(getattr(checks, name))
            for name in re.findall(r"\b(_check_\w+)\(", sources[-1])
            if hasattr(checks, name) and name not in helpers
        ]
    return sorted(set(re.findall(r'id="mana_migration\.(\w+)"', "\n".join(sources))))


def says(check: Any) -> str:
    """Return what a check demands."""
    return re.sub(r"\b[EW]\d{3}(?:, [EW]\d{3}| to [EW]\d{3})*: ", "", inspect.getdoc(check) or "")


# --- Tables -----------------------------------------------------------------------------------------------------------


def tables() -> Iterator[str]:
    """Yield the page of all tables with their columns and constraints."""
    yield from ("# Tables", "", f"{OURS} Column types are PostgreSQL's.", "")
    for label in APPS:
        for model in apps.get_app_config(label).get_models():
            if model._meta.proxy or not model._meta.managed:
                continue
            yield from (f"## {model._meta.db_table}", "", cell((model.__doc__ or "").partition("\n\n")[0]), "")
            yield from ("| column | type | meaning |", "| --- | --- | --- |")
            for field in model._meta.concrete_fields:
                yield f"| `{field.column}` | {kind(field)} | {meaning(field)} |"
            names = [f"`{constraint.name}`" for constraint in model._meta.constraints]
            if names:
                yield from ("", f"Constraints: {', '.join(names)}.")
            yield ""


def kind(field: models.Field[Any, Any]) -> str:
    """Return a column's type, and whether it may be null."""
    while field.remote_field:
        field = field.target_field
    name = field.get_internal_type().removesuffix("Field").lower()
    return name + ("" if not field.null else ", null")


def meaning(field: models.Field[Any, Any]) -> str:
    """Return what a column holds."""
    if field.remote_field:
        target = field.remote_field.model
        named = "the site's user" if target._meta.label == settings.AUTH_USER_MODEL else f"`{target._meta.db_table}`"
        return cell(f"Refers to {named}. {field.help_text}")
    values = [str(value) for value, _ in field.flatchoices]
    return cell(f"{field.help_text} {'One of ' + ', '.join(values) + '.' if values else ''}")
