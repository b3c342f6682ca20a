"""Reading a report's page back as a browser would."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """A parsed page: every element, and the tables by the id of their section."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.style = ""
        self._open: list[str] = []
        self._section = ""
        self._cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element and open what is collected."""
        values = dict(attrs)
        self.elements.append((tag, values))
        self._open.append(tag)
        if tag == "section":
            self._section = values.get("id") or ""
        elif tag == "tr":
            self.tables.setdefault(self._section, []).append([])
        elif tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        """Close a cell."""
        if tag in ("td", "th") and self._cell is not None:
            self.tables[self._section][-1].append("".join(self._cell).strip())
            self._cell = None

    def handle_data(self, data: str) -> None:
        """Collect the text of cells and of the style sheet."""
        if self._cell is not None:
            self._cell.append(data)
        if self._open and self._open[-1] == "style" and not self.style:
            self.style = data

    @property
    def tags(self) -> set[str]:
        """Return the names of all elements."""
        return {tag for tag, _ in self.elements}

    def cell(self, section: str, item: str, column: str) -> str:
        """Return one cell by its section, its row's first cell and its column's head."""
        head, *rows = self.tables[section]
        (row,) = [row for row in rows if row[0] == item]
        return row[head.index(column)]
