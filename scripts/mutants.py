"""The small changes of a module that ``make mutation`` tries: Cosmic Ray's, those of SQL in texts, and of escaping."""

import ast
import io
import itertools
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

#: Words of SQL, and what they become.  A space on each side keeps to operators.
SQL_CHANGES: tuple[tuple[str, str], ...] = (
    (" + ", " - "),
    (" - ", " + "),
    (" AND ", " OR "),
    (" OR ", " AND "),
    (" = ", " <> "),
    (" <> ", " = "),
    (" < ", " <= "),
    (" < ", " > "),
    (" > ", " >= "),
    (" > ", " < "),
    (" <= ", " < "),
    (" >= ", " > "),
    ("IS NULL", "IS NOT NULL"),
    ("IS NOT NULL", "IS NULL"),
    ("NOT EXISTS", "EXISTS"),
    ("WHERE NOT ", "WHERE "),
    ("-debit", "debit"),
    (" = 0", " = 1"),
    ("THEN 0", "THEN 1"),
    ("ELSE 0", "ELSE 1"),
    (" DESC", " ASC"),
)
SQL = re.compile(r"\b(SELECT|WHERE|UPDATE|INSERT|DELETE|FROM|CASE|WHEN|AND|OR|NULL|EXISTS|BETWEEN)\b|\w\.\w+ [-<>=+]")


#: What marks a value as HTML that needs no escaping, in a module that imports nothing for it.
RAW = '__import__("django.utils.safestring").utils.safestring.mark_safe'


@dataclass(frozen=True)
class Change:
    """One change of a module: where, what, and the module's text with it."""

    line: int
    what: str
    text: str


def changes_of(path: Path, *, escaping_alone: bool = False) -> Iterator[Change]:
    """Yield every change of a module that changes what it means, each once; of escaping alone where that is asked."""
    text = path.read_text()
    seen = {meaning(text)}
    others = () if escaping_alone else (of_cosmic_ray(text), of_sql(text))
    for change in itertools.chain(of_escaping(text), *others):
        try:
            now = meaning(change.text)
        except SyntaxError:
            continue
        if now not in seen:
            seen.add(now)
            yield change


def meaning(text: str) -> str:
    """Return what is left of a module without annotations, docstrings and what only says how it is done.

    That is how arguments are passed, and whether an answer is kept (``lru_cache``) and how an object is (``slots``).
    """
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.arguments):  # by place or by name is how, not what
            node.args, node.posonlyargs = [*node.posonlyargs, *node.args, *node.kwonlyargs], []
            node.defaults = [*node.defaults, *(default for default in node.kw_defaults if default)]
            node.kwonlyargs, node.kw_defaults = [], []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.decorator_list = [one for one in node.decorator_list if not ast.unparse(one).startswith("lru_cache")]
        if isinstance(node, ast.Call):
            node.keywords = [one for one in node.keywords if one.arg != "slots"]
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not is_text(one)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def is_text(node: ast.AST) -> bool:
    """Say whether a statement is a text and nothing else."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def of_cosmic_ray(text: str) -> Iterator[Change]:
    """Yield the changes that Cosmic Ray's operators make."""
    tree = get_ast(text)
    for name in operator_names():
        operator_class = get_operator(name)
        if operator_class.arguments():
            continue
        operator: Any = operator_class()
        positions = [place for node in ast_nodes(tree) for place in operator.mutation_positions(node)]
        for occurrence, (start, _) in enumerate(positions):
            changed = mutate_code(text, operator, occurrence)
            if changed is not None:
                yield Change(start[0], name.removeprefix("core/"), changed)


def of_sql(text: str) -> Iterator[Change]:
    """Yield the changes of SQL in texts."""
    lines = text.splitlines(keepends=True)
    offsets = list(itertools.accumulate((len(line) for line in lines), initial=0))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.STRING or token.string.lstrip("rf").startswith('"""') or not SQL.search(token.string):
            continue
        begin = offsets[token.start[0] - 1] + token.start[1]
        for old, new in SQL_CHANGES:
            for found in re.finditer(re.escape(old), token.string):
                place = begin + found.start()
                yield Change(
                    token.start[0],
                    f"{old.strip()} -> {new.strip()} in {token.string[max(0, found.start() - 25) : found.end() + 25]}",
                    text[:place] + new + text[place + len(old) :],
                )


def of_escaping(text: str) -> Iterator[Change]:
    """Yield the changes after which a value gets into HTML as it is."""
    lines = text.splitlines(keepends=True)
    offsets = list(itertools.accumulate((len(line) for line in lines), initial=0))

    def place(line: int, column: int) -> int:  # columns are counted in bytes
        return offsets[line - 1] + len(lines[line - 1].encode()[:column].decode())

    for node in ast.walk(ast.parse(text)):
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        if not isinstance(node, ast.Call) or called not in ("format_html", "format_html_join"):
            continue
        for value in node.args[1:] if called == "format_html" else node.args[2:]:
            if is_no_text(value):
                continue
            begin, end = place(value.lineno, value.col_offset), place(value.end_lineno or 0, value.end_col_offset or 0)
            inner = text[begin:end]
            starred = isinstance(value, ast.Starred)
            if called == "format_html_join":
                raw = f"[tuple(map({RAW}, row)) for row in {inner}]"
            else:
                raw = f"*map({RAW}, {inner[1:]})" if starred else f"{RAW}({inner})"
            what = f"not escaped: {' '.join(inner.split())}"
            yield Change(value.lineno, what, text[:begin] + raw + text[end:])


def is_no_text(value: ast.expr) -> bool:
    """Say whether a value is plainly a number of the layout, or HTML that has been escaped."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return value.func.id in ("format_html", "format_html_join")
    return isinstance(value, ast.BinOp) or (isinstance(value, ast.Name) and value.id.lstrip("_").isupper())
