"""The frozen encoding: these vectors must never change, because heads that people keep elsewhere are made of it."""

import hashlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mana_migration.domain import chain

RECORD = "record|7|converted|3|2|1|0|1230||42"
REVERSAL = "reversal|8|7|3|2|1|1200|30|42"
FIGURES = dict.fromkeys(chain.LINKED_FIGURES, 0) | {"selected": 2, "migrated": 1, "failed": 1, "green": 3, "mana": 1230}


def test_a_records_line_is_its_fields_with_the_key_last() -> None:
    line = chain.record_line(
        run=7, outcome="converted", green=3, blue=2, red=1, mana_before=0, mana_credited=1230, error_class="", user="42"
    )
    assert line == RECORD
    assert chain.mark(line) == "8430bf9914f5fb03"


def test_a_reversals_line_names_both_runs() -> None:
    line = chain.reversal_line(run=8, origin=7, green=3, blue=2, red=1, debited=1200, shortfall=30, user="42")
    assert line == REVERSAL
    assert chain.mark(line) == "1318c33aa8658f2c"


def test_a_digest_is_that_of_a_file_of_lines() -> None:
    lines = [RECORD, "record|7|failed|-1|0|0|5|0|negative_balance|43"]
    assert chain.digest(lines) == hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    assert chain.digest(lines) == "0ea63e2a0354c4d38d5b0a9194eb3bee4510384083ab7f8a8f783a60e0701fa9"
    assert chain.digest([]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_first_link_hangs_on_what_was_frozen() -> None:
    rates, options = {"green": 10, "blue": 100, "red": 1000}, {"limit": None, "skip_invalid": False, "é": 1.5}
    first = chain.first_link(run=7, kind="migration", rates=rates, options=options)
    assert first == "14f1584997be6fbc78e431df18b3a2c825f5b4f258a69ff5a4b705bed88ace42"
    assert chain.first_link(run=7, kind="migration", rates=dict(reversed(rates.items())), options=options) == first
    assert chain.first_link(run=7, kind="migration", rates=rates | {"red": 999}, options=options) != first


def test_a_link_is_made_of_the_one_before_the_place_the_digest_and_the_figures() -> None:
    link = chain.next_link("a" * 64, 1, "b" * 64, FIGURES)
    assert link == "77e11e88c573fab9bbbdae97f1d7712e739d5ffd31f274b988f7f3a9023d900b"
    assert chain.next_link("c" * 64, 1, "b" * 64, FIGURES) != link
    assert chain.next_link("a" * 64, 2, "b" * 64, FIGURES) != link
    assert chain.next_link("a" * 64, 1, "d" * 64, FIGURES) != link
    for name in chain.LINKED_FIGURES:
        assert chain.next_link("a" * 64, 1, "b" * 64, FIGURES | {name: 99}) != link, name


@pytest.mark.parametrize("key", ["\ud800", "a\udfff", "\udc80b"])
def test_a_key_that_utf_8_cannot_encode_is_refused_without_being_quoted(key: str) -> None:
    line = chain.reversal_line(run=8, origin=7, green=3, blue=2, red=1, debited=1200, shortfall=30, user=key)
    for encode in (chain.mark, lambda line: chain.digest([RECORD, line])):
        with pytest.raises(ValueError, match=r"^lone surrogate at position \d+: neither database") as refusal:
            encode(line)
        assert not isinstance(refusal.value, UnicodeError)  # whose text repeats the key


NUMBERS = st.integers(min_value=-(2**63), max_value=2**63 - 1)
WISHES = {"green": NUMBERS, "blue": NUMBERS, "red": NUMBERS}
RUNS = st.integers(min_value=1, max_value=2**63 - 1)
#: What a text key may hold in both databases: no NUL, no lone surrogate.
KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
RECORDS = st.fixed_dictionaries(
    {"run": RUNS, "outcome": st.sampled_from(sorted(set(chain.OUTCOMES.values()))), **WISHES, "mana_before": NUMBERS,
     "mana_credited": NUMBERS, "error_class": st.sampled_from(["", "overflow", "negative_balance"]),
     "user": KEYS},
)  # fmt: skip
REVERSALS = st.fixed_dictionaries(
    {"run": RUNS, "origin": RUNS, **WISHES, "debited": NUMBERS, "shortfall": NUMBERS, "user": KEYS}
)


def line_of(fields: dict[str, Any]) -> str:
    return chain.reversal_line(**fields) if "origin" in fields else chain.record_line(**fields)


@given(one=RECORDS | REVERSALS, other=RECORDS | REVERSALS)
@example(  # a key that looks like the fields before it
    one={"run": 1, "outcome": "failed", "green": 1, "blue": 2, "red": 3, "mana_before": 4, "mana_credited": 5,
         "error_class": "", "user": "|a"},
    other={"run": 1, "outcome": "failed", "green": 1, "blue": 2, "red": 3, "mana_before": 4, "mana_credited": 5,
           "error_class": "", "user": "a"},
)  # fmt: skip
def test_two_records_that_differ_never_have_the_same_line(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (line_of(one) == line_of(other)) is (one == other)


@given(fields=RECORDS, place=st.data())
def test_whatever_is_changed_in_a_record_changes_its_line(fields: dict[str, Any], place: Any) -> None:
    name = place.draw(st.sampled_from(sorted(fields)))
    changed = fields | {name: fields[name] + 1 if isinstance(fields[name], int) else f"{fields[name]}x"}
    assert line_of(changed) != line_of(fields)
    assert chain.digest([line_of(changed)]) != chain.digest([line_of(fields)])


def test_fixes_and_events_have_links_that_never_change() -> None:
    fix = {"check": "overflow", "user": "42", "before": {"green": -1}, "undoes": None}
    assert (
        chain.next_fix_link("", fix)
        == hashlib.sha256(b'fix||{"before":{"green":-1},"check":"overflow","undoes":null,"user":"42"}').hexdigest()
    )
    first = chain.first_event_link({"run": 7, "actor": "olga"})
    assert first == hashlib.sha256(b'run and its events|{"actor":"olga","run":7}').hexdigest()
    event = {"kind": "started", "details": {10: 1, 9: 2}}  # keys as a database returns them, in their order
    assert (
        chain.next_event_link(first, event)
        == hashlib.sha256(f'event|{first}|{{"details":{{"10":1,"9":2}},"kind":"started"}}'.encode()).hexdigest()
    )
