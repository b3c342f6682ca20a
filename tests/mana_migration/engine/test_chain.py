"""The tamper evidence on real tables: what is written fits, and whatever is changed behind our back is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from mana_migration import guards
from mana_migration.domain import chain as encoding
from mana_migration.engine import chain, planning
from mana_migration.models import MigrationBatch, MigrationRun, UserMigration
from mana_migration.states import BatchStatus
from tests.factories import make_wallets
from tests.mana_migration.running import migrate, people, roll_back, told
from tests.support.commands import run_command
from wishes import services

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def unguarded() -> Iterator[None]:
    """Let what the database refuses happen, as somebody with all rights could."""
    guards.uninstall(connection)
    try:
        yield
    finally:
        guards.install(connection)


def execute(sql: str, *parameters: object) -> None:
    """Change the tables behind everybody's back."""
    with unguarded(), connection.cursor() as cursor:
        cursor.execute(sql, parameters)


def mark_of(line: str) -> str:
    """Return the mark that this database gives to a line."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {chain.mark_sql(connection.vendor, 'CAST(%s AS text)')}", [line])
        return str(cursor.fetchone()[0])


def broken(run: int | None = None) -> encoding.Break:
    """Return the one break that a walk finds."""
    (found,) = chain.walk("default", run=run).breaks
    return found


@pytest.fixture
def run() -> int:
    """Migrate eleven users, one of them not convertible, in batches of three."""
    make_wallets([(3, 2, 1)] * 8 + [(0, 0, 0)] * 2)
    make_wallets([(-1, 0, 0)])
    return int(migrate("--batch-size", 3, "--skip-invalid", code=3)["run"])


def test_every_batch_has_the_digest_of_its_records_and_every_run_its_head(run: int) -> None:
    batches = list(MigrationBatch.objects.filter(run=run, status=BatchStatus.DONE).order_by("number"))
    assert [batch.number for batch in batches] == list(range(1, len(batches) + 1))
    assert len(batches) >= 4
    for batch in batches:
        records = UserMigration.objects.filter(batch=batch).order_by("user_id")
        lines = [
            f"record|{run}|{'converted' if record.status == 'migrated' else 'skipped'}|{record.green}|{record.blue}|"
            f"{record.red}|{record.mana_before}|{record.mana_credited}|{record.error_class}|{record.user_id}"
            for record in records
        ]
        assert encoding.digest(lines) == batch.digest
        assert [mark_of(line) for line in lines] == [record.mark for record in records]
    (head,) = chain.walk("default").heads
    assert (head.run, head.links, head.head) == (run, len(batches), batches[-1].link)
    assert MigrationRun.objects.get(pk=run).folded["chain"] == {"links": head.links, "head": head.head}


def test_a_digest_is_in_the_order_of_keys_wherever_the_rows_lie() -> None:
    keys = people(40)
    with connection.cursor() as cursor:
        for key in [*keys[::-3], *keys[1::7]]:  # a row that is written again goes to the end of the table
            cursor.execute("UPDATE wishes_wallet SET green = green + 1 WHERE user_id = %s", [key])
    migrate("--batch-size", 40)
    roll_back("--all")
    walk = chain.walk("default")
    assert not walk.breaks
    assert len(walk.heads) == 2


def test_rollbacks_shortfalls_named_users_and_imports_have_chains_that_hold(run: int) -> None:
    first = UserMigration.objects.filter(status="migrated", mana_credited__gt=0).order_by("pk")[0].user_id
    services.spend_mana(first, 1_000, reference="shop")
    roll_back("--user-id", f"pk:{first}", code=3)
    roll_back("--user-id", f"pk:{first + 1}")
    migrate("--user-id", f"pk:{first + 1}")
    roll_back("--all", code=3)
    roll_back("--all", "--on-shortfall", "write-off")
    migrate("--skip-invalid", code=3)
    walk = chain.walk("default")
    assert not walk.breaks
    assert [head.run for head in walk.heads] == list(MigrationRun.objects.order_by("pk").values_list("pk", flat=True))


@pytest.mark.parametrize(
    "column", ["green", "blue", "red", "mana_before", "mana_credited", "error_class", "status", "user_id", "mark"]
)
def test_a_changed_record_is_named(run: int, column: str) -> None:
    record = UserMigration.objects.filter(run=run, status="migrated").order_by("pk")[4]
    value = {"error_class": "'x'", "status": "'failed'", "mark": "'0123456789abcdef'"}.get(column, f"{column} + 1")
    if column == "user_id":
        execute("DELETE FROM mana_migration_usermigration WHERE run_id = %s AND user_id = %s", run, record.user_id + 1)
    execute(f"UPDATE mana_migration_usermigration SET {column} = {value} WHERE id = %s", record.pk)
    if column == "mark":  # it proves nothing, so that nothing is wrong but itself
        assert not chain.walk("default").breaks
        return
    found = broken()
    assert (found.run, found.batch, found.record) == (run, record.batch_id, record.pk)
    assert f"record {record.pk} is not what was written" in found.reason


@pytest.mark.parametrize("column", ["green", "mana_debited", "shortfall", "run_id"])
def test_a_changed_reversal_is_named(run: int, column: str) -> None:
    back = roll_back("--all")["run"]
    record = UserMigration.objects.filter(reversal_run=back).order_by("pk")[3]
    execute(f"UPDATE mana_migration_usermigration SET {column} = {column} + 1 WHERE id = %s", record.pk)
    found = broken(back)
    assert (found.run, found.batch, found.record) == (back, record.reversal_batch_id, record.pk)


def test_a_record_rewritten_together_with_its_mark_is_known_by_its_batch(run: int) -> None:
    record = UserMigration.objects.filter(run=run, status="migrated", green=3).order_by("pk")[0]
    line = encoding.record_line(
        run=run, outcome="converted", green=4, blue=2, red=1, mana_before=0, mana_credited=1240, error_class="",
        user=str(record.user_id),
    )  # fmt: skip
    execute(
        "UPDATE mana_migration_usermigration SET green = 4, mana_credited = 1240, mark = %s WHERE id = %s",
        mark_of(line),
        record.pk,
    )
    found = broken()
    assert (found.batch, found.record) == (record.batch_id, None)
    assert "rewritten together with its mark" in found.reason


@pytest.mark.postgres
def test_postgresql_marks_with_the_hash_that_it_keeps_its_own_indexes_by() -> None:
    # it must not change with a release, or marks that were written before would say nothing
    assert mark_of("record|7|converted|3|2|1|0|1230||42") == "4703292550411a77"


def test_a_changed_record_is_named_among_marks_of_a_release_that_used_sha_256(run: int) -> None:
    lines = chain.lines_of(connection, list(MigrationBatch.objects.filter(run=run).values_list("pk", flat=True)))
    for line in lines:
        execute(
            "UPDATE mana_migration_usermigration SET mark = %s WHERE id = %s", encoding.mark(line.line), line.record
        )
    changed = lines[4].record
    execute("UPDATE mana_migration_usermigration SET green = green + 1 WHERE id = %s", changed)
    assert broken().record == changed


def test_a_record_that_is_gone_or_made_up_is_known(run: int) -> None:
    record = UserMigration.objects.filter(run=run, status="migrated").order_by("pk")[0]
    execute("DELETE FROM mana_migration_usermigration WHERE id = %s", record.pk)
    assert "1 records are gone, and rollbacks deleted 0" in broken().reason


@pytest.mark.parametrize("column", [*encoding.LINKED_FIGURES, "digest", "link", "number"])
def test_a_changed_batch_is_named(run: int, column: str) -> None:
    batch = MigrationBatch.objects.filter(run=run, number=2).get()
    value = {"digest": f"'{'a' * 64}'", "link": f"'{'b' * 64}'", "number": "9999"}.get(column, f"{column} + 1")
    also = ", selected = selected + 1" if column in ("migrated", "rolled_back", "skipped", "failed") else ""
    also += ", migrated = migrated + 1" if column == "selected" else ""
    execute(f"UPDATE mana_migration_migrationbatch SET {column} = {value}{also} WHERE id = %s", batch.pk)
    found = broken()
    # without it, the next one hangs in the air
    named = batch.pk if column != "number" else MigrationBatch.objects.get(run=run, number=3).pk
    assert (found.run, found.batch) == (run, named)


@pytest.mark.parametrize(
    "change",
    ['rates = \'{"green": 11, "blue": 100, "red": 1000}\'', "options = '{}'", "kind = 'import'"],
)
def test_what_was_frozen_cannot_be_changed_unnoticed(run: int, change: str) -> None:
    execute(f"UPDATE mana_migration_migrationrun SET {change} WHERE id = %s", run)
    assert broken().batch == MigrationBatch.objects.get(run=run, number=1).pk


def test_a_chain_cut_short_is_seen_by_the_run_and_a_whole_rewrite_by_a_head_kept_elsewhere(run: int) -> None:
    (head,) = chain.walk("default").heads
    execute("UPDATE mana_migration_migrationbatch SET number = NULL, link = '' WHERE run_id = %s AND number = %s",
            run, head.links)  # fmt: skip
    assert "not as the run says" in broken().reason
    stored = MigrationRun.objects.get(pk=run)
    last = MigrationBatch.objects.get(run=run, number=head.links - 1)
    stored.folded["chain"] = {"links": last.number, "head": last.link}
    stored.save(update_fields=["folded"])
    assert "is done and in no chain" in broken().reason
    execute("DELETE FROM mana_migration_migrationbatch WHERE run_id = %s AND number IS NULL", run)
    assert not chain.walk("default").breaks
    (lost,) = chain.walk("default", expected=head.head).breaks
    assert head.head in lost.reason


def test_a_database_from_before_the_chain_is_upgraded_and_its_old_batches_are_counted(tmp_path: Path) -> None:
    people(7)
    try:
        call_command("migrate", "mana_migration", "0002", verbosity=0)
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO mana_migration_migrationrun (kind, status, options, rates, controls, actor, host, reason, "
                "stop_reason, baseline, cursor, look, planned_users, folded, created_at, finished_at) VALUES "
                "('migration', 'completed', '{}', '{}', '{}', '', '', '', '', '{}', '', 1, 0, '{}', %s, %s)",
                [*2 * [connection.ops.adapt_datetimefield_value(timezone.now())]],
            )
            cursor.execute("SELECT MAX(id) FROM mana_migration_migrationrun")
            ((old,),) = cursor.fetchall()
            planning.write_batches(connection, old, [planning.Slice("1", "1", 1)])
            cursor.execute("UPDATE mana_migration_migrationbatch SET status = 'done'")
    finally:
        call_command("migrate", "mana_migration", verbosity=0)
    assert not guards.faults(connection)
    migrate("--batch-size", 3)
    walk = chain.walk("default")
    assert (walk.breaks, walk.undigested, len(walk.heads)) == ([], 1, 1)
    said = run_command("validate_migration", "--post-migration").out
    assert "1 batch done before there were digests could not be compared" in said
    refused = run_command("archive_runs", "--run", old, "--output", tmp_path)
    assert (refused.code, list(tmp_path.iterdir())) == (1, [])


def test_records_deleted_on_request_cannot_be_compared_and_are_counted() -> None:
    people(7)
    migrate("--batch-size", 3)
    roll_back("--all", "--no-preserve-logs")
    walk = chain.walk("default")
    assert (walk.breaks, walk.unseen) == ([], 7)


def test_a_head_that_was_kept_is_found_again_after_more_was_done(run: int) -> None:
    middle = MigrationBatch.objects.get(run=run, number=2).link
    roll_back("--all")
    found = told(run_command("validate_migration", "--post-migration", "--format", "json", "--chain-head", middle))
    assert [head["run"] for head in found["chains"]] == [run, run + 1]
    text = run_command("validate_migration", "--post-migration", "--chain-head", middle.upper())
    assert text.code == 0
    assert f"the head that was given is link 2 of run {run}: all before it is as it was" in text.out
    assert f"chain:   run {run}, " in text.out


def test_validation_names_the_first_record_that_was_changed(run: int) -> None:
    record = UserMigration.objects.get(run=run, status="skipped")
    execute("UPDATE mana_migration_usermigration SET error_class = 'overflow' WHERE id = %s", record.pk)
    result = run_command("validate_migration", "--post-migration", "--format", "json")
    assert result.code == 3
    found = json.loads(result.out)
    (finding,) = [finding for finding in found["findings"] if finding["check"] == "digest_mismatch"]
    assert (finding["record"], finding["run"], finding["figures"]) == (record.pk, run, {"batch": record.batch_id})
    before = json.loads(run_command("validate_migration", "--pre-migration", "--format", "json").out)
    assert "digest_mismatch" not in [check["id"] for check in before["checks"]]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--chain-head", "abc"], "64 hex digits"),
        (["--chain-head", "a" * 64, "--pre-migration"], "--post-migration"),
        (["--chain-head", "a" * 64, "--user-id", "1"], "--post-migration"),
    ],
)
def test_a_head_that_cannot_be_looked_for_is_refused(argv: list[str], words: str) -> None:
    result = run_command("validate_migration", *argv)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
