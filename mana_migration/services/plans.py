"""Binding dry runs: keep what was promised, execute it only as promised, report the drift."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from mana_migration.domain.forecast import Forecast, digest
from mana_migration.domain.options import Controls, MigrationOptions
from mana_migration.domain.results import RunSummary
from mana_migration.errors import RunConflictError, SourceError
from mana_migration.files import write_new_file
from mana_migration.selectors.users import resolve_users
from mana_migration.services import dry_run, runs

#: The version of the file's shape.
VERSION: Final = 1

#: Bytes of a plan, at most: a thousand selected users take a fraction of it.
LARGEST: Final = 1_000_000


def save(path: Path, forecast: Forecast) -> str:
    """Write what was promised to a new file and return its digest.

    Raises:
        ReportError: the file exists or cannot be written.
    """
    promise = forecast.promise()
    document = {"mana_migration_plan": VERSION, "promise": promise, "digest": digest(promise)}
    write_new_file(path, json.dumps(document, indent=2) + "\n")
    return str(document["digest"])


def read(path: Path) -> dict[str, Any]:
    """Return the promise kept in a plan file.

    Raises:
        SourceError: the file cannot be read, is no plan, or was changed since it was written.
    """
    cure = ": write one with migrate_users --dry-run --save-plan FILE"
    no_plan = f"{path} is no plan{cure}"
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a path"
        raise SourceError(f"{path} is no plan that can be read ({why}){cure}") from error
    try:
        document = json.loads(content) if len(content) <= LARGEST else {}
        promise = document["promise"]
        kept, version, found = document["digest"], document["mana_migration_plan"], digest(promise)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SourceError(no_plan) from error
    if version != VERSION:
        raise SourceError(f"{path} is a plan of version {version!r}, not {VERSION}: save it again")
    if found != kept:
        raise SourceError(f"{path} was changed since it was written: save the plan again")
    if not _is_promise(promise):
        raise SourceError(no_plan)
    return dict(promise)


def _is_promise(promise: object) -> bool:
    """Say whether this has the keys and the types of a promise; its options and controls are read in ``options_of``."""
    return (
        isinstance(promise, dict)
        and all(isinstance(promise.get(name), dict) for name in ("options", "controls"))
        and promise["controls"].keys() >= Controls().as_dict().keys()
        and isinstance(promise["controls"].get("until", ""), str)
        and isinstance(users := promise["options"].get("users"), list)
        and all(isinstance(key, str) for key in users)
        and _are_counts(promise.get("rates"), "green", "blue", "red")
        and _are_counts(promise.get("users"), "selected", "migrated", "skipped", "failed")
        and _are_counts(promise.get("wishes"), "green", "blue", "red")
        and _are_counts(promise.get("findings"))
        and type(promise.get("mana")) is int
    )


def _are_counts(values: object, *names: str) -> bool:
    """Say whether these are whole numbers under exactly these names, or under any where none is given."""
    return (
        isinstance(values, dict)
        and all(type(value) is int for value in values.values())
        and (not names or set(values) == set(names))
    )


def options_of(promise: dict[str, Any], asked: MigrationOptions) -> MigrationOptions:
    """Return the plan's options; the command line may add none that contradict them.

    Raises:
        RunConflictError: an option was asked for that is not the plan's.
        UsageError: the plan's own options have values that they cannot have.
    """
    planned = MigrationOptions.from_dict(promise["options"], promise["controls"])
    planned.require_valid()
    default = MigrationOptions()
    wrong = [
        name
        for name, value in asked.as_dict().items()
        if value != default.as_dict()[name] and value != planned.as_dict()[name]
    ]
    contradictions = [f"{name} is {planned.as_dict()[name]!r}, not {asked.as_dict()[name]!r}" for name in wrong]
    contradictions += planned.controls.contradictions(asked.controls, asked.given)
    if contradictions:
        raise RunConflictError(
            f"the plan was made with other options: {'; '.join(contradictions)}; leave them out, or save a new plan"
        )
    return replace(planned, plan_digest=digest(promise))


def verify(promise: dict[str, Any], options: MigrationOptions, *, using: str) -> None:
    """Refuse a plan whose rates or findings have changed since; drifting balances are reported afterwards instead.

    A run that is open with this very plan is resumed.

    Raises:
        RunConflictError: they have.
        UserNotFoundError: a user of the plan does not exist.
    """
    open_run = runs.open_run_or_none(using)
    if open_run is not None and open_run.migration_options.plan_digest == options.plan_digest:
        return  # it was verified when the run was opened; since then the run itself has changed the findings
    resolve_users([f"pk:{key}" for key in options.users], using)
    now = dry_run.forecast(options, using=using, validate_only=True).promise()
    for name in ("rates", "findings"):
        if now[name] != promise[name]:
            raise RunConflictError(
                f"the plan no longer holds: its {name} were {json.dumps(promise[name])}, they are "
                f"{json.dumps(now[name])}; review them and save a new plan"
            )


def with_drift(done: RunSummary, promise: dict[str, Any]) -> RunSummary:
    """Return the summary with the difference between result and promise, figure by figure (0: as promised)."""
    totals = done.totals
    drift = {
        "selected": totals.selected - promise["users"]["selected"],
        "migrated": totals.migrated - promise["users"]["migrated"],
        "green": totals.green - promise["wishes"]["green"],
        "blue": totals.blue - promise["wishes"]["blue"],
        "red": totals.red - promise["wishes"]["red"],
        "mana": totals.mana - promise["mana"],
    }
    return replace(done, extra={**done.extra, "plan": digest(promise), "drift": drift})
