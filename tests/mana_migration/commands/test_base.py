"""Options that Django gives to every command mean the same here; code that calls a command gets its exit code."""

from __future__ import annotations

import io
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from rich.console import Console

from mana_migration.management.commands import monitor_migration
from tests.factories import make_wallets
from tests.mana_migration.running import people
from tests.support.commands import run_command

pytestmark = pytest.mark.django_db


def called(*argv: object, **options: Any) -> tuple[object, str]:
    out = io.StringIO()
    return call_command(*map(str, argv), stdout=out, stderr=io.StringIO(), **options), out.getvalue()


def test_code_that_calls_a_command_gets_its_exit_code() -> None:
    make_wallets([(1, 0, 0), (-1, 0, 0)])
    assert called("migrate_users", "--skip-invalid", "--no-input")[0] == 3
    assert called("monitor_migration")[0] == 0
    with pytest.raises(CommandError) as refused:
        called("migrate_users", "--user-id", "nobody-of-this-name")
    assert refused.value.returncode == 1
    with pytest.raises(CommandError) as wrong:
        called("rollback_migration", "--no-input")
    assert wrong.value.returncode == 2


def test_verbosity_0_prints_nothing_but_what_was_asked_for() -> None:
    people(2)
    result = run_command("migrate_users", "--verbosity", "0", "--no-input")
    assert (result.code, result.out, result.err) == (0, "", "")
    assert "completed" in run_command("monitor_migration", "--verbosity", "0").out
    assert run_command("migrate_users", "--verbosity", "0", "--format", "json").out.startswith("{")
    refused = run_command("migrate_users", "--verbosity", "0", "--user-id", "nobody-of-this-name")
    assert (refused.code, refused.err.count("\n")) == (1, 1)


def test_verbosity_2_shows_the_log_as_well() -> None:
    people(2)
    result = run_command("migrate_users", "--verbosity", "2", "--no-input")
    assert result.code == 0
    assert "the command ended exit_code=0" in result.err.replace("command=migrate_users ", "")
    assert "the command ended" not in run_command("migrate_users", "--no-input").err


def test_traceback_shows_where_an_error_came_from() -> None:
    argv = ("migrate_users", "--user-id", "nobody-of-this-name")
    assert "Traceback" not in run_command(*argv).err
    with pytest.raises(CommandError):  # which Python prints with its traceback
        run_command(*argv, "--traceback")


def test_no_color_is_said_to_what_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def run(self: Any, **options: Any) -> int:
        console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")
        console.print("[red]stopped[/red]")
        drawn.append(console.file.getvalue())  # type: ignore[attr-defined]
        return 0

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(monitor_migration.Command, "run", run)
    for more in ((), ("--no-color",), ()):
        run_command("monitor_migration", *more)
    assert ["\x1b[31m" in each for each in drawn] == [True, False, True]
