"""The records of the migration; all written by services and the engine, never by hand."""

from mana_migration.models.batch import MigrationBatch
from mana_migration.models.checklist import Checklist
from mana_migration.models.closing import Closing
from mana_migration.models.direct_write import DirectWrite
from mana_migration.models.fix import IntegrityFix
from mana_migration.models.record import UserMigration
from mana_migration.models.rehearsal import Rehearsal
from mana_migration.models.report_file import ReportFile
from mana_migration.models.request import RunRequest
from mana_migration.models.run import MigrationRun, RunEvent

__all__ = [
    "Checklist",
    "Closing",
    "DirectWrite",
    "IntegrityFix",
    "MigrationBatch",
    "MigrationRun",
    "Rehearsal",
    "ReportFile",
    "RunEvent",
    "RunRequest",
    "UserMigration",
]
