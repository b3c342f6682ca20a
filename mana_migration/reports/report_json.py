"""A report as one JSON object, streamed: its users come last, one a line.

``docs/report.schema.json`` is the contract.  Amounts are exact integers of any size; readers whose
numbers are floating point must parse them as big integers.

# Note [Lines of users]
A user's line is a template that is filled in: a data set of tablib with a dictionary for each user takes five times as
long.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from typing import Any, BinaryIO, Final

from mana_migration.domain.report import SCHEMA_VERSION, AnyReport, ProblemClass, RunReport, UserDetail, WholeReport
from mana_migration.reports.cells import json_cell
from mana_migration.reports.databook import databook
from mana_migration.reports.sections import USER_COLUMNS, sections
from mana_migration.reports.snapshot_json import snapshot_json

#: Who started or changed a run is for the monitor and the admin; reports carry no names.
_PERSONAL: Final = ("actor", "host", "standstill")

_LINE: Final = "{" + ", ".join(f"{json.dumps(name)}: %s" for name in USER_COLUMNS) + "}"

#: Users written at a time.
CHUNK: Final = 5_000


def write(report: AnyReport, stream: BinaryIO) -> None:
    """Write the report; memory does not grow with its users."""
    head = json.dumps(summary(report), indent=1, default=str)
    stream.write(head.removesuffix("\n}").encode())
    stream.write(b',\n "users": [')
    separator, lines = "\n  ", map(_line, report.details)
    while text := ",\n  ".join(islice(lines, CHUNK)):
        stream.write((separator + text).encode())
        separator = ",\n  "
    stream.write(b"\n ]\n}\n")


def _line(user: UserDetail) -> str:
    """Return a user's line; see Note [Lines of users]."""
    return _LINE % tuple([value if type(value) is int else _value(value) for value in user])


@lru_cache(maxsize=4_096)
def _value(value: str | int | None) -> str:
    return json.dumps(value)


def summary(report: AnyReport) -> dict[str, Any]:
    """Return everything but the users one by one, as JSON values."""
    return _whole(report) if isinstance(report, WholeReport) else _of_run(report)


def _whole(report: WholeReport) -> dict[str, Any]:
    """Return the whole migration; ``tables`` has what is not here."""
    value = report.value
    return {
        "schema_version": SCHEMA_VERSION,
        "generated_at": report.generated_at.isoformat(),
        "time_zone": report.time_zone,
        "statistics": report.statistics.as_dict(),
        "left": [_fields(part) | {"examples": list(part.examples)} for part in report.left],
        "reconciliation": None
        if value is None
        else {
            "first_run": value.first_run,
            "before": value.before,
            "changes": dict(value.changes),
            "after": value.after,
            "difference": value.difference,
            "ok": not value.difference,
        },
        "integrity": None if report.validation is None else report.validation.as_dict(),
        "listed_since": None if report.since is None else report.since.isoformat(),
        "resources": [figure._asdict() for figure in report.resources],
        "tables": json.loads(databook(sections(report), lambda _, cell: json_cell(cell)).export("json")),
    }


def _of_run(report: RunReport) -> dict[str, Any]:
    speed, books = report.performance, report.reconciliation
    return {
        "schema_version": SCHEMA_VERSION,
        "generated_at": report.generated_at.isoformat(),
        "time_zone": report.time_zone,
        "run": _run(report),
        "statistics": {
            "records": report.records,
            "records_deleted": report.records_deleted,
            "by_status": [_fields(part) for part in report.statuses],
            "by_size": [_fields(size) for size in report.sizes],
            "listed_since": None if report.since is None else report.since.isoformat(),
            "listed": [_fields(part) for part in report.listed],
        },
        "errors": _problems(report.errors),
        "skipped": _problems(report.skips),
        "performance": {
            "batches": speed.batches,
            "batch_seconds": {"p50": speed.p50, "p95": speed.p95, "max": speed.longest, "mean": speed.mean},
            "failed_attempts": speed.failed_attempts,
            "seconds_beyond_batches": round(speed.outside, 3),
            "progress": [{"at": at.isoformat(), "users": users} for at, users in speed.progress],
            "users_per_minute": [
                {"at": at.isoformat(), "users_per_minute": round(rate, 1)} for at, rate in speed.users_per_minute
            ],
            "slowest_batches": [
                _fields(line) | {"started_at": line.started_at.isoformat() if line.started_at else None}
                for line in speed.slowest
            ],
        },
        "stages": [_fields(stage) | {"started_at": stage.started_at.isoformat()} for stage in report.stages],
        "rollbacks": [_fields(part) for part in report.reversals],
        "shortfalls": {
            "users": report.shortfall_users,
            "largest": [line._asdict() for line in report.shortfalls],
        },
        "reconciliation": {
            "before": books.before,
            "converted": books.converted,
            "written_off": books.written_off,
            "mana_after": books.mana_after,
            "wishes_after": books.wishes_after,
            "after": books.after,
            "difference": books.difference,
            "ok": books.ok,
            "agreements": [_fields(line) | {"ok": line.ok} for line in books.agreements],
        },
        "integrity": None if report.validation is None else report.validation.as_dict(),
        "resources": [figure._asdict() for figure in report.resources],
        "tables": json.loads(databook(sections(report), lambda _, cell: json_cell(cell)).export("json")),
    }


def _run(report: RunReport) -> dict[str, Any]:
    values = {key: value for key, value in snapshot_json(report.snapshot).items() if key not in _PERSONAL}
    values["events"] = [
        {key: value for key, value in event.items() if key not in _PERSONAL} for event in values["events"]
    ]
    return values


def _problems(problems: Iterable[ProblemClass]) -> list[dict[str, Any]]:
    return [
        {"class": part.name, "users": part.users, "message": part.message, "example_records": list(part.examples)}
        for part in problems
    ]


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}
