"""The tamper evidence in the database: lines and marks in SQL, links in the order of folding, and the walk.

See Note [The chain] in ``mana_migration.domain.chain``.

# Note [Linked when folded]
A digest that needed the one before it would make workers wait for one another.  So a batch's own
digest is written in its own transaction, and the link by the worker that folds it, holding the run's row
lock: a few hundred batches at a time, in the order in which they are folded.  When a run is closed
all its batches are linked.

# Note [Marks]
A mark is only read when a batch's digest does not fit, by the database that wrote it.  A SHA-256
for each record would slow conversions on PostgreSQL; the hash that it finds its own rows by
(hash indexes and partitions rely on it, so that it outlives a release) costs next to nothing.  SQLite
has no hash of its own: there, and in records that PostgreSQL wrote before, it is the start of the
line's SHA-256.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain import chain
from mana_migration.domain.chain import LINKED_FIGURES, MARK_LENGTH, OUTCOMES, Break, Head, Walk
from mana_migration.models import IntegrityFix, MigrationBatch, MigrationRun, RunEvent
from mana_migration.states import RUN_STATES, BatchStatus, EventKind, RunKind, RunStatus
from wishes.sql import block

#: Records read at once, about, and batches at most.
PAGE_USERS: Final = 4_000
PAGE_BATCHES: Final = 200

#: Users whose batches PostgreSQL compares with their records at once.
PAGE_SUMMED: Final = 100_000


# --- Lines in SQL -----------------------------------------------------------------------------------------------------


def _line(vendor: str, kind: str, run: str, *parts: str) -> str:
    first = f"'{kind}|{run}'" if run.isdecimal() else f"'{kind}|' || {run}"
    if vendor == "postgresql":
        return f"concat_ws('|', {', '.join((first, *parts))})"
    return " || '|' || ".join(f"({part})" for part in (first, *parts))  # it binds tighter than a minus


def record_line_sql(
    vendor: str, *, run: str, outcome: str, wishes: Sequence[str], before: str, credited: str, error: str, user: str
) -> str:
    """Return the SQL of ``domain.chain.record_line``; the arguments are SQL, none of them ever NULL."""
    return _line(vendor, "record", run, outcome, *wishes, before, credited, error, user)


def reversal_line_sql(
    vendor: str, *, run: str, origin: str, wishes: Sequence[str], debited: str, shortfall: str, user: str
) -> str:
    """Return the SQL of ``domain.chain.reversal_line``; the arguments are SQL, none of them ever NULL."""
    return _line(vendor, "reversal", run, origin, *wishes, debited, shortfall, user)


def mark_sql(vendor: str, line: str) -> str:
    """Return the SQL of a line's mark, see Note [Marks]."""
    if vendor == "postgresql":
        return f'to_hex(hashtextextended({line} COLLATE "C", 0))'
    return f"substr(SHA256({line}), 1, {MARK_LENGTH})"  # Django gives SQLite this function


def digest_sql(line: str, order: str = "") -> str:
    """Return PostgreSQL's aggregate of a batch's digest over its lines, sorted unless ``order`` is empty."""
    sort = f" ORDER BY {order}" if order else ""
    lines = f"COALESCE(string_agg({line}, E'\\n'{sort}) || E'\\n', '')"
    return f"encode(sha256(convert_to({lines}, 'UTF8')), 'hex')"


def order_sql(vendor: str, column: str) -> str:
    """Return the order of keys in a digest; that of text must not change with a machine's language."""
    return f'{column} COLLATE "C"' if vendor == "postgresql" and _keys_are_text() else column


def picked_digest_sql(vendor: str) -> str:
    """Return the aggregate of a batch's digest over ``picked``, whose rows are in the order of their keys.

    PostgreSQL keeps that order where nothing but an aggregate reads them; to sort them once more
    costs as much as all the rest of the digest.
    """
    if vendor == "postgresql":
        return digest_sql("line", order_sql("postgresql", "user_id") if _keys_are_text() else "")
    lines = "(SELECT group_concat(line, char(10)) FROM (SELECT line FROM picked ORDER BY user_id))"
    return f"SHA256(COALESCE({lines} || char(10), ''))"  # Django gives SQLite this function


def _keys_are_text() -> bool:
    return isinstance(get_user_model()._meta.pk, models.CharField)


# --- Links ------------------------------------------------------------------------------------------------------------


def link(run: MigrationRun, known: dict[str, Any], batches: Sequence[dict[str, Any]]) -> list[tuple[int, int, str]]:
    """Return (batch, number, link) for batches that are to be linked next, and put the new head into ``known``.

    ``known`` is ``run.folded["chain"]``: the number of links and the head so far.
    """
    number, head = known.get("links", 0), known.get("head") or first_link(run)
    found = []
    for batch in batches:
        number += 1
        head = chain.next_link(head, number, batch["digest"], batch)
        found.append((batch["id"], number, head))
    known["links"], known["head"] = number, head
    return found


def first_link(run: MigrationRun) -> str:
    """Return what the first link of a run hangs on."""
    return chain.first_link(run=run.pk, kind=run.kind, rates=run.rates, options=run.options)


def write_links(connection: BaseDatabaseWrapper, links: Sequence[tuple[int, int, str]]) -> None:
    """Write the numbers and links of batches, which are folded with that."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                """
                UPDATE mana_migration_migrationbatch b
                SET folded = true,
                    number = l.number,
                    link = l.link
                FROM unnest(%s::bigint[], %s::integer[], %s::text[]) AS l(id, number, link)
                WHERE b.id = l.id
                """,
                [[one[0] for one in links], [one[1] for one in links], [one[2] for one in links]],
            )
            return
        cursor.executemany(
            "UPDATE mana_migration_migrationbatch SET folded = true, number = %s, link = %s WHERE id = %s",
            [(number, link_text, batch) for batch, number, link_text in links],
        )


#: Numbers for the locks under which what is linked is written, one transaction after the other: fixes, events of a run.
_FIXES: Final = 0x6D616E61
_EVENTS: Final = 0x6D616E62


def latest_fix_link(using: str) -> str:
    """Return the link that the next integrity fix hangs on; no other transaction writes one before this one ends."""
    _link_alone(using, _FIXES, 0)
    return IntegrityFix.objects.using(using).order_by("-pk").values_list("link", flat=True).first() or ""


def event_link(using: str, run: int, event: RunEvent) -> str:
    """Return the link of an event of a run; no other transaction writes one of it before this one ends."""
    _link_alone(using, _EVENTS, run)
    events = RunEvent.objects.using(using).filter(run=run).order_by("-pk")
    previous = events.values_list("link", flat=True).first()
    if not previous:
        previous = chain.first_event_link(MigrationRun.objects.using(using).get(pk=run).said())
    return chain.next_event_link(previous, event.said())


def _link_alone(using: str, what: int, number: int) -> None:
    if connections[using].vendor == "postgresql":
        with connections[using].cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [what, number % 2**31])


# --- Lines as they are now --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One user's line in a batch, as the tables say it now, with the mark that was written with it."""

    batch: int
    record: int
    line: str
    mark: str


def lines_of(connection: BaseDatabaseWrapper, batches: Sequence[int]) -> list[Line]:
    """Return the lines of these batches, which belong to one run, in the order of the ids and of the users' keys."""
    own = (
        "r.id, r.user_id, 0 AS reverses, r.run_id, 0 AS origin, r.status, r.green, r.blue, r.red, "
        "r.mana_before, r.mana_credited, r.error_class, CAST(r.user_id AS text) AS key_text, r.mark"
    )
    reversals = (
        "r.id, r.user_id, 1 AS reverses, r.reversal_run_id, r.run_id AS origin, r.status, r.green, r.blue, r.red, "
        "r.mana_debited, r.shortfall, '', CAST(r.user_id AS text) AS key_text, r.reversal_mark"
    )
    both = " UNION ALL ".join(
        (
            _in_batches(connection, own, "r.run_id = b.run_id AND r.batch_id = b.id", len(batches)),
            _in_batches(
                connection, reversals, "r.reversal_run_id = b.run_id AND r.reversal_batch_id = b.id", len(batches)
            ),
        )
    )
    with connection.cursor() as cursor:
        order = order_sql(connection.vendor, "user_id")
        cursor.execute(f"SELECT * FROM ({both}) l ORDER BY batch, {order}", [*batches, *batches])
        return [_line_of(row) for row in cursor.fetchall()]


def _in_batches(connection: BaseDatabaseWrapper, columns: str, condition: str, count: int) -> str:
    """Return the SELECT of records ``r`` of so many batches ``b``, found by the range of keys of each."""
    parts = {
        "columns": columns,
        "first": _key_sql(connection, "b.first_user"),
        "last": _key_sql(connection, "b.last_user"),
        "condition": condition,
        "batches": ", ".join(["%s"] * count),
    }
    if connection.vendor == "postgresql":
        # OFFSET 0: batch by batch by the users' keys, whatever the planner expects of joining by the batch's id
        return block(
            """
            SELECT b.id AS batch, r.*
            FROM mana_migration_migrationbatch b
            CROSS JOIN LATERAL (
                SELECT {columns}
                FROM mana_migration_usermigration r
                WHERE r.user_id BETWEEN {first} AND {last} AND {condition}
                OFFSET 0
            ) r
            WHERE b.id IN ({batches})
            """,
            **parts,
        )
    return block(
        """
        SELECT b.id AS batch, {columns}
        FROM mana_migration_migrationbatch b
        CROSS JOIN mana_migration_usermigration r
        WHERE r.user_id BETWEEN {first} AND {last} AND {condition}
          AND b.id IN ({batches})
        """,
        **parts,
    )


def _key_sql(connection: BaseDatabaseWrapper, column: str) -> str:
    """Return the SQL of a key that a batch keeps as text, in the type of the users' table."""
    field = get_user_model()._meta.pk
    if connection.vendor == "postgresql":
        return f"CAST({column} AS {field.rel_db_type(connection)})"
    if isinstance(field, models.UUIDField):
        return f"REPLACE({column}, '-', '')"  # SQLite keeps UUIDs as hex digits
    return f"CAST({column} AS integer)" if isinstance(field, models.IntegerField) else column


def _line_of(row: Sequence[Any]) -> Line:
    batch, record, _, reverses, run, origin, status, green, blue, red, first, second, error, key, mark = row
    wishes = {"green": green, "blue": blue, "red": red}
    if reverses:
        line = chain.reversal_line(run=run, origin=origin, **wishes, debited=first, shortfall=second, user=key)
    else:
        outcome = OUTCOMES.get(status, status)
        line = chain.record_line(
            run=run, outcome=outcome, **wishes, mana_before=first, mana_credited=second, error_class=error, user=key
        )
    return Line(batch, record, line, mark)


def changed_lines(connection: BaseDatabaseWrapper, lines: Sequence[Line]) -> list[Line]:
    """Return those of these lines whose mark is not that of their text."""
    own = [chain.mark(line.line) for line in lines]
    if connection.vendor == "postgresql":
        mark = mark_sql("postgresql", "l.line")
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {mark} FROM unnest(%s::text[]) WITH ORDINALITY AS l(line, place) ORDER BY l.place",
                [[line.line for line in lines]],
            )
            theirs = [mark for (mark,) in cursor.fetchall()]
    else:
        theirs = own
    return [line for line, *marks in zip(lines, own, theirs, strict=True) if line.mark not in marks]


def digest_of(connection: BaseDatabaseWrapper, batch: int) -> str:
    """Return the digest of a batch from its records as they are now."""
    return chain.digest(found.line for found in lines_of(connection, [batch]))


#: The runs of whose records each rollback has reversed some, as the records say now.
Origins = Mapping[int, Sequence[int]]


def origins(connection: BaseDatabaseWrapper) -> Origins:
    """Return by each rollback the runs of whose records it has reversed some, in one pass over the records."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT reversal_run_id, array_agg(DISTINCT run_id)
            FROM mana_migration_usermigration
            WHERE reversal_run_id IS NOT NULL
            GROUP BY reversal_run_id
            """
        )
        return dict(cursor.fetchall())


def unchanged_batches(
    connection: BaseDatabaseWrapper, batches: Sequence[int], reversed_runs: Sequence[int]
) -> set[int]:
    """Return those of a run's batches whose digest is that of their records as they are now, by PostgreSQL's SHA-256.

    The lines are put together by the SQL that wrote them; a batch that is not among these is compared
    line by line.  ``reversed_runs``: the runs of whose records the run has reversed some; those of other runs,
    of which a long history has many for each user, are not read.
    """
    status = "CASE r.status " + " ".join(f"WHEN '{status}' THEN '{said}'" for status, said in OUTCOMES.items()) + " END"
    user, wishes = "CAST(r.user_id AS text)", ("r.green", "r.blue", "r.red")
    own = record_line_sql(
        "postgresql",
        run="r.run_id",
        outcome=status,
        wishes=wishes,
        before="r.mana_before",
        credited="r.mana_credited",
        error="r.error_class",
        user=user,
    )
    reversal = reversal_line_sql(
        "postgresql",
        run="r.reversal_run_id",
        origin="r.run_id",
        wishes=wishes,
        debited="r.mana_debited",
        shortfall="r.shortfall",
        user=user,
    )
    query = block(
        """
        SELECT b.id
        FROM mana_migration_migrationbatch b
        CROSS JOIN LATERAL (
            SELECT {digest} AS digest
            FROM (
                SELECT r.user_id, {own} AS line
                FROM mana_migration_usermigration r
                WHERE r.user_id BETWEEN {first} AND {last} AND r.run_id = b.run_id AND r.batch_id = b.id
                UNION ALL
                SELECT r.user_id, {reversal} AS line
                FROM mana_migration_usermigration r
                WHERE r.user_id BETWEEN {first} AND {last} AND r.run_id = ANY(%s)
                  AND r.reversal_run_id = b.run_id AND r.reversal_batch_id = b.id
            ) l
        ) d
        WHERE b.id = ANY(%s) AND d.digest = b.digest
        """,
        digest=digest_sql("l.line", order_sql("postgresql", "l.user_id")),
        own=own,
        reversal=reversal,
        first=_key_sql(connection, "b.first_user"),
        last=_key_sql(connection, "b.last_user"),
    )
    with connection.cursor() as cursor:
        cursor.execute(query, [list(reversed_runs), list(batches)])
        return {batch for (batch,) in cursor.fetchall()}


# --- The walk ---------------------------------------------------------------------------------------------------------


_COLUMNS: Final = ("id", "number", "digest", "link", *LINKED_FIGURES)


def walk(
    using: str,
    *,
    run: int | None = None,
    first_run: int = 0,
    expected: str = "",
    on_run: Callable[[int], object] = lambda run: None,
) -> Walk:
    """Compute the chains of all runs, or of one, anew from what the tables say now.

    A run's walk ends at its first break: what hangs on it cannot be verified.  ``first_run``: where to begin.
    ``expected`` is a head that was kept elsewhere, to be found among the links.  ``on_run``: called with each run
    that is read next.
    """
    found = Walk()
    runs = MigrationRun.objects.using(using).order_by("pk")
    reversed_by = origins(connections[using]) if connections[using].vendor == "postgresql" else {}
    for each in runs.filter(pk__gte=first_run) if run is None else runs.filter(pk=run):
        on_run(each.pk)
        if _walk_run(using, each, found, expected, reversed_by.get(each.pk, ())):
            _walk_events(using, each, found)
    forgotten = sum(_users_rolled_back(using, each) for each in runs if forgets(each)) if found.unseen else 0
    if found.unseen > forgotten:
        found.breaks.append(
            Break(run, None, None, f"{found.unseen:,} records are gone, and rollbacks deleted {forgotten:,}")
        )
    if run is None:
        _walk_fixes(using, found)
    if expected and found.met is None:
        found.breaks.append(Break(run, None, None, f"no batch has the link {expected}, which was given as a head"))
    return found


def _walk_fixes(using: str, found: Walk) -> None:
    """Compute the links of the integrity fixes anew; those made before there were any come first and have none."""
    link = ""
    for fix in IntegrityFix.objects.using(using).order_by("pk").iterator(chunk_size=PAGE_USERS):
        if not (fix.link or link):
            continue
        link = chain.next_fix_link(link, fix.said())
        if fix.link != link:
            said = f"integrity fix {fix.pk} is not what was written, or one before it was added or removed"
            found.breaks.append(Break(fix.run_id, None, None, said))
            return


def _walk_events(using: str, run: MigrationRun, found: Walk) -> None:
    """Compute the links of a run's events anew, and compare its status with the latest that they say.

    Those written before there were links come first and have none.
    """
    link, changes = "", []
    for event in RunEvent.objects.using(using).filter(run=run).order_by("pk"):
        if event.kind in _OF_STATUS:
            changes.append(event)
        if not (event.link or link):
            continue
        link = chain.next_event_link(link or chain.first_event_link(run.said()), event.said())
        if event.link != link:
            said = (
                f"event {event.pk} is not what was written, one before it was added or removed, or the run was changed"
            )
            found.breaks.append(Break(run.pk, None, None, said))
            return
    if link and not _has_status(run, changes):
        said = f"the run is {run.status_words}, and that is not what its events say"
        found.breaks.append(Break(run.pk, None, None, said))


#: The kinds of events that a change of status leaves, and those that say why a run ended.
_OF_STATUS: Final = {EventKind.STARTED, *(state.event for state in RUN_STATES.values() if state.event is not None)}
_OF_END: Final = (EventKind.STOPPED, EventKind.BREAKER_TRIPPED, EventKind.FINISHED)


def _has_status(run: MigrationRun, changes: Sequence[RunEvent]) -> bool:
    """Say whether a run's status and the reason of its end are those that its events say."""
    if not changes:
        return False
    latest = changes[-1]
    possible = [status for status, state in RUN_STATES.items() if state.event == latest.kind]
    if latest.kind == EventKind.FINISHED:
        possible = [RunStatus.FAILED if latest.message else RunStatus.COMPLETED]
    elif latest.kind == EventKind.STARTED:
        ends_at_once = run.kind == RunKind.IMPORT or run.options.get("users")  # an import, a run of selected users
        possible = [RunStatus.COMPLETED if ends_at_once else RunStatus.RUNNING]
    if RunStatus.RUNNING in possible:
        possible.append(RunStatus.CHECKING)  # of which there is no event
    ends = [event.message for event in changes if event.kind in _OF_END]
    return run.status in possible and run.stop_reason == (ends[-1] if ends else "")


def forgets(run: MigrationRun) -> bool:
    """Say whether a run deleted the records of the users it rolled back."""
    return run.deletes_records


def _users_rolled_back(using: str, run: MigrationRun) -> int:
    loose = MigrationBatch.objects.using(using).filter(run=run, folded=False, status=BatchStatus.DONE)
    more: int | None = loose.aggregate(users=models.Sum("rolled_back"))["users"]
    return int(run.folded.get("totals", {}).get("rolled_back", 0)) + (more or 0)


def _walk_run(using: str, run: MigrationRun, found: Walk, expected: str, reversed_runs: Sequence[int]) -> bool:
    """Compute the links of a run's batches anew; return whether they hold."""
    known = run.folded.get("chain", {})
    head, number = first_link(run), 0
    if expected and head == expected:
        found.met = (run.pk, 0)
    summed = connections[using].vendor == "postgresql"  # there no line is read unless a digest differs
    for page in linked_pages(using, run, users=PAGE_SUMMED if summed else PAGE_USERS):
        lines = {} if forgets(run) else _suspects(using, page, reversed_runs)
        for batch in page:
            number += 1
            head = chain.next_link(head, number, batch["digest"], batch)
            if batch["number"] != number or batch["link"] != head:
                said = (
                    f"batch {batch['id']} is not what was linked as number {number}: its figures or its place changed"
                )
                found.breaks.append(Break(run.pk, batch["id"], None, said))
                return False
            if expected and head == expected:
                found.met = (run.pk, number)
            broken = _compare(using, run.pk, batch, lines[batch["id"]], found) if batch["id"] in lines else None
            if broken is not None:
                found.breaks.append(broken)
                return False
    if number != known.get("links", 0) or (number and head != known.get("head")):
        said = f"the chain ends at link {number:,}, not as the run says at {known.get('links', 0):,}"
        found.breaks.append(Break(run.pk, None, None, f"{said}: batches were added or removed"))
        return False
    unlinked = MigrationBatch.objects.using(using).filter(run=run, status=BatchStatus.DONE, number=None)
    found.undigested += unlinked.filter(digest="").count()
    loose = unlinked.exclude(digest="")
    if not run.is_open and loose.exists():
        first = loose.order_by("pk").values_list("pk", flat=True)[0]
        found.breaks.append(Break(run.pk, first, None, f"batch {first} is done and in no chain"))
        return False
    if number:
        found.heads.append(Head(run.pk, number, head))
    return True


def linked_pages(using: str, run: MigrationRun, *, users: int = PAGE_USERS) -> Iterator[list[dict[str, Any]]]:
    """Yield the linked batches of a run in the order of their links, with about as many users at a time."""
    after = 0
    while True:
        batches = MigrationBatch.objects.using(using).filter(run=run, number__gt=after).order_by("number")
        page, held = [], 0
        for batch in batches.values(*_COLUMNS)[:PAGE_BATCHES]:
            page.append(batch)
            held += batch["selected"]
            if held >= users:
                break
        if not page:
            return
        yield page
        after = page[-1]["number"]


def lines_by_batch(using: str, page: list[dict[str, Any]]) -> dict[int, list[Line]]:
    """Return the lines of each of these batches of one run by its id."""
    lines = lines_of(connections[using], [batch["id"] for batch in page]) if page else []
    found = {batch: list(group) for batch, group in groupby(lines, key=lambda line: line.batch)}
    return {batch["id"]: found.get(batch["id"], []) for batch in page}


def _suspects(using: str, page: list[dict[str, Any]], reversed_runs: Sequence[int]) -> dict[int, list[Line]]:
    """Return the lines of those batches of a page that must be compared: on PostgreSQL, where digests differ."""
    unchanged: set[int] = set()
    if connections[using].vendor == "postgresql":
        unchanged = unchanged_batches(connections[using], [batch["id"] for batch in page], reversed_runs)
    return lines_by_batch(using, [batch for batch in page if batch["id"] not in unchanged])


def _compare(using: str, run: int, batch: dict[str, Any], lines: list[Line], found: Walk) -> Break | None:
    """Compare a batch's digest with its records; name the first that is not what was written."""
    if not batch["digest"]:
        found.undigested += 1  # its link would not hold if its digest had only been taken away
        return None
    if chain.digest(line.line for line in lines) == batch["digest"]:
        return None
    for line in changed_lines(connections[using], lines)[:1]:
        return Break(run, batch["id"], line.record, f"record {line.record} is not what was written")
    missing = batch["selected"] - len(lines)
    if missing > 0:
        found.unseen += missing
        return None
    what = f"{-missing:,} records were added to it" if missing else "a record was rewritten together with its mark"
    return Break(run, batch["id"], None, f"the digest of batch {batch['id']} is not that of its records: {what}")
