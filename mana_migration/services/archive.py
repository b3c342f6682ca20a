"""Archives: everything that closed runs did, each in a file that can be checked without the database.

# Note [The archive's format]
A gzip file of JSON objects, one a line.  The first has ``schema`` and ``run``; each that follows has
a ``batch`` with its figures, its place in the chain of digests and its ``lines``, the very texts that
its digest is made of; then ``events``, and ``fixes``, a thousand at a time: those of the run and those that no
run made.  The last, ``end``, has the number of batches, lines and fixes, the SHA-256 of the events and fixes, and the
head.  With the file alone one can compute every digest and link anew (``verify``) and compare the
head with one that was kept elsewhere.  There are no names in it: users are their primary keys.

# Note [Nothing is deleted]
A live record is what a rollback restores from, and every record, batch and event is what the checks
compare the ledger with.  So an archive is a copy: the tables keep what they hold.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final

from django.db.models import Q

from mana_migration.domain import chain as encoding
from mana_migration.domain.chain import LINKED_FIGURES
from mana_migration.engine import chain
from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.errors import ArchiveError, RunConflictError
from mana_migration.files import new_file
from mana_migration.models import IntegrityFix, MigrationBatch, MigrationRun, RunEvent
from mana_migration.services import logs

SCHEMA: Final = 1

#: Integrity fixes in one line.
FIXES_AT_ONCE: Final = 1_000

_MORE: Final = ("first_user", "last_user", "attempts", "errors", "skips", "started_at", "finished_at")


@dataclass(frozen=True, slots=True)
class Archive:
    """What an archive holds: the run, its batches, users' lines, and the head of its chain (empty: no batch).

    ``unseen``: users whose records a rollback had deleted, so that their batches' digests say nothing.
    ``fixes``: integrity fixes, those that no run made included.  ``met``: the number of the link that an expected head
    was found as.
    """

    run: int
    kind: str
    status: str
    path: Path
    batches: int
    lines: int
    head: str
    fixes: int = 0
    unseen: int = 0
    met: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "run": self.run,
            "kind": self.kind,
            "status": self.status,
            "file": str(self.path),
            "batches": self.batches,
            "lines": self.lines,
            "fixes": self.fixes,
            "head": self.head,
            "unseen": self.unseen,
        }


def closed_runs(*, before: datetime | None, runs: tuple[int, ...] = (), using: str = "default") -> list[int]:
    """Return the closed runs to archive, oldest first: these, or all that ended before a moment.

    Raises:
        RunNotFoundError: there is no such run.
        RunConflictError: a run is open.
    """
    found = MigrationRun.objects.using(using).order_by("pk")
    if not runs:
        return list(found.filter(finished_at__lt=before).values_list("pk", flat=True)) if before else []
    for number in runs:
        run = found.numbered(number)
        if run.is_open:
            raise RunConflictError(f"run {number} is {run.status_words}: only a run that has ended can be archived")
    return sorted(set(runs))


def file_name(run: int) -> str:
    """Return the name of a run's archive."""
    return f"mana-migration-run{run}.jsonl.gz"


def write(run_id: int, folder: Path, *, using: str = "default") -> Archive:
    """Write the archive of a closed run into a folder, in one snapshot, and check it while it is written.

    Raises:
        ArchiveError: the run's records are not what was written; no file is left.
        ReportError: the file is there already, or the folder cannot be written.
    """
    path = folder / file_name(run_id)
    with new_file(path, make_folder=True) as stream, _compressed(stream) as out, read_only_snapshot(using):
        run = MigrationRun.objects.using(using).get(pk=run_id)
        if MigrationBatch.objects.using(using).done().filter(run=run, digest="").exists():
            raise ArchiveError(
                f"run {run_id} has batches done before there were digests: no archive of it could be checked; "
                "keep a dump of the database instead"
            )
        checker = _Checker(path)
        for part in _parts(using, run):
            checker.take(part)
            out.write(_as_bytes(part))
        return checker.archive()


@dataclass(frozen=True, slots=True)
class LogCopy:
    """A daily log file in an archive folder: its compressed copy, and the number of its lines."""

    path: Path
    lines: int

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"file": str(self.path), "lines": self.lines}


def write_logs(runs: Sequence[int], folder: Path, *, using: str = "default") -> list[LogCopy]:
    """Copy this machine's log files of the days of these runs into a folder, compressed, and compare each copy.

    A copy that is there already and has the same content is kept.  The name of the copy of today's file, which is still
    growing, says until when it goes (UTC).

    Raises:
        ArchiveError: a copy cannot be read back as it was written.
        ReportError: another file has a copy's name, or the folder cannot be written.
    """
    days: set[str] = set()
    for run in MigrationRun.objects.using(using).filter(pk__in=runs):
        first, last = run.created_at.astimezone(UTC), (run.finished_at or run.created_at).astimezone(UTC)
        days |= {f"{first + timedelta(days=n):%Y-%m-%d}" for n in range((last.date() - first.date()).days + 1)}
    now = datetime.now(UTC)
    copies = []
    for path in logs.files_of_days(days):
        growing = f".until-{now:%H%M%S}" if f"{now:%Y-%m-%d}" in path.name else ""
        copies.append(_copy_log(path, folder / f"{path.stem}{growing}.log.gz"))
    return copies


def _copy_log(source: Path, target: Path) -> LogCopy:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise ArchiveError(f"{source} cannot be read ({error.strerror}): archive as a user who may read it") from error
    if not target.exists():
        with new_file(target, make_folder=True) as stream, _compressed(stream) as out:
            out.write(content)
    try:
        copied = gzip.decompress(target.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ArchiveError(f"{target} cannot be read back ({error}): remove it and archive again") from error
    if copied != content:
        raise ArchiveError(f"{target} is there already and differs from {source.name}: move it away and archive again")
    return LogCopy(target, content.count(b"\n"))


def verify(path: Path, *, expected: str = "") -> Archive:
    """Check an archive by itself: every digest and link anew, from its first line to its last.

    Raises:
        ArchiveError: it cannot be read, is not one or not all of one, something in it was changed, or
            ``expected``, a head that was kept elsewhere, is not among its links.
    """
    checker = _Checker(path, expected)
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            for line in stream:
                checker.take(json.loads(line))
    except ArchiveError:
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise ArchiveError(f"{path} cannot be opened ({error.strerror}): name an archive that you may read") from error
    except (OSError, EOFError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(
            f"{path} cannot be read as an archive after {checker.parts:,} lines ({type(error).__name__}): "
            "it is cut short, damaged or something else"
        ) from error
    found = checker.archive()
    if expected and found.met is None:
        raise ArchiveError(f"{path} has no link {expected}: it is not the run whose head this was, or was rewritten")
    return found


@contextmanager
def _compressed(stream: BinaryIO) -> Iterator[gzip.GzipFile]:
    # neither name nor time: the same run is the same file
    with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as out:
        yield out


def _parts(using: str, run: MigrationRun) -> Iterator[dict[str, Any]]:
    """Yield the objects of an archive, in their order."""
    yield {"schema": SCHEMA, "run": _run(run)}
    number = lines = 0
    head = ""
    for page in chain.linked_pages(using, run):
        found = {} if chain.forgets(run) else chain.lines_by_batch(using, page)
        details = MigrationBatch.objects.using(using).in_bulk([batch["id"] for batch in page])
        for batch in page:
            mine = found.get(batch["id"], [])
            number, lines, head = number + 1, lines + len(mine), batch["link"]
            yield {
                "batch": batch["id"],
                **{name: batch[name] for name in ("number", "digest", "link", *LINKED_FIGURES)},
                **{name: getattr(details[batch["id"]], name) for name in _MORE},
                "lines": [line.line for line in mine],
                "records": [line.record for line in mine],
            }
    events = RunEvent.objects.using(using).filter(run=run).order_by("pk")
    part: dict[str, Any] = {"events": [_event(event) for event in events]}
    fixes = IntegrityFix.objects.using(using).filter(Q(run=run) | Q(run=None)).order_by("pk")
    held, rest = 0, hashlib.sha256(_as_bytes(part))
    yield part
    while some := list(fixes[held : held + FIXES_AT_ONCE]):
        held += len(some)
        part = {"fixes": [_fix(fix) for fix in some]}
        rest.update(_as_bytes(part))
        yield part
    yield {"end": {"batches": number, "lines": lines, "fixes": held, "rest": rest.hexdigest(), "head": head}}


def _as_bytes(part: dict[str, Any]) -> bytes:
    return json.dumps(part, default=str, separators=(",", ":")).encode() + b"\n"


def _run(run: MigrationRun) -> dict[str, Any]:
    names = (
        "kind",
        "status",
        "rates",
        "options",
        "reason",
        "stop_cause",
        "stop_reason",
        "expected",
        "baseline",
        "planned_users",
    )
    return {
        "id": run.pk,
        **{name: getattr(run, name) for name in names},
        "target_run": run.target_run_id,
        "created_at": run.created_at,
        "finished_at": run.finished_at,
        "totals": run.folded.get("totals", {}),
    }


def _event(event: RunEvent) -> dict[str, Any]:
    return {
        "at": event.created_at,
        "kind": event.kind,
        "message": event.message,
        "details": event.details,
        "link": event.link,
    }


def _fix(fix: IntegrityFix) -> dict[str, Any]:
    """Return what an archive holds of a fix: all but who made it."""
    said = {name: value for name, value in fix.said().items() if name != "actor"}
    return {"id": fix.pk, "run": fix.run_id, "at": fix.created_at, **said, "link": fix.link}


class _Checker:
    """Compute the digests and links of an archive anew, object by object."""

    def __init__(self, path: Path, expected: str = "") -> None:
        self.parts = 0
        self._path, self._expected = path, expected
        self._run: dict[str, Any] = {}
        self._head = ""
        self._batches = self._lines = self._unseen = 0
        self._met: int | None = None
        self._fixes, self._rest = 0, hashlib.sha256()
        self._ended = False

    def take(self, part: dict[str, Any]) -> None:
        """Take the next object."""
        self.parts += 1
        if self.parts == 1:
            self._begin(part)
        elif self._ended:
            raise self._bad("something follows its end")
        elif "batch" in part:
            self._take_batch(part)
        elif "end" in part:
            self._end(part["end"])
        elif "events" in part or "fixes" in part:
            self._fixes += len(part.get("fixes", ()))
            self._rest.update(_as_bytes(part))
        else:
            raise self._bad("it holds something that no archive has")

    def archive(self) -> Archive:
        """Return what was taken.

        Raises:
            ArchiveError: the end is missing.
        """
        if not self._ended:
            raise self._bad("its end is missing: it was cut short")
        return Archive(
            run=self._run["id"],
            kind=self._run["kind"],
            status=self._run["status"],
            path=self._path,
            batches=self._batches,
            lines=self._lines,
            head=self._head if self._batches else "",
            fixes=self._fixes,
            unseen=self._unseen,
            met=self._met,
        )

    def _begin(self, part: dict[str, Any]) -> None:
        if part.get("schema") != SCHEMA:
            raise self._bad(f"its schema is {part.get('schema')!r} and must be {SCHEMA}")
        self._run = part["run"]
        names = ("kind", "rates", "options")
        self._head = encoding.first_link(run=self._run["id"], **{name: self._run[name] for name in names})

    def _take_batch(self, batch: dict[str, Any]) -> None:
        self._batches += 1
        self._head = encoding.next_link(self._head, self._batches, batch["digest"], batch)
        if (batch["number"], batch["link"]) != (self._batches, self._head):
            raise self._bad(f"batch {batch['batch']} is not what was linked as number {self._batches:,}")
        lines = batch["lines"]
        self._lines += len(lines)
        if encoding.digest(lines) != batch["digest"]:
            if len(lines) >= batch["selected"]:
                raise self._bad(f"the digest of batch {batch['batch']} is not that of its lines")
            self._unseen += batch["selected"] - len(lines)
        if self._head == self._expected:
            self._met = self._batches

    def _end(self, end: dict[str, Any]) -> None:
        if (end["batches"], end["lines"]) != (self._batches, self._lines):
            raise self._bad(f"it has {self._batches:,} batches and says {end['batches']:,}: some were taken out")
        if "rest" in end and (end["fixes"], end["rest"]) != (self._fixes, self._rest.hexdigest()):
            raise self._bad("its events or its integrity fixes are not what was written")
        if self._batches and end["head"] != self._head:
            raise self._bad("its head is not its last link")
        self._ended = True

    def _bad(self, what: str) -> ArchiveError:
        return ArchiveError(f"{self._path}: {what}; validate_migration --post-migration checks the tables")
