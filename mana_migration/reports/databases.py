"""What one command did on several databases: the one JSON object, and a row for each database with the totals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, BinaryIO, Final

from mana_migration.domain.words import counted
from mana_migration.reports.cells import csv_cell, spreadsheet_cell
from mana_migration.reports.databook import databook
from mana_migration.reports.sections import Cell, Section
from mana_migration.states import Tone

Values = Mapping[str, Any]

#: What is added up over the databases, wherever it is whole numbers.
SUMMED: Final = (
    "users",
    "all_users",
    "wishes",
    "mana",
    "shortfall",
    "errors",
    "skipped",
    "failed",
    "fixed",
    "negative_balances",
    "handled_by_command",
    "totals",
)

#: The name of the row of the totals.
ALL: Final = "all"


def merged(found: Mapping[str, Values], exit_code: int, seconds: float) -> dict[str, Any]:
    """Return the JSON object of all databases.

    Args:
        found: what each printed, by alias.
        exit_code: that of the command.
        seconds: how long the command took.
    """
    summed = totals(list(found.values())) | {"seconds": round(seconds, 3)}
    if handled := summed.get("handled_by_command"):
        summed["users_per_minute"] = round(handled * 60 / seconds)
    return {"databases": dict(found), "totals": {"databases": len(found), **summed}, "exit_code": exit_code}


def totals(parts: Sequence[Values]) -> dict[str, Any]:
    """Add up what several databases have; an object that is an error has nothing."""
    sources = [_source(part) for part in parts]
    found = {}
    for name in SUMMED:
        values = [source[name] for source in sources if isinstance(source.get(name), int | Mapping)]
        if values:
            found[name] = _sum(values)
    for counts in (found.get("users"), found.get("all_users")):
        if isinstance(counts, dict) and "migrated" in counts and "total" in counts:
            counts["progress"] = round(counts["migrated"] / counts["total"], 6) if counts["total"] else 1.0
    checks = _checks(sources)
    return found | ({"checks": checks} if checks else {})


def _sum(values: Sequence[Any]) -> Any:
    """Add up whole numbers, and those of objects by their names."""
    if all(isinstance(value, int) for value in values):
        return sum(values)
    objects = [value for value in values if isinstance(value, Mapping)]
    names = dict.fromkeys(name for value in objects for name in value if type(value[name]) is int)
    return {name: sum(value.get(name, 0) for value in objects) for name in names}


def _checks(sources: Sequence[Values]) -> list[dict[str, Any]]:
    """Add up the findings of each check of a validation."""
    found: dict[str, dict[str, Any]] = {}
    for check in (check for source in sources for check in source.get("checks", ())):
        known = found.setdefault(
            check["id"], {"id": check["id"], "severity": check["severity"], "count": 0, "fixed": 0}
        )
        known["count"] += check["count"]
        known["fixed"] += check["fixed"]
    return list(found.values())


def _source(values: Values) -> Values:
    """Return where the figures are: a report has them in its run, that of the whole migration in its statistics."""
    for part in (values.get("run"), values.get("statistics")):
        if isinstance(part, Mapping) and "users" in part:
            return part
    return values


def sections(result: Values) -> list[Section]:
    """Return the tables of what ``merged`` returned: a row for each database and the totals, then errors and skips."""
    rows = {alias: _row(values) for alias, values in result["databases"].items()}
    states = Counter(str(row["status"]) for row in rows.values() if row["status"])
    note = ", ".join(f"{count} {state}" for state, count in states.items())
    note = f"{counted(len(rows), 'database')}: {note}" if note else ""
    rows[ALL] = _figures(result["totals"]) | {"exit": result["exit_code"]}
    names = dict.fromkeys(name for row in rows.values() for name, cell in row.items() if cell not in (None, ""))
    columns = [*(name for name in names if name != "exit"), "exit"]
    cells = [[alias, *(row.get(column) for column in columns)] for alias, row in rows.items()]
    return [
        Section("databases", "Databases", note, ["database", *columns], cells),
        *(part for part in (*_problems(result), _runs(result)) if part.rows),
    ]


def _problems(result: Values) -> list[Section]:
    return [_reasons(result), _findings(result), _by_class("errors", result), _by_class("skipped", result)]


def _findings(result: Values) -> Section:
    """Return what the checks of a validation or a dry run found in each database."""
    rows: list[list[Cell]] = []
    for alias, values in result["databases"].items():
        checks = values.get("checks") or values.get("findings") or ()
        rows += [[alias, each["id"], each["severity"], each["count"]] for each in checks if each.get("count")]
    return Section("findings", "Findings", "", ["database", "check", "severity", "count"], rows)


def _runs(result: Values) -> Section:
    """Return the runs that each database listed."""
    found = [(alias, run) for alias, values in result["databases"].items() for run in values.get("runs", ())]
    rows = [
        [alias, str(run["run"]), run["kind"], _status(run, run), run["started_at"], *_figures(run).values()]
        for alias, run in found
    ]
    columns = ["database", "run", "kind", "status", "started at", "users", "done", "skipped", "failed", "mana"]
    return Section("runs", "Runs", "", columns, rows)


def _by_class(name: str, result: Values) -> Section:
    """Return the users of each database who failed or were skipped, by class or reason."""
    rows: list[list[Cell]] = []
    for alias, values in result["databases"].items():
        found = _source(values).get(name)
        rows += [[alias, cause, count] for cause, count in found.items()] if isinstance(found, Mapping) else []
    return Section(name, name.capitalize(), "", ["database", "class", "users"], rows)


def advice(result: Values) -> str:
    """Say what to do next; empty where all is done."""
    if any(values.get("status") == "running" for values in result["databases"].values()):
        return "what was done is kept; the same command resumes the open runs"
    return "details: the same command, or monitor_migration, with --database ALIAS" if result["exit_code"] else ""


def _reasons(result: Values) -> Section:
    """Return why databases did not end with exit code 0."""
    rows: list[list[Cell]] = []
    for alias, values in result["databases"].items():
        reason = values.get("error", {}).get("message") or values.get("blocked") or values.get("reason")
        if reason and values["exit_code"]:
            rows.append([alias, reason])
    return Section("reasons", "Reasons", "", ["database", "reason"], rows)


def _row(values: Values) -> dict[str, Cell]:
    source = _source(values)
    run = source.get("run")
    row: dict[str, Cell] = {}
    if isinstance(run, int):
        row["run"] = str(run)
    row["status"] = _status(values, source)
    row |= _figures(source)
    books = values.get("reconciliation")
    if isinstance(books, Mapping):
        row["sums"] = "agree" if books.get("ok") else "do NOT agree"
    return row | {"exit": values["exit_code"]}


def _status(values: Values, source: Values) -> str:
    if "error" in values:
        return "failed" if values["exit_code"] != 2 else "refused"
    if "ok" in values:
        return "ok" if values["ok"] else "not ok"
    if "done" in values:
        return "done" if values["done"] else "users left"
    if values.get("blocked"):
        return "blocked"
    if values.get("run", 0) is None and "status" not in source:
        return "no run"
    return str(source.get("status", "")).replace("_", " ")


def _figures(source: Values) -> dict[str, Cell]:
    """Return the figures of a row, whichever command they are of."""
    users, found = source.get("users"), source.get("totals")
    if isinstance(users, Mapping) and "selected" in users:
        return {
            "users": users["selected"],
            "done": users["migrated"] + users["rolled_back"],
            "skipped": users["skipped"],
            "failed": users["failed"],
            "mana": source.get("mana"),
        }
    if isinstance(users, Mapping) and "total" in users:
        return {
            "users": users["total"],
            "migrated": users["migrated"],
            "pending": users["pending"],
            "failed": users["failed"],
            "skipped": users["skipped"],
            "rolled back": users["rolled_back"],
            **({"mana": source["mana"]} if "mana" in source else {}),
        }
    if isinstance(users, Mapping) and "rehearsed" in users:
        return {
            "users": users["all"],
            **{name: users[name] for name in ("rehearsed", "converted")},
            "failed": source["failed"],
        }
    if "runs" in source:
        return {"runs": len(source["runs"])}
    if "checks" in source:
        return {
            "users": (found or {}).get("users", (found or {}).get("wallets")),
            "migrated": (found or {}).get("migrated"),
            "value in mana": (found or {}).get("value"),
            "errors": _remaining(source["checks"], "error"),
            "warnings": _remaining(source["checks"], "warning"),
        }
    return {}


def _remaining(checks: Sequence[Values], severity: str) -> int:
    return sum(check["count"] - check["fixed"] for check in checks if check["severity"] == severity)


def write(result: Values, format_: str, made: datetime, stream: BinaryIO) -> None:
    """Write the report of several databases to a stream; of CSV it is the table of the databases.

    Args:
        result: what ``merged`` returned.
        format_: one of ``export.FORMATS``.
        made: when the report was made.
        stream: where to.
    """
    if format_ == "json":
        stream.write(json.dumps(result, indent=1, default=str).encode() + b"\n")
    elif format_ == "html":
        from mana_migration.reports import report_html  # noqa: PLC0415 (takes long to import)

        code = result["exit_code"]
        report_html.write_tables(
            sections(result),
            stream,
            heading=f"Report of {counted(len(result['databases']), 'database')}",
            status="done" if not code else f"exit code {code}",
            tone=Tone.WARN if code else Tone.GOOD,
            made=made,
        )
    elif format_ == "csv":
        (sheet,) = databook(sections(result)[:1], lambda _, cell: csv_cell(cell)).sheets()
        stream.write(sheet.export("csv", lineterminator="\n").encode())
    else:
        stream.write(databook(sections(result), lambda _, cell: spreadsheet_cell(cell)).export("xlsx"))
