"""Write the sample files beside this script, each by the tool that people have it from.

python tests/files/make.py            # what Python, openpyxl and tablib write
python tests/files/make.py --tools    # as well what psql (PGHOST, PGDATABASE …) and LibreOffice write
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import tablib
from openpyxl.worksheet.formula import ArrayFormula

FOLDER = Path(__file__).parent
HEADER = ["id", "name", "green_balance", "blue_balance", "red_balance", "mana_balance", "legacy_migration_completed"]
LINE = ",".join(HEADER) + "\n"
ANN = "1001,Ann,5,1,0,0,false\n"
BOB = "1002,Bob,7,1,0,0,false\n"

TEXTS: dict[str, str | bytes] = {
    "stray-quotes.csv": LINE
    + '1001,"Ann,5,1,0,0,false\n1002,Bob,7,1,0,0,false\n1003,Cy 6",9,9,9,0,false\n1004,D,1,0,0,0,false\n',
    "quote-never-closed.csv": LINE + '1001,"Ann,5,1,0,0,false\n' + BOB + "1004,D,1,0,0,0,false\n",
    "mangled-ids.csv": LINE
    + "".join(f"{key},x,1,0,0,0,false\n" for key in ("1001.0", "NULL", "nan", "#N/A", "5-Mar", "1E+05", "Total")),
    "look-alikes.csv": LINE
    + "".join(
        f"{key},x,1,0,0,0,false\n" for key in ("Zo\u00eb", "Zoe\u0308", "\u200b1001", "\uff11\uff10\uff10\uff11")
    ),
    "shapes.csv": LINE
    + "".join(
        f'{1001 + place},x,"{text}",0,0,0,false\n'
        for place, text in enumerate(("1,234", "NULL", "(5)", "5 EUR", "#N/A", "1e3", "12.0", "12.5", " 5", "5-Mar"))
    ),
    "float-flags.csv": LINE + "1001,Ann,5,1,0,0,0.0\n1002,Bob,0,0,0,50,1.0\n",
    "rows-of-commas.csv": LINE + ANN + ",,,,,,\n,,,,,,\n",
    "semicolons-with-sep.csv": "sep=;\n" + (LINE + ANN).replace(",", ";"),
    "bars.csv": (LINE + ANN).replace(",", "|"),
    "titles.csv": "Export of 28 November\n\n" + LINE + ANN,
    "other-names.csv": "ID,Name,Green Balance,Blue Balance,Red Balance,Mana Balance,Migration Completed\n" + ANN,
    "cut-last-line.csv": LINE + ANN + "1002,Bob,7,1,0,0,0",
    "cp1252.csv": LINE.encode() + b"1001,M\xfcller,5,1,0,0,false\n" + BOB.encode(),
    "mysql.csv": LINE.replace("\n", "\r\n")
    + '"1001","Ann \\"A\\" B",5,1,\\N,0,0\r\n"1002","Bob\\\nJr",7,1,0,0,0\r\n"CORP\\\\jdoe","x",1,0,0,0,0\r\n',
    "spreadsheet.tsv": "\t".join(HEADER)
    + '\r\n1001\t"Ann ""A"""\t5\t1\t0\t0\tFALSE\r\n1002\t"Bob\nJr"\t7\t1\t0\t0\tFALSE\r\n',
    "wrapped.json": json.dumps(
        {"users": [dict(zip(HEADER, (str(n), "x" * 60, 1, 0, 0, 0, False), strict=True)) for n in range(3)]}
    ),
    "numbers.json": '[{"id": 1001, "green_balance": 5, "blue_balance": 1, "red_balance": 0, "mana_balance": 0, '
    '"legacy_migration_completed": false}, {"id": 1002.0, "green_balance": "5", "blue_balance": 1.0, '
    '"red_balance": 1e3, "mana_balance": null, "legacy_migration_completed": false}]',
    "lines.jsonl": '{"id": "1001", "green_balance": 5, "blue_balance": 1, "red_balance": 0, "mana_balance": 0, '
    '"legacy_migration_completed": 0.0}\n{"id": "1002", "green\n',
    "versions.yaml": "- {id: '0123', green_balance: 5, blue_balance: ~, red_balance: 0, mana_balance: 0, "
    "legacy_migration_completed: no}\n- {id: 0124, green_balance: 1_000, blue_balance: 1:30, red_balance: 0, "
    "mana_balance: 0, legacy_migration_completed: no}\n",
}

Sheets = dict[str, list[list[Any]]]


def _workbook(sheets: Sheets, *, hidden: tuple[str, ...] = (), formats: dict[str, str] | None = None) -> bytes:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.remove(book.active)
    for name, rows in sheets.items():
        page = book.create_sheet(name)
        for row in rows:
            page.append(row)
        for place, code in (formats or {}).items():
            page[place].number_format = code
        page.sheet_state = "hidden" if name in hidden else "visible"
    return _bytes(book.save)


def _bytes(save: Callable[[Any], object]) -> bytes:
    stream = io.BytesIO()
    save(stream)
    return stream.getvalue()


def _odd_cells() -> bytes:
    """Return a workbook with cells that are not what their values seem to be."""
    book = openpyxl.Workbook()
    page = book.active
    assert page is not None
    for row in (HEADER, *([f"u{place}", "x", 5, 1, 0, 0, False] for place in range(1, 9))):
        page.append(row)
    page["C3"].number_format = "0%"
    page["C4"].number_format = "0,"
    page["A5"], page["A5"].number_format = 1234, "00-00"
    page["C6"] = ArrayFormula("C6:C7", "=G1:G2*0+7")
    page["A8"] = "a_x000D_b"
    page.row_dimensions[9].hidden = True
    return _bytes(book.save)


def _strict(workbook: bytes) -> bytes:
    """Return a workbook with the namespaces of strict Office Open XML."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(workbook)) as source, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            part = source.read(name)
            for old, new in (("spreadsheetml/2006/main", "spreadsheetml/main"),
                             ("officeDocument/2006/relationships", "officeDocument/relationships")):  # fmt: skip
                part = part.replace(
                    f"http://schemas.openxmlformats.org/{old}".encode(), f"http://purl.oclc.org/ooxml/{new}".encode()
                )
            target.writestr(name, part)
    return stream.getvalue()


def _files() -> dict[str, bytes]:
    ann, bob = [1001, "Ann", 5, 1, 0, 0, False], [1002, "Bob", 7, 1, 0, 0, False]
    old = [9, "old", 99, 0, 0, 0, False]
    data = tablib.Dataset(
        ["1001", "Ann", 9_007_199_254_740_993, 1, 0, 0, False],
        [9_123_456_789_012_347, "Bob", 7, 1, 0, 0, False],
        ["1003", 'C "6"', 1, 1, 1, 1, False],
        headers=HEADER,
    )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo("export.csv"), LINE + ANN)
        archive.writestr(zipfile.ZipInfo("__MACOSX/._export.csv"), "x")
    found = {name: text.encode() if isinstance(text, str) else text for name, text in TEXTS.items()}
    found |= {f"tablib.{kind}": data.export(kind) for kind in ("xlsx", "xls", "ods")}
    found |= {f"tablib.{kind}": data.export(kind).encode() for kind in ("csv", "tsv", "json", "yaml")}
    return found | {
        "packed.csv.gz": gzip.compress((LINE + ANN).encode(), mtime=0),
        "cut.csv.gz": gzip.compress((LINE + ANN * 50).encode(), mtime=0)[:-30],
        "packed.zip": packed.getvalue(),
        "hidden-first.xlsx": _workbook({"old": [HEADER, old], "now": [HEADER, ann]}, hidden=("old",)),
        "two-sheets.xlsx": _workbook({"A to M": [HEADER, ann], "N to Z": [HEADER, bob], "notes": [["x"]]}),
        "number-formats.xlsx": _workbook({"s": [HEADER, [123, "x", 1, 0, 0, 0, False], ann]}, formats={"A2": "00000"}),
        "odd-cells.xlsx": _odd_cells(),
        "strict.xlsx": _strict(_workbook({"s": [HEADER, ann]})),
    }


def _tools() -> None:
    """Write what psql and LibreOffice make of the same table."""
    select = (
        "SELECT * FROM (VALUES ('1001', 'Ann \"A', 5, 1, 0, 0, false), (E'CORP\\\\jdoe', E'tab\\there', 7, 1, NULL, 0, "
        "false), ('1003', E'line\\nbreak, comma', 1, 1, 1, 1, NULL)) t (" + ", ".join(HEADER) + ")"
    )
    for name, form in (("psql.tsv", "header"), ("psql.csv", "format csv, header"),
                       ("psql-force-quote.csv", "format csv, header, force_quote *")):  # fmt: skip
        copy = f"\\copy ({select}) to '{FOLDER / name}' with ({form})"
        subprocess.run(["psql", "-q", "-X", "-v", "ON_ERROR_STOP=1", "-c", copy], check=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "libreoffice.csv")
        rows = [
            "1001,Ann,5,5,5,0,FALSE",
            "1002,Bob,0,0,0,0,FALSE",
            "1003,Cy,=1+1,0,0,0,FALSE",
            "1004,D,=1/0,0,0,0,FALSE",
        ]
        source.write_text(LINE + "\n".join(rows) + "\n")
        for kind, origin in (("ods", source), ("xlsx", source), ("xls", source),
                             ("ods", FOLDER / "odd-cells.xlsx"), ("xls", FOLDER / "odd-cells.xlsx")):  # fmt: skip
            subprocess.run(
                ["soffice", "--headless", "--convert-to", kind, "--outdir", str(FOLDER), str(origin)],
                check=True,
                capture_output=True,
            )


if __name__ == "__main__":
    for name, content in _files().items():
        (FOLDER / name).write_bytes(content)
    if "--tools" in sys.argv:
        _tools()
