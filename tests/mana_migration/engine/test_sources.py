"""Each reader gives the same rows in constant memory, and says in one line what is wrong with a source."""

import csv
import datetime
import gzip
import io
import json
import os
import re
import sqlite3
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import tablib
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl.xml.constants import SHARED_STRINGS, SHEET_MAIN_NS

from mana_migration.domain.legacy import COLUMNS, Marker
from mana_migration.domain.shapes import id_shape
from mana_migration.engine.sources import input as source_input
from mana_migration.engine.sources import open_source
from mana_migration.errors import SourceError
from tests.support.processes import as_ordinary_user

HEADER = ["id", "name", *list(COLUMNS.values())[1:]]
ROWS: list[list[Any]] = [
    ["u1", "Alice", 5, 0, -7, 0, False],
    ["u2", 'Bob "B", jr.\nline two', 2**40, None, 3, 12, True],
    ["57", None, 0, 0, 0, 0, None],
]
#: what the parser gets of them: without the names
VALUES = [[row[0], *row[2:]] for row in ROWS]


def as_text(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def read(address: object, **options: Any) -> list[tuple[int | None, Any]]:
    options = {"columns": COLUMNS} | options
    with open_source(str(address), **options) as source:
        return [(line, values if isinstance(values, Marker) else list(values)) for line, values in source.rows()]


def write_csv(path: Path, rows: list[list[Any]] = ROWS, header: list[str] = HEADER) -> Path:
    data = tablib.Dataset(*[[as_text(value) for value in row] for row in rows], headers=header)
    path.write_text(data.export("csv"), encoding="utf-8", newline="")
    return path


def write_json(path: Path, rows: list[list[Any]] = ROWS) -> Path:
    path.write_text(json.dumps([dict(zip(HEADER, row, strict=True)) for row in rows]), encoding="utf-8")
    return path


def write_xlsx(path: Path, rows: list[list[Any]] = ROWS, *, sheet: str = "export") -> Path:
    book = openpyxl.Workbook(write_only=True)
    page = book.create_sheet(sheet)
    for row in [HEADER, *rows]:
        page.append(row)
    book.save(path)
    share_texts(path)
    return path


def share_texts(path: Path) -> None:
    """Move the texts of a workbook's cells into a table, as Excel does and openpyxl does not."""
    texts: dict[bytes, int] = {}

    def shared(found: re.Match[bytes]) -> bytes:
        return b't="s"><v>%d</v>' % texts.setdefault(found[1], len(texts))

    parts = parts_of(path)
    name = next(name for name in parts if name.startswith("xl/worksheets/"))
    parts[name] = re.sub(rb't="inlineStr"><is>(.*?)</is>', shared, parts[name], flags=re.DOTALL)
    items = b"".join(b"<si>%s<rPh><t>read so</t></rPh></si>" % text for text in texts)
    parts["xl/sharedStrings.xml"] = b'<sst xmlns="%s">%s</sst>' % (SHEET_MAIN_NS.encode(), items)
    kind = b'<Override PartName="/xl/sharedStrings.xml" ContentType="%s"/></Types>' % SHARED_STRINGS.encode()
    parts["[Content_Types].xml"] = parts["[Content_Types].xml"].replace(b"</Types>", kind)
    write_parts(path, parts)


def parts_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_parts(path: Path, parts: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def write_sqlite(path: Path, rows: list[list[Any]] = ROWS, *, table: str = "users") -> Path:
    with sqlite3.connect(path) as connection:
        connection.execute(f'CREATE TABLE "{table}" ({", ".join(HEADER)})')
        connection.executemany(f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(HEADER))})', rows)
    connection.close()
    return path


# --- All readers agree ------------------------------------------------------------------------------------------------


def test_csv_gives_the_rows_as_text_with_their_lines(tmp_path: Path) -> None:
    expected = [[as_text(value) for value in values] for values in VALUES]
    assert read(write_csv(tmp_path / "e.csv")) == list(zip([2, 3, 5], expected, strict=True))


def test_json_gives_the_rows(tmp_path: Path) -> None:
    assert read(write_json(tmp_path / "e.json")) == [(None, values) for values in VALUES]


def test_json_lines_give_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text("\n".join(json.dumps(dict(zip(HEADER, row, strict=True))) for row in ROWS))
    assert read(path) == list(enumerate(VALUES, 1))


def test_xlsx_gives_the_rows_with_their_places_in_the_sheet(tmp_path: Path) -> None:
    assert read(write_xlsx(tmp_path / "e.xlsx")) == list(zip([2, 3, 4], VALUES, strict=True))


def test_a_sqlite_file_gives_the_rows_in_the_order_of_the_ids(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path / "e.sqlite3")
    assert read(f"sqlite:///{path}") == [(None, values) for values in sorted(VALUES, key=lambda values: values[0])]


def test_what_tablib_writes_is_read(tmp_path: Path) -> None:
    data = tablib.Dataset(*ROWS, headers=HEADER)
    (tmp_path / "e.xlsx").write_bytes(data.export("xlsx"))
    (tmp_path / "e.json").write_text(data.export("json"))
    assert [values[0] for _, values in read(tmp_path / "e.xlsx")] == ["u1", "u2", "57"]
    assert [values for _, values in read(tmp_path / "e.json")] == VALUES


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_csv_of_another_country_is_read(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "e.tsv"
    path.write_text(
        "\ufeff" + delimiter.join(HEADER) + "\r\n" + delimiter.join(["u1", "n", "1", "2", "3", "4", "f"]) + "\r\n\r\n"
    )
    assert read(path) == [(2, ["u1", "1", "2", "3", "4", "f"])]


def test_columns_have_the_names_that_the_operator_gives(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("uid,g,b,r,m,done\nu1,1,2,3,4,f\n")
    names = dict(zip(COLUMNS, ["uid", "g", "b", "r", "m", "done"], strict=True))
    assert read(path, columns=names) == [(2, ["u1", "1", "2", "3", "4", "f"])]


@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\r\0")), st.integers(-(2**63), 2**63 - 1)),
        max_size=20,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
def test_csv_and_json_give_back_what_was_written(tmp_path: Path, rows: list[tuple[str, int]]) -> None:
    full = [[key, "n", number, 0, 0, 0, False] for key, number in rows]
    (tmp_path / "p.json").write_text(json.dumps([dict(zip(HEADER, row, strict=True)) for row in full]))
    assert [values[:2] for _, values in read(tmp_path / "p.json")] == [[key, number] for key, number in rows]
    write_csv(tmp_path / "p.csv", full)
    assert [values[:2] for _, values in read(tmp_path / "p.csv")] == [[key, str(number)] for key, number in rows]


# --- What is wrong with a row -----------------------------------------------------------------------------------------


def test_a_csv_row_of_another_width_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text(",".join(HEADER) + "\nu1,n,1,2,3,4\nu2,n,1,2,3,4,f,x\nu3,n,1,2,3,4,f\n")
    found = read(path)
    assert [values for _, values in found[:2]] == [Marker.WRONG_FIELD_COUNT] * 2
    assert found[2][0] == 4


def test_json_marks_what_is_no_plain_value(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    entry = '{"id": "a", "green_balance": 1.0, "blue_balance": 1e3, "red_balance": %s, "mana_balance": 0}' % ("9" * 50)
    path.write_text(f'[{entry[:-1]}, "legacy_migration_completed": false}}, {{"id": 1, "id": 2}}, 5, null, [1], "x"]')
    found = [values for _, values in read(path)]
    assert found[0] == ["a", Decimal("1.0"), Decimal("1e3"), int("9" * 50), 0, False]
    assert found[1] is Marker.REPEATED_KEY
    assert found[2:] == [Marker.NOT_AN_OBJECT] * 4


def test_a_key_that_an_object_lacks_is_not_null(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    first = dict(zip(HEADER, ROWS[0], strict=True))
    path.write_text(json.dumps([first, {"id": "b"}]))
    assert read(path)[1][1] == ["b", *[Marker.ABSENT] * 5]


def test_xlsx_tells_numbers_dates_formulas_and_truth_values_apart(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    page = book.active
    assert page is not None
    page.append(HEADER)
    page.append(["a", "n", 1.0, 1.5, datetime.date(2024, 1, 1), "=1+1", True])
    page.append(["b", "n", "5", "", "#N/A", 10**15 - 1, "t"])
    book.save(tmp_path / "e.xlsx")
    found = [values for _, values in read(tmp_path / "e.xlsx")]
    assert found[0] == ["a", 1, 1.5, Marker.DATE, Marker.FORMULA, True]
    assert found[1][:2] == ["b", "5"]
    assert found[1][2] is None
    assert found[1][3:] == [Marker.ERROR_CELL, 10**15 - 1, "t"]


def test_empty_rows_of_a_sheet_are_no_rows(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    page = book.active
    assert page is not None
    page.append([])
    page.append(HEADER)
    page.append([])
    page.append(ROWS[0])
    book.save(tmp_path / "e.xlsx")
    assert read(tmp_path / "e.xlsx") == [(4, VALUES[0])]


def test_a_sheet_is_chosen_by_name(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.create_sheet("users").append(HEADER)
    book.save(tmp_path / "e.xlsx")
    assert read(tmp_path / "e.xlsx", sheet="users") == []
    with pytest.raises(SourceError, match="no sheet 'nope'"):
        read(tmp_path / "e.xlsx", sheet="nope")


def test_text_that_is_not_utf8_in_a_sqlite_file_spoils_its_row_alone(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path / "e.sqlite3")
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO users (id) VALUES (CAST(x'ff' AS text))")
    connection.close()
    assert len(read(f"sqlite:///{path}")) == 4


# --- What is wrong with a source --------------------------------------------------------------------------------------


def refused(address: object, match: str, **options: Any) -> str:
    with pytest.raises(SourceError, match=match) as caught:
        read(address, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "xlsx"])
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, ending: str) -> None:
    refused(tmp_path / f"none.{ending}", "no such file")


@pytest.mark.parametrize("ending", ["csv", "json", "xlsx"])
def test_a_folder_is_refused(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"folder.{ending}").mkdir()
    refused(tmp_path / f"folder.{ending}", "is a folder")


@pytest.mark.parametrize("ending", ["csv", "json", "xlsx"])
@pytest.mark.parametrize("content", [b"", b"\0" * 300, b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"\xff\xfe\x41\x00"])
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"e.{ending}"
    path.write_bytes(content)
    refused(path, "empty|binary|UTF-16|UTF-8|not an XLSX")


@pytest.mark.parametrize("ending", ["csv", "json", "xlsx"])
def test_a_file_that_this_user_may_not_read_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"e.{ending}"
    path.touch(mode=0o000)
    with as_ordinary_user():
        refused(path, "may not read")


def test_a_file_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.dat").write_text("x")
    refused(tmp_path / "e.dat", r"ends in \.csv")


def test_bytes_that_are_not_utf8_spoil_their_row_alone(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "e.csv", [[f"u{n}", "n", 0, 0, 0, 0, False] for n in range(2000)])
    with path.open("ab") as file:
        file.write(b"\xe4,n,0,0,0,0,f\nu,M\xfcller,0,0,0,0,f\nv,n,0,0,0,0,f\n")
    found = read(path)
    assert found[2000] == (2002, [Marker.NOT_UTF8, "0", "0", "0", "0", "f"])
    assert found[2001:] == [(2003, Marker.NOT_UTF8), (2004, ["v", "0", "0", "0", "0", "f"])]


def test_a_missing_column_is_named_together_with_those_found(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("id,green,blue_balance,red_balance,mana_balance,legacy_migration_completed\n")
    message = refused(path, "no column 'green_balance'")
    assert "found id, green, blue_balance" in message


def test_the_first_row_of_a_file_without_a_header_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("u1,Alice Example,5,0,0,0,f\n")
    assert "Alice" not in refused(path, "does not look like a header")
    path.write_text("u1,Alice,u5,a,b,c,f\n")
    assert "found" in refused(path, "no column")


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text(",".join([*HEADER, "id"]) + "\n")
    refused(path, "'id' is there twice")


@pytest.mark.parametrize(
    "tail", ["", ",", "]]", '{"id"', "] trailing", ' {"id": 1}]', "nul]", "," + "[" * 100_000], ids=range(8)
)
def test_json_that_breaks_off_is_refused(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "e.json"
    path.write_text(
        "[" + json.dumps(dict(zip(HEADER, ROWS[0], strict=True))) + ("," if tail[:3] == "[[[" else "") + tail
    )
    refused(path, "broken off|behind the end|nested too deeply")


@pytest.mark.parametrize("text", ["5", '"x"', "null", "[5]", '{"people": []}', "{}", "hello"])
def test_json_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "e.json").write_text(text)
    refused(tmp_path / "e.json", "array of objects|no column")


def test_an_empty_json_array_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(" [ ]\n")
    assert read(tmp_path / "e.json") == []


def test_a_quote_that_is_never_closed_costs_its_line_alone(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "e.csv", [["u1", "n", 0, 0, 0, 0, False]])
    with path.open("a") as file:
        file.write('u9,"never closed,1,2,3,4,f\n' + "".join(f"v{n},n,1,2,3,4,f\n" for n in range(20_000)))
    found = read(path)
    assert found[1] == (3, Marker.BROKEN_QUOTES)
    assert [values[0] for _, values in found[2:]] == [f"v{n}" for n in range(20_000)]


def test_a_workbook_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "e.xlsx")
    parts = parts_of(path)
    (sheet,) = [name for name in parts if name.startswith("xl/worksheets/")]
    write_parts(path, parts | {sheet: parts[sheet] + b" " * (70 << 20)})
    refused(path, "unpacks to more")
    # what is not read may be as large as it likes
    write_parts(path, parts | {"xl/pivotCache/pivotCacheRecords1.xml": b" " * (40 << 20)})
    assert len(read(path)) == len(ROWS)


def test_a_workbook_that_declares_entities_is_refused(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "e.xlsx")
    parts = parts_of(path)
    for name in parts:
        if name.startswith("xl/worksheets/") or name == "xl/sharedStrings.xml":
            body = parts[name].rpartition(b"?>")[2]
            write_parts(path, parts | {name: b'<!DOCTYPE x [<!ENTITY a "aaaa">]>' + body})
            refused(path, "document type")


def test_a_text_of_several_runs_is_one_text(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "e.xlsx")
    parts = parts_of(path)
    runs = parts["xl/sharedStrings.xml"].replace(b"<t>u1</t>", b"<r><t>u</t></r><r><rPr><b/></rPr><t>1</t></r>")
    write_parts(path, parts | {"xl/sharedStrings.xml": runs})
    assert read(path)[0][1] == VALUES[0]


def test_underscores_that_are_escaped_are_one_character(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "e.xlsx", [["u_x0041_", "n", 1, 2, 3, 4, False]])
    parts = parts_of(path)
    texts = parts["xl/sharedStrings.xml"].replace(b"u_x0041_", b"u_x005F_x0041_")  # as Excel and XlsxWriter write it
    write_parts(path, parts | {"xl/sharedStrings.xml": texts})
    assert read(path)[0][1][0] == "u_x0041_"


def test_truth_values_that_libreoffice_writes_as_formulas_are_read(tmp_path: Path) -> None:
    path = tmp_path / "e.xlsx"
    book = openpyxl.Workbook()
    for row in (
        HEADER,
        ["u1", "n", 1, 2, 3, 4, "=FALSE()"],
        ["u2", "n", 1, 2, 3, 4, "=TRUE()"],
        ["u3", *"n1234", "=A1"],
    ):
        book.active.append(row)
    book.save(path)
    assert [values[-1] for _, values in read(path)] == [False, True, Marker.FORMULA]


def test_a_workbook_that_breaks_off_is_refused(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "e.xlsx")
    path.write_bytes(path.read_bytes()[:-200])
    refused(path, "not an XLSX workbook")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"</row>", b"</roww>"),
        (b't="s"', b't="s" t="s"'),
        (b'r="A1"', b'r="1"'),
        (b"<v>5</v>", b"<v>five</v>"),
        (b"<v>5</v>", b"<v>1_000</v>"),
        (b"<v>5</v>", "<v>\u0665</v>".encode()),
        (b"<v>5</v>", b"<v>5</v><v>6</v>"),
        (b'r="D2"', b'r="C2"'),
        (b'<row r="3"', b'<row r="2"'),
        (b't="s"><v>0</v>', b't="s"><v>999999</v>'),
        (b't="s"><v>0</v>', b't="s"><v>-1</v>'),
        (b'<row r="2"', b'<row r="two"'),
        (b'<row r="2"', b'<row r="9999999"'),
    ],
)
def test_a_damaged_sheet_is_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = write_xlsx(tmp_path / "e.xlsx")
    parts = parts_of(path)
    sheet = next(name for name in parts if name.startswith("xl/worksheets/"))
    assert old in parts[sheet]
    write_parts(path, parts | {sheet: parts[sheet].replace(old, new, 1)})
    refused(path, "damaged|beyond the rows|not an XLSX")


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path / "e.sqlite3", table="people")
    refused(f"sqlite:///{path}", "no such table")
    assert len(read(f"sqlite:///{path}", table="people")) == 3
    refused(f"sqlite:///{path}", "give TABLE or SCHEMA.TABLE", table="a.b.c")


def test_a_table_with_a_hostile_name_is_only_a_name(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path / "e.sqlite3")
    refused(f"sqlite:///{path}", "no such table", table='users"; DROP TABLE users; --')
    assert len(read(f"sqlite:///{path}")) == 3


def test_a_sqlite_file_is_never_written(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path / "e.sqlite3")
    before = path.read_bytes()
    path.chmod(0o400)
    read(f"sqlite:///{path}")
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["e.sqlite3"]


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "mysql://u:secret@h/n"])
def test_an_address_that_names_no_database_is_refused(address: str) -> None:
    assert "secret" not in refused(address, "give ")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "e.csv")
    refused(f"sqlite:///{path}", "not a database")
    refused(f"sqlite:///{tmp_path}/none.sqlite3", "no such file")


@pytest.mark.parametrize(
    "address",
    [
        "postgres://user:se@cret@nowhere.invalid/name",
        "postgres://user:se/cret@nowhere.invalid/name",
        "postgres://user:se?cret@nowhere.invalid/name",
        "postgres://user:se%ZZcret@nowhere.invalid/name",
        "postgres://user:secret@nowhere.invalid:port/name",
        "postgres://user:secret@nowhere.invalid/name",
        "postgres://user:secret@127.0.0.1:1/name",
        "postgresql://user:secret@nowhere.invalid/name?sslmode=nonsense",
        "postgres://user:secret@/name?host=/nowhere",
        "postgres://nowhere.invalid/name?password=secret",
        "postgres://user:secret@nowhere.invalid/name?connect_timeout=secret",
    ],
)
def test_no_message_shows_any_of_a_password(address: str) -> None:
    message = refused(address, "legacy database")
    assert "cret" not in message
    assert "user" not in message.replace("postgres://USER", "").replace("user or the", "")


# --- Memory -----------------------------------------------------------------------------------------------------------

WRITERS: dict[str, Callable[[Path, list[list[Any]]], Path]] = {
    "csv": write_csv,
    "json": write_json,
    "xlsx": write_xlsx,
    "sqlite3": write_sqlite,
}


def many(count: int) -> list[list[Any]]:
    return [
        [f"00000000-0000-0000-0000-{number:012}", f"User {number}", number % 97, 0, 1, 0, False]
        for number in range(count)
    ]


def peak(path: Path) -> int:
    address = f"sqlite:///{path}" if path.suffix == ".sqlite3" else str(path)
    tracemalloc.start()
    try:
        with open_source(address, columns=COLUMNS) as source:
            count = sum(1 for _ in source.rows())
        assert count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(params=list(WRITERS))
def small_and_large(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    write = WRITERS[request.param]
    # a page of rows and more; each row is traced, which takes its time, and so is every cell of a workbook
    few, more = (1_500, 9_000) if request.param == "xlsx" else (6_000, 30_000)
    yield write(tmp_path / f"s.{request.param}", many(few)), write(tmp_path / f"l.{request.param}", many(more))


@pytest.mark.slow
def test_several_times_the_rows_take_no_more_memory(small_and_large: tuple[Path, Path]) -> None:
    small, large = small_and_large
    peak(small)  # what is imported and cached once
    # the further rows themselves would take far more, at least a hundred bytes each
    assert peak(large) < peak(small) + 1_000_000


# --- Every dialect gives the same balances back -----------------------------------------------------------------------

plain_ids = st.text("abcXYZ019_.@+-\u00e9\u4e2d", min_size=1, max_size=12).filter(
    lambda text: text.strip(".-+") and not id_shape(text)
)
any_names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20) | st.sampled_from(
    [
        '"',
        '""',
        "'",
        "a,b;c|d",
        "tab\there",
        "line\nbreak",
        "cr\r\nlf",
        "\\",
        "\\\\",
        "\\N",
        '\\"',
        "=1+1",
        " ",
        "x" * 300,
    ]
)
balances = st.integers(-(2**63), 2**63 - 1)
tables = st.lists(
    st.tuples(plain_ids, any_names, balances, balances, balances, balances, st.booleans()),
    max_size=8,
    unique_by=lambda row: row[0],
)
whole = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def expected(rows: list[tuple[Any, ...]], as_value: Callable[[Any], Any]) -> list[list[Any]]:
    return [[row[0], *map(as_value, row[2:])] for row in rows]


def read_or_bad(path: Path, rows: list[tuple[Any, ...]], as_value: Callable[[Any], Any], **options: Any) -> None:
    """Read a file: each row is exactly what was written, or is marked because its name looks like rows."""
    wanted = expected(rows, as_value)
    found = [values for _, values in read(path, **options)]
    good = [values for values in found if not isinstance(values, Marker)]
    assert [values for values in good if values not in wanted] == []
    if not any(mark in row[1] for row in rows for mark in "\r\n"):
        assert found == wanted


dialects = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from(",;|"),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
        "lineterminator": st.sampled_from(["\n", "\r\n", "\r"]),
    }
)


@whole
@given(tables, dialects, st.sampled_from(["utf-8", "utf-8-sig"]))
def test_what_pythons_csv_writes_is_read_back(
    tmp_path: Path, rows: list[tuple[Any, ...]], dialect: dict[str, Any], encoding: str
) -> None:
    path = tmp_path / "p.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, **dialect).writerows([HEADER, *rows])
    read_or_bad(path, rows, str)


@pytest.mark.parametrize(
    "row",
    [
        'u1,"12 Main St\nSpringfield, IL 62704",1,2,3,4,f',
        'u1,"1, 2, 3\n4, 5, 6, 7",1,2,3,4,f',
        '"u1","a,b\n1,2,3,4",1,2,3,4,f',
    ],
)
def test_text_over_several_lines_is_no_rows(tmp_path: Path, row: str) -> None:
    path = tmp_path / "e.csv"
    path.write_text(LINE + row + "\n")
    assert read(path) == [(2, ["u1", "1", "2", "3", "4", "f"])]


few_names = st.sampled_from(["Ann", "Cy 6", "", "C, D", "5", "1, 2, 3, 4"])
numbers = st.sampled_from(["0", "7", "-5", ""])


@st.composite
def tables_with_stray_quotes(draw: st.DrawFn) -> tuple[list[dict[str, str]], str]:
    """Return rows, and the text of a table of them with a quotation mark that opens and one that ends a field."""
    names = draw(st.permutations([*COLUMNS.values(), *draw(st.sampled_from([["name"], ["name", "note"]]))]))
    drawn = st.fixed_dictionaries({name: few_names if name in ("name", "note") else numbers for name in names})
    rows = [
        row | {"id": str(1001 + place), "legacy_migration_completed": "f"}
        for place, row in enumerate(draw(st.lists(drawn, min_size=2, max_size=5)))
    ]
    file = io.StringIO()
    writer = csv.writer(file, delimiter=draw(st.sampled_from(",;|")), lineterminator="\n")
    writer.writerow(names)
    shortens = draw(st.booleans())
    for row in rows:
        values = [row[name] for name in names]
        while shortens and values[-1] == "" and names[len(values) - 1] in ("name", "note"):
            values.pop()
        writer.writerow(values)
    lines = file.getvalue().splitlines()
    first, last = sorted(draw(st.lists(st.integers(1, len(rows)), min_size=2, max_size=2)))
    mark = writer.dialect.delimiter
    for place, opens in ((first, True), (last, False)):
        parts = lines[place].split(mark)
        field = draw(st.integers(0, len(parts) - 1))
        parts[field] = f'"{parts[field]}' if opens else f'{parts[field]}"'
        lines[place] = mark.join(parts)
    return rows, "\n".join(lines) + "\n"


@settings(whole, max_examples=200)
@given(tables_with_stray_quotes())
def test_stray_quotes_never_give_a_user_another_balance_or_swallow_one(
    tmp_path: Path, table: tuple[list[dict[str, str]], str]
) -> None:
    rows, text = table
    path = tmp_path / "p.csv"
    path.write_text(text, encoding="utf-8", newline="")
    truth = {line: [row[name] for name in COLUMNS.values()] for line, row in enumerate(rows, start=2)}
    try:
        found = dict(read(path))
    except SourceError:  # the header is doubted
        return
    starts = [*found, len(rows) + 2]
    for (line, values), after in zip(found.items(), starts[1:], strict=True):
        is_bad = isinstance(values, Marker) or any(isinstance(one, Marker) or '"' in one for one in values)
        # a good row is what was written, and no other row is under it
        assert is_bad or (values == truth[line] and after == line + 1), text
    assert starts[0] == 2


@whole
@given(tables)
def test_what_pythons_csv_writes_with_escapes_is_read_back(tmp_path: Path, rows: list[tuple[Any, ...]]) -> None:
    path = tmp_path / "p.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, doublequote=False, escapechar="\\", lineterminator="\n")
        writer.writerows([HEADER, *rows])
    read_or_bad(path, rows, str, backslash="escape")


@whole
@given(tables)
def test_what_pythons_csv_writes_with_tabs_is_read_back(tmp_path: Path, rows: list[tuple[Any, ...]]) -> None:
    path = tmp_path / "p.tsv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, csv.excel_tab).writerows([HEADER, *rows])
    read_or_bad(path, rows, str)


@whole
@given(tables, st.sampled_from(["csv", "tsv", "json", "yaml"]))
def test_what_tablib_writes_is_read_back(tmp_path: Path, rows: list[tuple[Any, ...]], kind: str) -> None:
    path = tmp_path / f"p.{kind}"
    path.write_text(tablib.Dataset(*rows, headers=HEADER).export(kind), encoding="utf-8", newline="")
    if kind in ("csv", "tsv"):
        read_or_bad(path, rows, str)
    elif rows:
        assert [values for _, values in read(path)] == expected(rows, lambda value: value)


@settings(whole, max_examples=15)
@given(tables, st.sampled_from(["xlsx", "xls", "ods"]))
def test_what_tablib_writes_as_a_workbook_is_read_back(tmp_path: Path, rows: list[tuple[Any, ...]], kind: str) -> None:
    printable = [(row[0], "n", *(number % 10**15 for number in row[2:6]), row[6]) for row in rows]
    path = tmp_path / f"p.{kind}"
    path.write_bytes(tablib.Dataset(*printable, headers=HEADER).export(kind))
    assert [values for _, values in read(path)] == expected(printable, lambda value: value)


def copy_text(value: Any) -> str:
    r"""Return a value as PostgreSQL's COPY writes it in its text format."""
    if value is None:
        return r"\N"
    text = str(value).lower()[0] if isinstance(value, bool) else str(value)
    for mark, escape in (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"), ("\v", "\\v"), ("\f", "\\f")):
        text = text.replace(mark, escape)
    return text


@whole
@given(tables)
def test_what_copy_writes_as_text_is_read_back(tmp_path: Path, rows: list[tuple[Any, ...]]) -> None:
    path = tmp_path / "p.tsv"
    lines = ["\t".join(map(copy_text, row)) + "\n" for row in [tuple(HEADER), *rows]]
    path.write_text("".join(lines), encoding="utf-8", newline="")
    assert [values for _, values in read(path)] == expected(rows, copy_text)


# --- Pipes, packed files, files that are not finished -----------------------------------------------------------------

LINE = ",".join(HEADER) + "\n"


def test_a_pipe_is_read_once_and_ends_with_its_writer(tmp_path: Path) -> None:
    pipe = tmp_path / "x.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(LINE + "u1,n,1,2,3,4,f\n",))
    writer.start()
    assert read(pipe) == [(2, ["u1", "1", "2", "3", "4", "f"])]
    writer.join()


def test_a_pipe_without_a_writer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_input, "PIPE_PATIENCE", 0.05)
    os.mkfifo(tmp_path / "x.csv")
    refused(tmp_path / "x.csv", "nothing was written to")


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "yaml", "xlsx", "ods", "zip", "gz"])
def test_a_device_without_an_end_is_refused(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"x.{ending}").symlink_to("/dev/zero")
    refused(tmp_path / f"x.{ending}", "is a binary file|from a pipe|is not packed")


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text(LINE + "u1,n,1,2,3,4,f\n" * 3)
    with open_source(str(path), columns=COLUMNS) as source, pytest.raises(SourceError, match="changed while"):
        rows = source.rows()
        next(rows)
        with path.open("a") as file:
            file.write("u2,n,1,2,3,4,f\n")
        list(rows)


@pytest.mark.parametrize("name", ["a.xlsx", "a.ods", "a.parquet"])
def test_only_text_is_read_from_a_packed_file(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, "x")
    refused(tmp_path / "a.zip", "only text")
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"x"))
    refused(tmp_path / f"{name}.gz", "only text")


def test_a_packed_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_text(LINE)  # a browser has unpacked it
    refused(tmp_path / "a.csv.gz", "is not packed, although it ends in .gz")
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    refused(tmp_path / "a.zip", "holds no file")
    (tmp_path / "a.csv.xz").write_bytes(b"x")
    refused(tmp_path / "a.csv.xz", "unpack it")


@pytest.mark.parametrize("address", ["mysql://u:secret@h/n", "http://host/export.csv", "s3://bucket/x", "oracle://x"])
def test_another_address_says_to_export_csv(address: str) -> None:
    assert "secret" not in refused(address, "export it as CSV")


# --- JSON that would harm or mislead the parser -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('[{"id": ' + "9" * 5000 + "}]", "thousands of digits"),
        ("[" * 200_000, "nested too deeply"),
        ('[{"id": "' + "x" * (2 << 20) + '"}]', "more than 1 MiB"),
        ('[{"id": "\\ud800"          }]', "half a surrogate"),
        ('[{"id": "\\\\\\udc00"}]', "half a surrogate"),
        ('[{"id": NaN}]', "NaN and Infinity are not JSON"),
    ],
    ids=["digits", "depth", "size", "high", "low", "nan"],
)
def test_json_that_no_row_is_made_of_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "e.json").write_text(text)
    refused(tmp_path / "e.json", match)


@pytest.mark.parametrize("boundary", [4_096, 8_192])  # of what is looked at together
@pytest.mark.parametrize("key", ["\U0001f680\U0001f680", "CORP\\ud83d"], ids=["pairs", "backslash"])
def test_a_surrogate_pair_is_one_character_wherever_it_is_cut(tmp_path: Path, key: str, boundary: int) -> None:
    path = tmp_path / "e.json"
    entry = dict(zip(HEADER, [key, "n", 1, 2, 3, 4, False], strict=True))
    text = json.dumps([entry, entry])
    for cut in range(-1, len(json.dumps(key)) + 1):
        shift = boundary - text.index(json.dumps(key)) - cut
        path.write_text(text.replace("[", "[" + " " * shift, 1).ljust(10_000))
        assert [values[0] for _, values in read(path)] == [key, key], cut


def test_json_keeps_the_array_under_a_key(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    rows = [dict(zip(HEADER, [f"u{n}", "x" * 60, 1, 2, 3, 4, False], strict=True)) for n in range(10_000)]
    path.write_text(json.dumps({"exported": "today", "users": rows}))
    assert path.stat().st_size > 1 << 20
    assert len(read(path)) == 10_000
    path.write_text(json.dumps({"people": rows[:1]}))
    refused(path, "its keys begin with people")
    assert len(read(path, table="people")) == 1
    path.write_text(json.dumps({"people": {"users": rows[:1]}}))
    refused(path, "without an array", table="people")


@pytest.mark.parametrize("ending", ["json", "jsonl", "yaml"])
def test_bytes_that_are_not_utf8_spoil_their_json_entry_alone(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"e.{ending}"
    entries = [json.dumps(dict(zip(HEADER, [key, name, 1, 2, 3, 4, False], strict=True)), ensure_ascii=False)
               for key, name in (("u1", "M\xfcller"), ("M\xfcller", "n"), ("u3", "n"))]  # fmt: skip
    text = "\n".join(entries) if ending == "jsonl" else f"[{','.join(entries)}]"
    path.write_bytes(text.encode("cp1252"))
    assert [values for _, values in read(path)] == [Marker.NOT_UTF8, Marker.NOT_UTF8, ["u3", 1, 2, 3, 4, False]]


def test_a_json_array_is_found_behind_a_long_beginning_and_never_twice(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    rows, long = json.dumps([dict(zip(HEADER, ROWS[0], strict=True))]), "x" * 200_000
    path.write_text(f'{{"about": "{long}", "users": {rows}}}')
    assert [values for _, values in read(path)] == VALUES[:1]
    path.write_text(f'{{"about": "{long * 15}", "users": {rows}}}')
    refused(path, "without an array of objects under the key 'users' in its first 1 MiB")
    path.write_text(f'{{"users": {rows}, "users": {rows}}}')
    with pytest.raises(SourceError, match="a second array under a key 'users'"):
        read(path)


# --- Dialects that are no RFC 4180 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ('"1","Bob \\"B\\", Jr",5,0,0,0,0', ["1", "5", "0", "0", "0", "0"]),
        ('"1","C:\\",5,0,0,0,0', ["1", "5", "0", "0", "0", "0"]),
        ("CORP\\jdoe,x,5,0,0,0,0", ["CORP\\jdoe", "5", "0", "0", "0", "0"]),
        ("CORP\\\\jdoe,x,5,0,0,0,0", [Marker.AMBIGUOUS, "5", "0", "0", "0", "0"]),
        ('1,Cy 6",5,0,0,0,0', ["1", "5", "0", "0", "0", "0"]),
        ('1,"Cy" 6,5,0,0,0,0', Marker.BROKEN_QUOTES),
    ],
)
def test_quotes_and_backslashes_mean_what_their_writer_meant(tmp_path: Path, line: str, fields: Any) -> None:
    path = tmp_path / "e.csv"
    path.write_text(LINE + line + "\nu2,n,1,2,3,4,f\n")
    assert [values for _, values in read(path)] == [fields, ["u2", "1", "2", "3", "4", "f"]]


@pytest.mark.parametrize("key", ["CORP\\jdoe", "CORP\\nancy", '"u1"'])
def test_a_tab_separated_id_that_can_be_read_in_two_ways_is_marked(tmp_path: Path, key: str) -> None:
    path = tmp_path / "e.tsv"
    path.write_text((LINE + f"{key},x,5,0,0,0,f\n").replace(",", "\t"))
    assert read(path)[0][1][0] is Marker.AMBIGUOUS
    assert read(path, backslash="literal")[0][1][0] == key.strip('"')


def test_backslashes_before_tabs_and_line_ends_continue_a_record_as_mysql_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "e.tsv"
    rows = ["u1,tab\\\there,1,2,3,4,0", "u2,line\\\nbreak,1,2,3,\\N,0", "u3,C:\\\\,1,2,3,4,0"]
    path.write_text(LINE.replace(",", "\t") + "".join(row.replace(",", "\t") + "\n" for row in rows))
    assert read(path) == [
        (2, ["u1", "1", "2", "3", "4", "0"]),
        (3, ["u2", "1", "2", "3", None, "0"]),
        (5, ["u3", "1", "2", "3", "4", "0"]),
    ]


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (LINE.replace(",", "^"), "separated by '\\^'; put sep=\\^ above"),
        (LINE.replace(",", " "), "separated by ' '; put sep="),
        ("'" + LINE.strip().replace(",", "','") + "'\n", "single quotation marks"),
        ('"' + LINE.strip() + '"\n', "each line is enclosed in quotation marks as a whole"),
    ],
)
def test_a_header_whose_fields_are_not_separated_as_usual_is_named(tmp_path: Path, header: str, match: str) -> None:
    path = tmp_path / "e.csv"
    path.write_text(header + header)
    refused(path, match)


def test_blanks_and_invisible_characters_around_a_column_name_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("\ufeff\ufeff" + LINE.replace(",", " ,\u200b").replace("\n", "\xa0\n") + "u1,n,1,2,3,4,f\n")
    assert read(path) == [(2, ["u1", "1", "2", "3", "4", "f"])]


@pytest.mark.parametrize(
    ("name", "text", "row"),
    [
        ("e.tsv", "CORP\\jdoe\tx\t5\t0\t0\t0\tf", ['"CORP\\jdoe"', "x", "5", "0", "0", "0", "f"]),
        ("e.json", '{"id": ["u"], "name": "n", "green_balance": ""}', ["#NESTED!", "n", "#EMPTY!", *["#ABSENT!"] * 4]),
        ("e.yaml", "- {id: 0124, name: ~, green_balance: ''}", ["#DISPUTED!", "", "#EMPTY!", *["#ABSENT!"] * 4]),
    ],
    ids=["tsv", "json", "yaml"],
)
def test_what_is_no_sound_value_is_none_in_the_original_row_either(
    tmp_path: Path, name: str, text: str, row: list[str]
) -> None:
    path = tmp_path / name
    entry = dict(zip(HEADER, ROWS[0], strict=True))
    path.write_text(
        {
            "e.tsv": LINE.replace(",", "\t") + text + "\n",
            "e.json": f"[{json.dumps(entry)}, {text}]",
            "e.yaml": f"- {json.dumps(entry)}\n{text}\n",
        }[name]
    )
    with open_source(str(path), columns=COLUMNS) as source:
        for _ in source.rows():
            found = source.original()
    assert found == [row]


def test_a_row_that_is_too_long_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text(LINE + "u1," + "x" * 140_000 + ",1,2,3,4,f\nu2,n,1,2,3,4,f\n")
    assert [values for _, values in read(path)] == [Marker.ROW_TOO_LONG, ["u2", "1", "2", "3", "4", "f"]]


def test_rows_above_the_header_that_look_like_data_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("u1,n,1,2,3,4,f\n" + LINE + "u2,n,1,2,3,4,f\n")
    refused(path, "look like data")


def test_the_header_again_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text(LINE + "u1,n,1,2,3,4,f\n" + LINE)
    assert read(path)[1] == (3, Marker.REPEATED_HEADER)


def test_a_pipe_that_is_written_in_small_pieces_is_recognised_all_the_same(tmp_path: Path) -> None:
    pipe = tmp_path / "x.json"
    os.mkfifo(pipe)
    text = json.dumps({"exported": "today", "users": [dict(zip(HEADER, ROWS[0], strict=True))]})

    def write() -> None:
        with pipe.open("w") as file:
            for character in text:
                file.write(character)
                file.flush()

    writer = threading.Thread(target=write)
    writer.start()
    assert read(pipe) == [(None, VALUES[0])]
    writer.join()


def test_yaml_whose_last_line_may_be_cut_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    parts = [f"{name}: 1" for name in COLUMNS.values()]
    block, flow = "- " + "\n  ".join(parts), f"[\n{{{', '.join(parts)}}}]"
    for text, notes in ((block + "\n", []), (block, ["last_line_unterminated"]), (flow, [])):
        path.write_text(text)
        with open_source(str(path), columns=COLUMNS) as source:
            assert len(list(source.rows())) == 1
        assert list(source.notes) == notes


def test_yaml_without_an_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("- " + "x" * (3 << 20))
    refused(tmp_path / "e.yaml", "larger than any row|first entry is not")
