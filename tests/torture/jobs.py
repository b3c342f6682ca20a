"""The commands that are killed, cut off and sabotaged, each with the users that it works on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MIGRATE = ("migrate_users", "--no-input", "--delay", "0", "--batch-size", "5")


#: What is the same however often something was tried, and by which run.
BALANCES = ("wallets", "wishes", "fixes")


@dataclass(frozen=True)
class Job:
    """A command on a scene: what it is called, whom it finds, what it is, and the exit codes of a good end.

    ``before``: commands between the seeds.  ``same``: the parts of the dump that must be those of an undisturbed run
    (all of them unless said otherwise); ``same_after_errors``: if those are fewer once a statement has failed.
    ``writes``: the format of the file that it writes, if it does.
    """

    name: str
    seeds: tuple[str, ...]
    argv: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    codes: tuple[int, ...] = (0,)
    same: tuple[str, ...] = ("wallets", "mana", "wishes", "records", "fixes", "runs")
    same_after_errors: tuple[str, ...] = ()
    writes: str = ""

    def command(self, remembered: dict[str, Any], file: str) -> Sequence[str]:
        """Return the command line."""
        return [word.format(FILE=file, PATH=remembered.get("path", "")) for word in self.argv]


ROLLBACK = ("rollback_migration", "--all", "--no-input", "--batch-size", "5")

JOBS = (
    Job(
        # of so few users, a second one who fails trips the breaker: then all of them come back and go again
        "migrate",
        ("poisoned",),
        MIGRATE,
        codes=(3,),
        same_after_errors=BALANCES,
    ),
    Job("migrate plainly", ("ordinary",), MIGRATE),
    Job("auto-fix", ("dirty",), (*MIGRATE, "--auto-fix")),
    Job(
        # a user more or less may have been tried before the breaker trips, hence come and gone
        "breaker",
        ("rotten",),
        (*MIGRATE[:-1], "10"),
        codes=(4,),
        same=BALANCES,
    ),
    Job("rollback", ("ordinary", "spenders"), ROLLBACK, before=(MIGRATE,), codes=(3,)),
    Job(
        "emergency",
        ("ordinary", "spenders"),
        ("rollback_migration", "--all", "--emergency", "--batch-size", "5", "--no-preserve-logs"),
        before=(MIGRATE,),
    ),
    Job(
        # a statement that takes too long is that user's failure, and the command given again another run
        "one user",
        ("ordinary",),
        ("migrate_users", "--user-id", "username:user-3"),
        same_after_errors=BALANCES,
    ),
    Job(
        "undo one user",
        ("ordinary", "spenders"),
        ("rollback_migration", "--no-input", "--user-id", "username:user-4"),
        before=(MIGRATE,),
        same_after_errors=BALANCES,
    ),
    Job("import", ("nobody",), ("import_balances", "{PATH}", "--no-input")),
    Job("fix", ("dirty",), ("validate_migration", "--fix-issues", "--no-input")),
    Job("plan", ("ordinary",), ("migrate_users", "--dry-run", "--save-plan", "{FILE}"), writes="json"),
    Job(
        "json",
        ("ordinary",),
        ("monitor_migration", "--export", "json", "--output", "{FILE}"),
        before=(MIGRATE,),
        writes="json",
    ),
    Job(
        "html",
        ("ordinary",),
        ("monitor_migration", "--export", "html", "--output", "{FILE}"),
        before=(MIGRATE,),
        writes="html",
    ),
)

#: Commands of two processes on PostgreSQL, slow enough for the second to take part.
SLOWLY = ("--no-input", "--batch-size", "3", "--delay", "0.02", "--workers", "2")
SHARED = (
    Job("shared migration", ("few",), ("migrate_users", *SLOWLY), same=(*BALANCES, "mana")),
    Job(
        "shared rollback",
        ("few",),
        ("rollback_migration", "--all", *SLOWLY),
        before=(MIGRATE,),
        same=(*BALANCES, "mana"),
    ),
)

#: What a crash may interrupt, and the moments that belong to it.
STAGES = {
    "looking whether the database is fit": r"services\.preflight\.",
    "the check before a run": r"engine\.integrity\.",
    "the snapshot of the check": r"read_only_snapshot commit",
    "creating a run": r"runs\.create_run \d",
    "the commit of a new run": r"Migration\.open commit",
    "writing an event": r"runs\.add_event",
    "planning": r"engine\.planning\.slices",
    "writing the planned batches": r"BatchQueue\._plan",
    "the commit of a plan": r"BatchQueue\.refill commit",
    "folding": r"engine\.(totals\.(fold|_read_unfolded)|chain\.write_links)",
    "reading which batches wait": r"BatchQueue\._read_ahead",
    "claiming a batch": r"conversion\.convert 1$",
    "conversion": r"engine\.(conversion\.convert|pipeline\._several) \d",
    "the commit of a batch": r"MigrationWork\.handle commit",
    "several batches in a message": r"(pipeline\._several|conversion\.convert) 1$",  # SQLite has no messages
    "splitting a batch": r"Recovery\._split",
    "the commit of a split": r"Recovery\.recover commit",
    "recording a failure": r"records\.record_problem",
    "judging the breaker": r"MigrationWork\.verdict",
    "changing a status": r"runs\.change_status",
    "going over to the check": r"runs\.to_checking commit",
    "the end of a run": r"operation\.check commit",
    "auto-fix": r"corrections\.(_correct|_record|_create|write)",
    "the commit of a fix": r"_Work\._fix_page commit",
    "the breaker's trip": r"operation\.trip commit",
    "lifting the guard": r"guards\.announce_reversal",
    "reversal": r"engine\.(reversal\.reverse|pipeline\._several) \d",
    "the commit of a reversal": r"RollbackWork\.handle commit",
    "opening a rollback": r"Rollback\.open commit",
    "the end of the run taken back": r"rollback\.close_target",
    "the end of a rollback": r"operation\.check commit",
    "selected users": r"selected_users\._execute_one",
    "the commit of selected users": r"selected_users\.execute commit",
    "staging an import": r"engine\.staging\.",
    "writing an import": r"engine\.import_load\.",
    "the commit of an import": r"imports\._Import\.\w+ commit",
    "opening a report": r"files\.new_file open",
    "flushing a report": r"files\.new_file fsync",
    "naming a report": r"files\._publish link",
}
"""At least one moment of each is killed before and after in ``make test``, every moment in ``make torture``."""

BY_NAME = {job.name: job for job in JOBS}
