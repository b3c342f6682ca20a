"""A run's report with the integrity checks of the same moment: the one call of commands and pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mana_migration.domain.report import RunReport
from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.errors import RunNotFoundError
from mana_migration.selectors.reports import open_report
from mana_migration.selectors.runs import find_run
from mana_migration.services import validation


@contextmanager
def run_report(using: str = "default", run_id: int | None = None, *, validate: bool = True) -> Iterator[RunReport]:
    """Open the report of a run (without an id the open one, else the latest) for as long as the block lasts.

    Figures, checks and the users that the report streams are all of one read-only snapshot.  The cost
    grows with the run: every record is read once by the database and once while it is written.  Without
    ``validate``, whose checks read every wallet, record and entry, the report says that it was not checked.

    Raises:
        RunNotFoundError: there is no such run, or none at all.
    """
    with read_only_snapshot(using):
        run = find_run(using, run_id)
        if run is None:
            raise RunNotFoundError("there is no run yet, so nothing to report; start one with migrate_users")
        checked = validation.check_run(using, run.pk) if validate else None
        with open_report(using, run.pk, validation=checked) as report:
            yield report
