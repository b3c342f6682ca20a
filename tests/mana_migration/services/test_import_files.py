"""Each file of tests/files, as people have them, gives exactly these users, bad rows or refusal, on either database."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model

from mana_migration.domain.import_results import ImportOptions, ImportSummary
from mana_migration.errors import SourceError
from mana_migration.services import imports
from mana_migration.services.runs import Actor
from wishes.models import Wallet

pytestmark = pytest.mark.django_db

FILES = Path(__file__).parents[2] / "files"
ANN, BOB = {"1001": (5, 1, 0, 0)}, {"1002": (7, 1, 0, 0)}

# name, options, wallets (green, blue, red, mana), bad rows: line -> reasons as code.shape
READ: list[tuple[str, dict[str, Any], dict[str, tuple[int, ...]], dict[int | None, list[str]]]] = [
    ("stray-quotes.csv", {}, {"1004": (1, 0, 0, 0)}, {2: ["spans_records."]}),
    ("quote-never-closed.csv", {}, BOB | {"1004": (1, 0, 0, 0)}, {2: ["broken_quotes."]}),
    (
        "mangled-ids.csv",
        {},
        {},
        {
            2: ["invalid_id.decimals"],
            3: ["invalid_id.null_word"],
            4: ["invalid_id.null_word"],
            5: ["invalid_id.error_cell"],
            6: ["invalid_id.date"],
            7: ["invalid_id.exponent"],
            8: ["invalid_id.total_word"],
        },
    ),
    (
        "mangled-ids.csv",
        {"literal_ids": True},
        dict.fromkeys(("1001.0", "NULL", "nan", "#N/A", "5-Mar", "1E+05", "Total"), (1, 0, 0, 0)),
        {},
    ),
    (
        "look-alikes.csv",
        {},
        {"Zo\u00eb": (1, 0, 0, 0)},
        {3: ["invalid_id.look_alike"], 4: ["invalid_id.invisible"], 5: ["invalid_id.look_alike"]},
    ),
    (
        "shapes.csv",
        {},
        {},
        {
            2: ["not_a_number.thousands"],
            3: ["not_a_number.null_word"],
            4: ["not_a_number.parentheses"],
            5: ["not_a_number.currency"],
            6: ["not_a_number.error_cell"],
            7: ["fraction.exponent"],
            8: ["fraction.decimals"],
            9: ["fraction."],
            10: ["not_a_number.blanks"],
            11: ["not_a_number.date"],
        },
    ),
    ("float-flags.csv", {}, ANN | {"1002": (0, 0, 0, 50)}, {}),
    ("rows-of-commas.csv", {}, ANN, {}),
    ("semicolons-with-sep.csv", {}, ANN, {}),
    ("bars.csv", {}, ANN, {}),
    ("titles.csv", {}, ANN, {}),
    ("cut-last-line.csv", {}, ANN | BOB, {}),
    ("cp1252.csv", {}, BOB, {2: ["not_utf8."]}),
    ("mysql.csv", {}, ANN | BOB, {5: ["invalid_id.ambiguous"]}),
    ("mysql.csv", {"backslash": "escape"}, ANN | BOB | {"CORP\\jdoe": (1, 0, 0, 0)}, {}),
    ("spreadsheet.tsv", {}, ANN | BOB, {}),
    ("psql.tsv", {}, ANN | {"CORP\\jdoe": (7, 1, 0, 0), "1003": (1, 1, 1, 1)}, {}),
    ("psql.csv", {}, ANN | {"CORP\\jdoe": (7, 1, 0, 0), "1003": (1, 1, 1, 1)}, {}),
    ("psql-force-quote.csv", {}, ANN | {"CORP\\jdoe": (7, 1, 0, 0), "1003": (1, 1, 1, 1)}, {}),
    ("wrapped.json", {}, dict.fromkeys("012", (1, 0, 0, 0)), {}),
    (
        "numbers.json",
        {},
        ANN,
        {None: ["invalid_id.decimals", "not_a_number.text_digits", "fraction.decimals", "fraction.exponent"]},
    ),
    ("lines.jsonl", {}, ANN, {2: ["not_an_object."]}),
    (
        "versions.yaml",
        {},
        {"0123": (5, 0, 0, 0)},
        {2: ["invalid_id.disputed", "not_a_number.disputed", "not_a_number.disputed"]},
    ),
    ("packed.csv.gz", {}, ANN, {}),
    ("packed.zip", {}, ANN, {}),
    ("hidden-first.xlsx", {}, ANN, {}),
    ("hidden-first.xlsx", {"sheet": "old"}, {"9": (99, 0, 0, 0)}, {}),
    ("two-sheets.xlsx", {"sheet": "all"}, ANN | BOB, {}),
    ("two-sheets.xlsx", {"sheet": "N to Z"}, BOB, {}),
    ("number-formats.xlsx", {}, ANN, {2: ["invalid_id.formatted"]}),
    ("strict.xlsx", {}, ANN, {}),
    *(
        (f"tablib.{kind}", {}, {"1003": (1, 1, 1, 1)}, {2: ["inexact."], 3: ["invalid_id.inexact"]})
        for kind in ("xlsx", "xls", "ods")
    ),
    *(
        (
            f"tablib.{kind}",
            {},
            {"1001": (2**53 + 1, 1, 0, 0), "9123456789012347": (7, 1, 0, 0), "1003": (1, 1, 1, 1)},
            {},
        )
        for kind in ("csv", "tsv", "json", "yaml")
    ),
    *(
        (
            f"libreoffice.{kind}",
            {},
            {"1001": (5, 5, 5, 0), "1002": (0, 0, 0, 0)},
            {4: ["formula."], 5: ["formula."]},
        )
        for kind in ("xlsx", "ods")
    ),
    *(
        (
            f"odd-cells.{kind}",
            {},
            {"u1": (5, 1, 0, 0), "u8": (5, 1, 0, 0)} | more,
            {
                3: ["not_a_number.percent"],
                4: ["not_a_number.formatted"],
                5: ["invalid_id.formatted"],
                6: [array],
                8: [f"invalid_id.{escape}"],
            }
            | ({} if more else {7: ["formula."]}),
        )
        for kind, more, array, escape in (
            ("xlsx", {}, "formula.", "escape"),
            ("ods", {}, "formula.", "control"),
            # without formulas, as below
            ("xls", {"u6": (7, 1, 0, 0)}, "not_a_number.error_cell", "control"),
        )
    ),
    # xlrd does not tell a formula from its value
    (
        "libreoffice.xls",
        {},
        {"1001": (5, 5, 5, 0), "1002": (0, 0, 0, 0), "1003": (2, 0, 0, 0)},
        {5: ["not_a_number.error_cell"]},
    ),
]
REFUSED = [
    ("other-names.csv", "--column id=ID --column green='Green Balance' .* --column migrated='Migration Completed'"),
    ("cut.csv.gz", "breaks off"),
    ("two-sheets.xlsx", "2 visible sheets have the header .*--sheet all"),
]


def bring_in(name: str, **options: Any) -> ImportSummary:
    return imports.import_balances(
        ImportOptions(source=str(FILES / name), **options), actor=Actor("tester", "host"), using="default"
    )


@pytest.mark.parametrize(
    ("name", "options", "wallets", "bad"), READ, ids=[f"{name}{options or ''}" for name, options, _, _ in READ]
)
def test_a_file_gives_exactly_these_balances_and_bad_rows(
    name: str, options: dict[str, Any], wallets: dict[str, tuple[int, ...]], bad: dict[int | None, list[str]]
) -> None:
    done = bring_in(name, skip_bad_rows=True, **options)
    found = Wallet.objects.values_list(
        f"user__{get_user_model().USERNAME_FIELD}", "green", "blue", "red", "mana", named=False
    )
    assert {key: (*balances,) for key, *balances in found} == wallets
    assert {row.line: [f"{code}.{shape}" for code, shape, _ in row.problems] for row in done.rejected} == bad


#: Bad rows whose values are sound in a file that has texts alone, or line by line.
SOUND = {"spans_records.", "broken_quotes.", "not_a_number.text_digits"}


@pytest.mark.parametrize(
    ("name", "options", "bad"),
    [(name, options, bad) for name, options, _, bad in READ if bad and SOUND.isdisjoint(chain(*bad.values()))],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_rows_that_are_given_back_uncorrected_are_bad_again(
    tmp_path: Path, name: str, options: dict[str, Any], bad: dict[int | None, list[str]]
) -> None:
    rest = tmp_path / "rest.csv"
    bring_in(name, dry_run=True, skip_bad_rows=True, rejects_with_values=rest, **options)
    again = imports.import_balances(
        ImportOptions(source=str(rest), dry_run=True), actor=Actor("tester", "host"), using="default"
    )
    assert again.rows >= len(bad)
    assert again.bad == again.rows


@pytest.mark.parametrize(("name", "match"), REFUSED)
def test_a_file_that_can_be_meant_in_two_ways_is_refused(name: str, match: str) -> None:
    with pytest.raises(SourceError, match=match):
        bring_in(name)
    assert not Wallet.objects.exists()


def test_every_file_is_tried() -> None:
    files = {path.name for path in FILES.iterdir() if path.suffix not in (".py", ".md") and path.is_file()}
    assert files == {name for name, *_ in READ} | {name for name, _ in REFUSED}


@pytest.mark.parametrize(
    ("name", "note"), [("titles.csv", "titles_skipped"), ("cut-last-line.csv", "last_line_unterminated")]
)
def test_what_the_operator_must_know_of_a_file_is_noted(name: str, note: str) -> None:
    assert list(bring_in(name, dry_run=True).notes) == [note]


@pytest.mark.parametrize("kind", ["xlsx", "ods", "xls"])
def test_hidden_rows_are_read_with_a_note(kind: str) -> None:
    notes = bring_in(f"odd-cells.{kind}", dry_run=True).notes
    assert notes == {"hidden_rows": "1 row that is hidden, by hand or by a filter, was read as well"}


def test_sheets_that_were_read_and_rows_over_lines_are_named() -> None:
    assert bring_in("hidden-first.xlsx", dry_run=True).part == "now"
    assert bring_in("two-sheets.xlsx", dry_run=True, sheet="all").part == "A to M, N to Z"
    assert bring_in("psql.csv", dry_run=True).spanning == 1
