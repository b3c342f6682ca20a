"""An import brings in exactly the good rows, once, whole or not at all, and says what it did."""

import csv
import json
import sqlite3
import stat
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from django.contrib.auth import get_user_model
from django.db import connection, transaction
from django.utils import timezone

from mana_migration.domain.import_results import ImportOptions, ImportSummary
from mana_migration.domain.legacy import UnpaidFlag
from mana_migration.engine import totals
from mana_migration.errors import ImportRejectedError, ReportError, RunConflictError, SourceError, UsageError
from mana_migration.models import IntegrityFix, MigrationBatch, MigrationRun, RunEvent, UserMigration
from mana_migration.services import imports
from mana_migration.services.context import Actor
from mana_migration.states import RunKind, RunStatus
from tests.support.databases import call_names_equal
from tests.support.oracle import assert_books_balance, assert_nothing_changes
from wishes.models import ManaEntry, Wallet

pytestmark = pytest.mark.django_db

HEADER = ["id", "name", "green_balance", "blue_balance", "red_balance", "mana_balance", "legacy_migration_completed"]
ACTOR = Actor("tester", "host")
LIMIT = 2**63 - 1


@pytest.fixture
def export(tmp_path: Path) -> Any:
    """Return a function that writes rows (id, green, blue, red, mana, flag) to a CSV file."""

    def write(*rows: tuple[Any, ...], name: str = "export.csv") -> Path:
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER)
            writer.writerows([row[0], f"Name of {row[0]}", *row[1:]] for row in rows)
        return tmp_path / name

    return write


def bring_in(path: Path, **options: Any) -> ImportSummary:
    return imports.import_balances(ImportOptions(source=str(path), **options), actor=ACTOR)


def wallets() -> dict[str, tuple[int, ...]]:
    name = f"user__{get_user_model().USERNAME_FIELD}"
    rows = Wallet.objects.values_list(name, "green", "blue", "red", "mana")
    return {username: (*balances,) for username, *balances in rows}


def wallet_of(username: str) -> Wallet:
    return Wallet.objects.get(**{f"user__{get_user_model().USERNAME_FIELD}": username})


def make_user(username: str) -> Any:
    return get_user_model().objects.create_user(username, password="kept")


# --- What arrives -----------------------------------------------------------------------------------------------------


def test_each_row_becomes_a_user_with_their_wallet(export: Any) -> None:
    done = bring_in(export(("a", 1, 2, 3, 0, "f"), ("b", -7, 0, 0, 0, "f"), ("57", 0, 0, 0, 5, "f")))
    assert wallets() == {"a": (1, 2, 3, 0), "b": (-7, 0, 0, 0), "57": (0, 0, 0, 5)}
    assert (done.rows, done.imported, done.bad, done.status) == (3, 3, 0, "completed")
    assert done.wallets["created"] == 3
    assert done.balances == {"green": -6, "blue": 2, "red": 3, "mana": 5}
    assert not Wallet.objects.exclude(migrated_at=None).exists()
    assert not UserMigration.objects.exists()


def test_new_users_cannot_sign_in_and_have_nothing_in_common(export: Any) -> None:
    bring_in(export(*((f"u{number}", 0, 0, 0, 0, "f") for number in range(50))))
    users = get_user_model().objects.all()
    assert len({user.password for user in users}) == 50
    assert not any(user.has_usable_password() for user in users)
    assert all(user.is_active and not user.is_staff and not user.is_superuser for user in users)
    assert all(abs((timezone.now() - user.date_joined).total_seconds()) < 60 for user in users)


def test_names_are_not_brought_in(export: Any) -> None:
    bring_in(export(("a", 0, 0, 0, 0, "f")))
    user = get_user_model().objects.get()
    assert "Name" not in "".join(map(str, [user.first_name, user.last_name, user.email]))


def test_mana_of_an_unmigrated_user_arrives_unbacked(export: Any) -> None:
    bring_in(export(("a", 1, 0, 0, 500, "f")))
    assert wallets() == {"a": (1, 0, 0, 500)}
    assert not ManaEntry.objects.exists()
    user = wallet_of("a").pk
    assert_books_balance(orphans=[user])


def test_nulls_count_as_nothing_and_are_counted(export: Any) -> None:
    done = bring_in(export(("a", "", "", 3, "", ""), ("b", 1, "", 0, 0, "f")))
    assert wallets() == {"a": (0, 0, 3, 0), "b": (1, 0, 0, 0)}
    assert done.nulls == {"green": 1, "blue": 2, "red": 0, "mana": 1, "migrated": 1}


def test_balances_at_the_limits_are_exact(export: Any) -> None:
    rows = [(f"u{number}", LIMIT, -LIMIT - 1, 0, LIMIT, "f") for number in range(3)]
    done = bring_in(export(*rows))
    assert set(wallets().values()) == {(LIMIT, -LIMIT - 1, 0, LIMIT)}
    assert done.balances == {"green": 3 * LIMIT, "blue": -3 * (LIMIT + 1), "red": 0, "mana": 3 * LIMIT}


def test_ids_with_special_characters_arrive_as_they_are(export: Any) -> None:
    names = [
        "back\\slash",
        "quo'te",
        'dou"ble',
        "per%cent",
        "@1+1",
        "Ünïcödé",
        "\U0001f469\u200d\U0001f680",
        "a,b",
        "\\.",
    ]
    bring_in(export(*((name, 1, 0, 0, 0, "f") for name in names)))
    assert set(wallets()) == set(names)


def test_a_source_without_rows_is_fine(export: Any) -> None:
    done = bring_in(export())
    assert (done.rows, done.imported, done.run) == (0, 0, None)
    assert not MigrationRun.objects.exists()


# --- Users whom the old system had migrated ---------------------------------------------------------------------------


def test_flagged_users_arrive_migrated_with_an_opening_entry_and_a_record(export: Any) -> None:
    done = bring_in(export(("a", 5, 0, 2, 700, "t"), ("b", 0, 0, 0, 0, "t"), ("c", 1, 1, 1, 0, "f")))
    assert wallets() == {"a": (0, 0, 0, 700), "b": (0, 0, 0, 0), "c": (1, 1, 1, 0)}
    wallet = wallet_of("a")
    assert wallet.migrated_at is not None
    entry = ManaEntry.objects.get()
    key = ManaEntry.objects.values_list("user_id", flat=True).get()
    assert (entry.user_id, entry.kind, entry.amount, entry.balance_after) == (wallet.pk, "opening", 700, 700)
    assert entry.reference.startswith("opening:")
    record = UserMigration.objects.get(user=key)
    assert (record.status, record.mana_credited, record.mana_before) == ("migrated", 0, 0)
    assert (record.green, record.blue, record.red) == (0, 0, 0)
    assert record.error_message == "legacy wishes left in place: 5 green, 0 blue, 2 red"
    assert UserMigration.objects.get(user=wallet_of("b").pk).error_message == ""
    assert not UserMigration.objects.filter(user=wallet_of("c").pk).exists()
    assert (done.flagged, done.migrated) == (2, 2)
    assert done.left_behind == {"green": 5, "blue": 0, "red": 2}
    assert done.balances == {"green": 1, "blue": 1, "red": 1, "mana": 700}
    assert_books_balance()


def test_an_import_is_recorded_as_a_completed_run_with_the_figures_of_its_batch(export: Any) -> None:
    done = bring_in(export(("a", 5, 0, 2, 700, "t"), ("b", 0, 0, 0, 9, "t"), ("c", 1, 1, 1, 0, "f")))
    run = MigrationRun.objects.get()
    assert (run.pk, run.kind, run.status, run.actor) == (done.run, RunKind.IMPORT, RunStatus.COMPLETED, "tester")
    assert run.finished_at is not None
    assert run.expected == run.planned_users == 2
    assert run.baseline == {"imported": {"users": "3", "green": "1", "blue": "1", "red": "1", "mana": "709"}}
    batch = MigrationBatch.objects.get()
    assert (batch.status, batch.selected, batch.migrated, batch.mana) == ("done", 2, 2, 0)
    assert {batch.first_user, batch.last_user} == {str(wallet_of("a").pk), str(wallet_of("b").pk)}
    figures = totals.run_totals(run, "default")
    assert (figures.selected, figures.migrated, figures.mana) == (2, 2, 0)
    assert RunEvent.objects.filter(run=run).exists()


def test_the_batches_of_an_import_have_the_time_of_the_database(export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = timezone.now() - timedelta(hours=3)
    monkeypatch.setattr(imports.runs, "database_now", lambda using: moment)
    bring_in(export(("a", 1, 2, 3, 3210, "t")))
    assert MigrationBatch.objects.values_list("started_at", "finished_at").get() == (moment, moment)


def test_what_is_recorded_of_the_source_holds_no_address(export: Any) -> None:
    path = export(("a", 1, 0, 0, 0, "f"))
    bring_in(path)
    assert "export" not in str(MigrationRun.objects.get().options)
    assert MigrationRun.objects.get().options["source"] == "csv"
    assert "secret" not in repr(ImportOptions(source="postgres://u:secret@h/n"))


@pytest.mark.parametrize(
    ("unpaid", "wallet", "migrated"),
    [(UnpaidFlag.MIGRATED, (0, 0, 0, 0), True), (UnpaidFlag.PENDING, (5, 0, 0, 0), False)],
)
def test_a_flag_without_payment_is_what_the_operator_says(
    export: Any, unpaid: UnpaidFlag, wallet: tuple[int, ...], migrated: bool
) -> None:
    done = bring_in(export(("a", 5, 0, 0, 0, "t")), unpaid=unpaid)
    assert wallets() == {"a": wallet}
    assert (wallet_of("a").migrated_at is not None) == migrated
    assert (done.flagged, done.unpaid, done.migrated) == (1, 1, int(migrated))
    assert_books_balance()


def test_a_flag_without_payment_stops_the_import_unless_the_operator_says_what_it_means(export: Any) -> None:
    with assert_nothing_changes():
        done = bring_in(export(("a", 5, 0, 0, 0, "t")))
    assert done.status == "rejected"
    assert done.reasons == {"flagged_unpaid": 1}


# --- Bad rows ---------------------------------------------------------------------------------------------------------

BAD = [
    ("good", 1, 2, 3, 0, "f"),
    ("", 1, 0, 0, 0, "f"),
    ("text", "twelve", 0, 0, 0, "f"),
    ("fraction", "1.5", 0, 0, 0, "f"),
    ("not finite", 0, "NaN", 0, 0, "f"),
    ("range", 0, 0, 2**63, 0, "f"),
    ("mana", 0, 0, 0, -1, "f"),
    ("flag", 0, 0, 0, 0, "perhaps"),
    ("good", 9, 9, 9, 0, "f"),
    ("text", 1, 0, 0, 0, "f"),
    ("x" * 200, 1, 0, 0, 0, "f"),
    ("also good", 1, 0, 0, 0, "f"),
]


def test_nothing_is_imported_while_there_are_bad_rows(export: Any) -> None:
    with assert_nothing_changes():
        done = bring_in(export(*BAD))
    assert (done.status, done.imported, done.bad, done.rows) == ("rejected", 0, 10, 12)


def test_every_bad_row_is_listed_with_its_number_and_reason(export: Any) -> None:
    done = bring_in(export(*BAD))
    assert {row.row: row.reasons for row in done.rejected} == {
        2: ("missing_id",),
        3: ("not_a_number",),
        4: ("fraction",),
        5: ("not_finite",),
        6: ("out_of_range",),
        7: ("negative_mana",),
        8: ("unknown_flag",),
        9: ("duplicate_id",),
        10: ("duplicate_id",),
        11: ("id_too_long",),
    }
    assert [row.line for row in done.rejected] == [row.row + 1 for row in done.rejected]
    assert done.reasons["duplicate_id"] == 2
    assert sum(done.reasons.values()) == 10


def test_the_good_rows_are_imported_if_the_bad_ones_are_to_be_skipped(export: Any) -> None:
    done = bring_in(export(*BAD), skip_bad_rows=True)
    assert wallets() == {"good": (1, 2, 3, 0), "also good": (1, 0, 0, 0)}
    assert (done.status, done.imported, done.bad) == ("completed", 2, 10)


def test_a_duplicate_names_the_first_row_with_its_id_even_if_that_one_is_bad(export: Any) -> None:
    done = bring_in(export(*BAD))
    messages = {row.row: row.message for row in done.rejected}
    assert messages[9] == "id: duplicate id, first seen in row 1"
    assert messages[10] == "id: duplicate id, first seen in row 3"


def test_a_bad_row_that_is_a_duplicate_too_says_both(export: Any) -> None:
    done = bring_in(export(("a", 0, 0, 0, 0, "f"), ("a", "x", 0, 0, 0, "f")))
    assert done.rejected[0].reasons == ("not_a_number", "duplicate_id")
    assert done.bad == 1


def test_only_the_first_twenty_bad_rows_are_kept_to_be_shown(export: Any, tmp_path: Path) -> None:
    rows = [(f"u{number}", "x", 0, 0, 0, "f") for number in range(3000)]
    done = bring_in(export(*rows), rejects=tmp_path / "rejects.csv")
    assert len(done.rejected) == 20
    assert done.bad == done.reasons["not_a_number"] == 3000
    with (tmp_path / "rejects.csv").open() as file:
        assert [row["row"] for row in csv.DictReader(file)] == [str(number) for number in range(1, 3001)]


def test_the_rejected_rows_are_written_without_names_or_formulas_for_the_operator_alone(
    export: Any, tmp_path: Path
) -> None:
    path = tmp_path / "rejects.csv"
    rows = [("=1+1", "x", 0, 0, 0, "f"), ("@sum", "Name of victim", 0, 0, 0, "f"), (" \x1b[31m", 0, 0, 0, 0, "f")]
    done = bring_in(export(*rows), rejects=path)
    assert done.rejects == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["id"] for row in found] == ["'=1+1", "'@sum", " \ufffd[31m"]
    assert [row["line"] for row in found] == ["2", "3", "4"]
    assert "Name" not in path.read_text(encoding="utf-8")


def test_no_file_is_left_where_nothing_was_rejected(export: Any, tmp_path: Path) -> None:
    done = bring_in(export(("a", 1, 0, 0, 0, "f")), rejects=tmp_path / "rejects.csv")
    assert done.rejects is None
    assert [path.name for path in tmp_path.iterdir()] == ["export.csv"]


@pytest.mark.parametrize("what", ["file", "link", "folder"])
def test_a_list_of_rejected_rows_never_replaces_anything(export: Any, tmp_path: Path, what: str) -> None:
    path = tmp_path / "rejects.csv"
    if what == "file":
        path.write_text("precious")
    elif what == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path = tmp_path / "none" / "rejects.csv"
    with assert_nothing_changes(), pytest.raises(ReportError):
        bring_in(export(("a", 1, 0, 0, 0, "f"), ("b", "x", 0, 0, 0, "f")), rejects=path, skip_bad_rows=True)
    assert what != "file" or path.read_text() == "precious"
    assert not (tmp_path / "elsewhere").exists()


def test_a_source_that_breaks_off_imports_nothing(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    entry = json.dumps(dict(zip(HEADER, ["u{}", "n", 1, 2, 3, 0, False], strict=True)))
    path.write_text("[" + ",".join(entry.replace("{}", str(number)) for number in range(5000)))
    with assert_nothing_changes(), pytest.raises(SourceError, match=r"entry 5,001: not JSON"):
        bring_in(path, skip_bad_rows=True)


# --- Users who are there already --------------------------------------------------------------------------------------

ROWS = [("a", 1, 2, 3, 0, "f"), ("b", 0, 0, 0, 70, "t"), ("c", 0, 0, 0, 0, "t"), ("d", 0, 0, 0, 500, "f")]


def test_importing_twice_changes_nothing(export: Any) -> None:
    path = export(*ROWS)
    bring_in(path)
    with assert_nothing_changes():
        done = bring_in(path)
    assert (done.imported, done.wallets["unchanged"], done.run) == (0, 4, None)


def test_importing_more_rows_later_brings_in_the_new_ones_alone(export: Any) -> None:
    bring_in(export(*ROWS))
    before = wallets()
    done = bring_in(export(*ROWS, ("e", 9, 0, 0, 0, "f"), ("f", 1, 0, 0, 5, "t")))
    assert (done.wallets["created"], done.wallets["unchanged"]) == (2, 4)
    assert wallets() == before | {"e": (9, 0, 0, 0), "f": (0, 0, 0, 5)}
    assert_books_balance(orphans=[wallet_of("d").pk])


def test_a_user_without_a_wallet_is_given_one_and_stays_who_they_are(export: Any) -> None:
    user = make_user("a")
    done = bring_in(export(("a", 1, 2, 3, 0, "f"), ("b", 1, 0, 0, 5, "t")))
    assert (done.wallets["given"], done.wallets["created"]) == (1, 1)
    assert wallet_of("a").pk == user.pk
    user.refresh_from_db()
    assert user.check_password("kept")


def test_a_wallet_that_differs_is_left_as_it_is_unless_it_is_to_be_overwritten(export: Any) -> None:
    Wallet.objects.create(user=make_user("a"), green=5)
    Wallet.objects.create(user=make_user("b"), green=5)
    path = export(("a", 1, 2, 3, 0, "f"), ("b", 9, 0, 0, 70, "t"))
    with assert_nothing_changes():
        done = bring_in(path)
    assert (done.wallets["differs"], done.imported) == (2, 0)
    done = bring_in(path, update_existing=True)
    assert (done.wallets["updated"], done.imported) == (2, 2)
    assert wallets() == {"a": (1, 2, 3, 0), "b": (0, 0, 0, 70)}
    # what came in is the difference, so that the sums over all wallets can be checked
    assert MigrationRun.objects.get().baseline["imported"] == {
        "users": "2", "green": "-9", "blue": "2", "red": "3", "mana": "70",
    }  # fmt: skip
    assert_books_balance()
    with assert_nothing_changes():
        assert bring_in(path, update_existing=True).wallets["unchanged"] == 2


def test_a_converted_wallet_is_never_overwritten(export: Any) -> None:
    bring_in(export(("a", 0, 0, 0, 70, "t")))
    with assert_nothing_changes():
        done = bring_in(export(("a", 5, 0, 0, 0, "f")), update_existing=True)
    assert (done.wallets["converted"], done.imported) == (1, 0)


def test_a_wallet_that_somebody_has_used_is_never_overwritten(export: Any) -> None:
    users = [make_user(name) for name in "abcd"]
    for user in users:
        Wallet.objects.create(user=user, green=5, mana=1)
    ManaEntry.objects.create(user=users[0], amount=1, balance_after=1, kind="earn", reference="r")
    IntegrityFix.objects.create(check_id="negative_balance", user=users[1], before={}, after={})
    run = MigrationRun.objects.create(kind=RunKind.MIGRATION, status=RunStatus.STOPPED, actor="x", host="x")
    batch = MigrationBatch.objects.create(run=run, first_user="a", last_user="b", planned=1)
    UserMigration.objects.create(user=users[2], run=run, batch=batch, status="failed")
    path = export(*((name, 9, 0, 0, 0, "f") for name in "abcd"))
    done = bring_in(path, update_existing=True)
    assert (done.wallets["in_use"], done.wallets["updated"]) == (3, 1)
    assert [wallets()[name][0] for name in "abcd"] == [5, 5, 5, 9]


# --- Dry runs, open runs ----------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_happen_and_writes_nothing(export: Any, tmp_path: Path) -> None:
    make_user("a")
    path = export(*ROWS)
    with assert_nothing_changes():
        told = bring_in(path, dry_run=True)
    done = bring_in(path)
    assert (told.imported, told.wallets, told.balances, told.migrated) == (
        done.imported, done.wallets, done.balances, done.migrated,
    )  # fmt: skip
    assert told.run is None


def test_a_dry_run_lists_the_bad_rows_in_a_file(export: Any, tmp_path: Path) -> None:
    with assert_nothing_changes():
        bring_in(export(*BAD), dry_run=True, skip_bad_rows=True, rejects=tmp_path / "r.csv")
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 11


@pytest.mark.postgres
def test_a_dry_run_cannot_write_even_by_mistake(export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_by_mistake(*args: Any, **options: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM wishes_wallet")

    monkeypatch.setattr(imports.import_load, "classify", write_by_mistake)
    with pytest.raises(imports.DatabaseUnavailableError, match="read-only transaction"), transaction.atomic():
        bring_in(export(*ROWS), dry_run=True)


def test_nothing_is_imported_under_an_open_run(export: Any) -> None:
    MigrationRun.objects.create(kind=RunKind.MIGRATION, status=RunStatus.RUNNING, actor="x", host="x")
    with assert_nothing_changes(), pytest.raises(RunConflictError, match="nothing was imported"):
        bring_in(export(*ROWS))
    assert bring_in(export(*ROWS), dry_run=True).imported == 4


def test_no_temporary_table_is_left(export: Any) -> None:
    bring_in(export(*ROWS))
    bring_in(export(*ROWS), dry_run=True)
    with connection.cursor() as cursor, pytest.raises(Exception, match="mana_import_staging"), transaction.atomic():
        cursor.execute("SELECT 1 FROM mana_import_staging")


@pytest.mark.slow
def test_ten_times_the_rows_take_no_more_memory(export: Any) -> None:
    def peak(count: int) -> int:
        rows = ((f"0000-{number:012}", number % 97, 0, 1, 0, "f") for number in range(count))
        path = export(*rows, name=f"{count}.csv")
        tracemalloc.start()
        try:
            assert bring_in(path, dry_run=True).imported == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(3_000)  # what is imported and cached once
    assert peak(30_000) < peak(3_000) + 1_000_000


# --- Which user an id is ----------------------------------------------------------------------------------------------


def numeric_users(*names: str) -> list[Any]:
    return [make_user(name) for name in names]


def test_ids_that_are_primary_keys_are_refused_until_their_meaning_is_said(export: Any) -> None:
    first, second = numeric_users("ann", "bob")
    path = export((first.pk, 1, 0, 0, 0, "f"), (second.pk, 2, 0, 0, 0, "f"))
    with assert_nothing_changes(), pytest.raises(ImportRejectedError, match=r"2 are primary keys .* 0 are usernames"):
        bring_in(path)
    assert bring_in(path, match="pk").wallets["given"] == 2
    assert wallets() == {"ann": (1, 0, 0, 0), "bob": (2, 0, 0, 0)}


def test_ids_that_are_usernames_as_well_as_primary_keys_are_refused_too(export: Any) -> None:
    first = make_user("ann")
    make_user(str(first.pk))
    with assert_nothing_changes(), pytest.raises(ImportRejectedError, match=r"1 are primary keys .* 1 are usernames"):
        bring_in(export((first.pk, 1, 0, 0, 0, "f")))
    bring_in(export((first.pk, 1, 0, 0, 0, "f")), match="username")
    assert wallets() == {str(first.pk): (1, 0, 0, 0)}


def test_later_imports_match_as_the_last_one_did(export: Any) -> None:
    path = export((1, 1, 0, 0, 0, "f"), (2, 2, 0, 0, 0, "f"))
    bring_in(path, match="username")
    done = bring_in(path)
    assert (done.match, done.wallets["unchanged"]) == ("username", 2)


def test_a_primary_key_of_no_user_is_a_bad_row(export: Any) -> None:
    user = make_user("ann")
    path = export((user.pk, 1, 0, 0, 0, "f"), (user.pk + 1, 2, 0, 0, 0, "f"), ("ann", 3, 0, 0, 0, "f"))
    with assert_nothing_changes():
        done = bring_in(path, match="pk")
    assert done.reasons == {"no_such_user": 2}
    assert bring_in(path, match="pk", skip_bad_rows=True).imported == 1
    assert wallets() == {"ann": (1, 0, 0, 0)}


# --- The old system's ledger ------------------------------------------------------------------------------------------

FLAGGED = [
    ("spent", 5, 0, 0, 0, "t"),
    ("never", 5, 0, 0, 0, "t"),
    ("twice", 5, 0, 0, 80, "t"),
    ("earned", 5, 0, 0, 70, "t"),
    ("unflagged", 5, 0, 0, 50, "f"),
    ("back", 5, 0, 0, 0, "f"),
    ("plain", 5, 0, 0, 0, "f"),
]
LEDGER = [
    ("spent", "migration", 50),
    ("spent", "shop", -50),
    ("twice", "migration", 50),
    ("twice", "migration", 50),
    ("earned", "migration", 50),
    ("unflagged", "migration", 50),
    ("back", "migration", 50),
    ("back", "migration_rollback", -50),
    ("stranger", "migration", 50),
]


def write_ledger(path: Path, rows: list[tuple[Any, ...]] = LEDGER) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("user_id", "transaction_category", "mana_amount"), *rows])
    return path


def test_the_old_ledger_tells_who_was_paid(export: Any, tmp_path: Path) -> None:
    ledger = write_ledger(tmp_path / "ledger.csv")
    done = bring_in(export(*FLAGGED), ledger=str(ledger), skip_bad_rows=True)
    assert done.ledger == {"entries": 8, "paid_and_spent": 1, "never_paid": 1, "paid_twice": 1, "paid_unflagged": 1}
    assert done.reasons == {"never_paid": 1, "paid_unflagged": 1}
    assert wallets() == {
        "spent": (0, 0, 0, 0), "twice": (0, 0, 0, 80), "earned": (0, 0, 0, 70), "back": (5, 0, 0, 0),
        "plain": (5, 0, 0, 0),
    }  # fmt: skip
    entries = {
        name: list(
            ManaEntry.objects.filter(user=wallet_of(name).pk)
            .order_by("pk")
            .values_list("kind", "amount", "balance_after")
        )
        for name in ("spent", "twice", "earned")
    }
    assert entries == {
        "spent": [("opening", 50, 50), ("spend", -50, 0)],
        "twice": [("opening", 100, 100), ("spend", -20, 80)],
        "earned": [("opening", 50, 50), ("earn", 20, 70)],
    }
    assert MigrationRun.objects.get().baseline["imported"]["mana"] == "200"
    assert_books_balance()
    with assert_nothing_changes():
        assert bring_in(export(*FLAGGED), ledger=str(ledger), skip_bad_rows=True).imported == 0


@pytest.mark.parametrize(
    ("unpaid", "balances"), [(UnpaidFlag.PENDING, (5, 0, 0, 0)), (UnpaidFlag.MIGRATED, (0, 0, 0, 0))]
)
def test_with_the_ledger_the_unpaid_flag_is_about_those_who_were_never_paid_alone(
    export: Any, tmp_path: Path, unpaid: UnpaidFlag, balances: tuple[int, ...]
) -> None:
    ledger = write_ledger(tmp_path / "ledger.csv")
    bring_in(export(*FLAGGED[:2]), ledger=str(ledger), unpaid=unpaid)
    assert wallets() == {"spent": (0, 0, 0, 0), "never": balances}


def test_a_dry_run_reads_the_old_ledger_too(export: Any, tmp_path: Path) -> None:
    with assert_nothing_changes():
        done = bring_in(export(*FLAGGED), ledger=str(write_ledger(tmp_path / "l.csv")), dry_run=True)
    assert done.ledger is not None
    assert done.ledger["paid_and_spent"] == 1


def test_an_old_ledger_that_is_not_clean_is_refused(export: Any, tmp_path: Path) -> None:
    ledger = write_ledger(tmp_path / "ledger.csv", [("spent", "migration", "fifty")])
    with assert_nothing_changes(), pytest.raises(SourceError, match=r"legacy ledger, row 1 \(line 2\), mana"):
        bring_in(export(*FLAGGED), ledger=str(ledger))


def test_the_old_ledger_is_a_table_beside_the_users(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite3"
    with sqlite3.connect(path) as legacy:
        legacy.execute(f"CREATE TABLE users ({', '.join(HEADER)})")
        legacy.executemany(
            "INSERT INTO users VALUES (?, 'n', ?, ?, ?, ?, ?)", [(*row[:5], row[5] == "t") for row in FLAGGED]
        )
        legacy.execute("CREATE TABLE transactions (user_id, transaction_category, mana_amount)")
        legacy.executemany("INSERT INTO transactions VALUES (?, ?, ?)", LEDGER)
    legacy.close()
    options = ImportOptions(source=f"sqlite:///{path}", ledger="transactions", skip_bad_rows=True)
    done = imports.import_balances(options, actor=ACTOR)
    assert done.ledger is not None
    assert done.ledger["paid_and_spent"] == 1
    assert wallets()["twice"] == (0, 0, 0, 80)


# --- Rejected rows that can be corrected and imported -----------------------------------------------------------------


def test_rejected_rows_with_their_values_are_imported_as_they_are_once_corrected(tmp_path: Path) -> None:
    path, rest = tmp_path / "export.csv", tmp_path / "rest.csv"
    path.write_text(
        ",".join(HEADER)
        + '\na,"Ann, A",5,0,0,0,f\nb,"=Bob ""B""","1,234",0,0,0,f\nc,C,1,0,0,0\nd,"D,1,0,0,0,f\n'
        + 'e,E"",2,0,0,0,f\na,X,9,0,0,0,f\n'
    )
    done = bring_in(path, skip_bad_rows=True, rejects_with_values=rest)
    assert (done.imported, done.rejects_with_values) == (2, str(rest))
    assert stat.S_IMODE(rest.stat().st_mode) == 0o600
    with rest.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["reason", *HEADER]
    assert [row[1:] for row in rows] == [
        ["b", '=Bob "B"', "1,234", "0", "0", "0", "f"],
        ["c", "C", "1", "0", "0", "0"],
        ["d", '"D', "1", "0", "0", "0", "f"],
        ["a", "X", "9", "0", "0", "0", "f"],
    ]
    assert "separators between its digits" in rows[0][0]
    text = rest.read_text().replace('"1,234"', "1234")
    rest.write_text("".join(line + "\n" for line in text.splitlines() if ",c,C" not in line and ",a,X" not in line))
    assert bring_in(rest).imported == 2
    assert wallets() == {"a": (5, 0, 0, 0), "b": (1234, 0, 0, 0), "d": (1, 0, 0, 0), "e": (2, 0, 0, 0)}


def test_both_files_of_rejected_rows_need_names_of_their_own(export: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two names"):
        bring_in(export(*BAD), rejects=tmp_path / "r.csv", rejects_with_values=tmp_path / "r.csv")


def test_what_is_no_value_of_a_workbook_cannot_be_imported_as_one_later(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.append(HEADER)
    book.active.append(["a", "n", "=1+1", 0, 0, 0, False])
    book.save(tmp_path / "e.xlsx")
    bring_in(tmp_path / "e.xlsx", rejects_with_values=tmp_path / "r.csv")
    assert bring_in(tmp_path / "r.csv").status == "rejected"


ANY_CASE = [
    *(pytest.param(how, marks=pytest.mark.postgres) for how in ("citext", "collation", "index")),
    pytest.param("nocase", marks=pytest.mark.sqlite),
]


@pytest.mark.parametrize("how", ANY_CASE)
def test_names_that_the_database_calls_equal_are_duplicates_and_find_their_user(export: Any, how: str) -> None:
    call_names_equal(how)
    first = bring_in(export(("alice", 1, 0, 0, 0, "f"), ("Alice", 2, 0, 0, 0, "f"), ("BOB", 3, 0, 0, 0, "f")))
    assert (first.status, [(row.row, row.message) for row in first.rejected]) == (
        "rejected",
        [(2, "id: duplicate id, first seen in row 1")],
    )
    path = export(("alice", 1, 0, 0, 0, "f"), ("BOB", 3, 0, 0, 0, "f"))
    assert bring_in(path).imported == 2
    again = bring_in(export(("ALICE", 5, 0, 0, 0, "f"), ("bob", 3, 0, 0, 0, "f")), update_existing=True)
    assert again.wallets["updated"] == 1
    assert wallets() == {"alice": (5, 0, 0, 0), "BOB": (3, 0, 0, 0)}


@pytest.mark.parametrize("how", ANY_CASE)
def test_payments_of_another_id_that_the_database_calls_equal_are_not_taken_for_a_users_own(
    export: Any, tmp_path: Path, how: str
) -> None:
    call_names_equal(how)
    ledger = write_ledger(tmp_path / "ledger.csv", [("alice", "migration", 50), ("Alice", "migration", 7)])
    bring_in(export(("alice", 0, 0, 0, 50, "t")), ledger=str(ledger))
    entries = ManaEntry.objects.order_by("id").values_list("kind", "amount")
    assert list(entries) == [("opening", 50)]
