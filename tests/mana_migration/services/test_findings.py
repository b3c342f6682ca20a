"""What exactly the checks say of every planted violation, and what sums they take: findings.txt, line by line.

The file has a paragraph for each violation: its name, then a line a finding with the names of users in place of their
keys, runs by their place in the economy's history, every figure and the reason. Findings that are there before anything
is planted are the first paragraph and not repeated. Digests of the chains have tests of their own.
"""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import CharField, IntegerField, UUIDField

from mana_migration.domain.repairs import Balances, LedgerState, UserState
from mana_migration.domain.validation import POST, PRE, Finding
from mana_migration.engine.integrity import counting, states
from mana_migration.engine.integrity import findings as told
from mana_migration.engine.integrity import scope as scopes
from mana_migration.engine.integrity.scope import Scope
from mana_migration.engine.integrity.wallets import WalletTerms
from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.services import validation
from tests.support.economy import Economy
from tests.support.violations import PLANTED
from wishes.models import ManaEntry, Wallet
from wishes.rates import Rates

pytestmark = pytest.mark.django_db

EXPECTED = Path(__file__).with_name("findings.txt")


def expected() -> dict[str, list[str]]:
    """Return the lines of each paragraph by its name."""
    paragraphs = (paragraph.splitlines() for paragraph in EXPECTED.read_text().split("\n\n"))
    return {lines[0].removesuffix(":"): [line.strip() for line in lines[1:]] for lines in paragraphs}


class Names:
    """The names of users and the places of runs in an economy."""

    def __init__(self, economy: Economy) -> None:
        """Take the names down before anything is planted."""
        self.users = {str(key): name for name, key in economy.keys.items()}
        self.runs = {
            run: number
            for number, run in enumerate(MigrationRun.objects.order_by("pk").values_list("pk", flat=True), 1)
        }

    def run(self, key: int) -> str:
        """Name a run; one that came with a violation is new."""
        return f"run {self.runs[key]}" if key in self.runs else "new run"

    def line(self, finding: Finding) -> str:
        """Write a finding."""
        words = [finding.check]
        if finding.user is not None:
            words.append(self.users[finding.user])
        if finding.record is not None:
            words.append("record")
        if finding.run is not None:
            words.append(self.run(finding.run))
        written = {
            "other_run": lambda value: self.run(int(value)),
            "reference": self._reference,
            "entry": lambda value: ManaEntry.objects.get(pk=value).kind,
        }
        figures = [f"{name}={written.get(name, str)(value)}" for name, value in sorted(finding.figures.items())]
        return f"{' '.join(words)}: {', '.join(figures)}{'; ' if figures else ''}{finding.reason}".replace(
            f"run {finding.run} began", f"{self.run(finding.run or 0)} began"
        )

    def _reference(self, text: str) -> str:
        """Write the reference of an entry; 999 is invented."""
        parts = text.split(":")
        numbers = [part for part in parts if part in self.users or part == "999" or part.isdecimal()]
        if "999" in numbers:
            return f"{parts[0]}:999"
        named = {number: self.run(int(number)) for number in numbers[:-1]}
        *before, last = [place for place, part in enumerate(parts) if part in numbers]
        return ":".join(
            self.users[part] if place == last else named[part] if place in before else part
            for place, part in enumerate(parts)
        )


def findings(names: Names, **options: Any) -> Counter[str]:
    found: list[Finding] = []
    report = validation.validate(on_finding=found.append, all_hits=True, chains=False, **options)
    assert Counter(finding.check for finding in found) == Counter({check.id: check.count for check in report.checks})
    return Counter(names.line(finding) for finding in found)


def test_every_planted_violation_is_told_with_its_figures(economy: Economy, subtests: Any) -> None:
    names = Names(economy)
    paragraphs = expected()
    before = findings(names)
    assert sorted(before.elements()) == paragraphs["nothing"]
    for _, name, plant in PLANTED:
        with subtests.test(name), transaction.atomic():
            plant(economy)
            found = findings(names)
            transaction.set_rollback(True)
            gone = [f"no longer {line}" for line in (before - found).elements()]
            told = sorted((found - before).elements()) + sorted(gone)
            assert (told or ["nothing"]) == paragraphs[name]


def plant_much(economy: Economy) -> None:
    """Plant violations of several users and runs at once."""
    chosen = {
        "a record says more mana", "an entry of a user without a wallet", "the flag is lost",
        "a conversion's entry is deleted", "a reversal's entry has another amount", "a reversal hides a shortfall",
        "a balance was negative", "the record of an import is deleted", "a failed user was credited",
        "a failed user has a conversion's entry", "a wallet holds more than its entries say",
    }  # fmt: skip
    for _, name, plant in PLANTED:
        if name in chosen:
            chosen.discard(name)
            plant(economy)
    assert not chosen


def test_named_users_are_told_of_as_they_are_among_all(economy: Economy) -> None:
    names = Names(economy)
    plant_much(economy)
    everything = findings(names)
    for some in (["still"], ["active", "back"], ["imported"], ["broke"], ["poorer", "failed", "late"], ["skipped"]):
        told = findings(names, users=[str(economy.key(name)) for name in some])
        about = {line: number for line, number in everything.items() if re.split(r"[ :]", line)[1] in some}
        assert told == about, some
        assert about


@pytest.mark.parametrize("phase", [PRE, POST])
def test_a_phase_tells_its_own_checks_and_no_others(economy: Economy, phase: str) -> None:
    names = Names(economy)
    plant_much(economy)
    of_phase = {check.id for check in validation.checks_of(phase)}
    everything = findings(names)
    told = findings(names, phase=phase)
    compared = {"unbooked_change"}
    assert {line for line in told if line.split()[0].rstrip(":") not in compared} == {
        line for line in everything if line.split()[0].rstrip(":") in of_phase - compared
    }


@pytest.mark.parametrize("few", [1, 10**9], ids=["user by user", "everybody first"])
@pytest.mark.parametrize("run", ["run 4", "run 7", "run 9"])
def test_a_run_is_told_of_as_it_is_among_all(
    economy: Economy, monkeypatch: pytest.MonkeyPatch, few: int, run: str
) -> None:
    monkeypatch.setattr(counting, "SMALL_RUN", few)
    names = Names(economy)
    plant_much(economy)
    key = next(key for key, name in names.runs.items() if name == int(run.split()[1]))
    paragraph = expected()[f"much, seen from {run}"]
    told = findings(names, run=key, phase=POST)
    told = Counter({line: number for line, number in told.items() if not line.startswith("unbooked_change")})
    assert sorted(told.elements()) == paragraph


def test_a_forgotten_pair_explains_itself_when_the_wallet_is_gone_as_well(economy: Economy) -> None:
    names = Names(economy)
    before = findings(names)
    Wallet.objects.filter(pk=economy.key("forgotten")).delete()
    assert {line.partition(":")[0] for line in findings(names) - before} == {
        "ledger_mismatch forgotten",
        "no_wallet forgotten",
        "unbooked_change run 4",
    }


def test_the_sums_are_exact(economy: Economy) -> None:
    both = validation.validate(chains=False)
    assert both.totals == {
        "wallets": 15, "users": 15, "migrated": 7, "unmigrated": 8,
        "green": 15, "blue": 20, "red": 8, "mana": 3155, "worth": 10150, "value": 13305,
        "value_before": 13185, "booked_since": 120,
    }  # fmt: skip
    wallets_alone = {name: both.totals[name] for name in both.totals.keys() - {"value_before", "booked_since"}}
    assert both.baseline == {name: str(value) for name, value in wallets_alone.items()} | {"booked": "6105"}
    assert validation.validate(chains=False, phase=PRE).totals == wallets_alone
    assert validation.wallet_totals() == {name: value for name, value in wallets_alone.items() if name != "users"}


def test_the_state_of_users_is_read_exactly(economy: Economy) -> None:
    """What a repair is decided by: the wallet, the flag, the entries and the live records of each user, no other's."""
    named = ("still", "active", "returned", "back", "broke", "imported", "failed", "late")
    keys = [str(economy.key(name)) for name in named]
    found = dict(zip(named, states.load(connection, keys).values(), strict=True))
    mass, second = economy.record("still").run_id, economy.record("returned", status="migrated").run_id
    entries = {name: replace(state.ledger, newest_entry=0) for name, state in found.items()}
    assert {name: state.ledger.newest_entry for name, state in found.items()} == {
        name: ManaEntry.objects.filter(user_id=economy.key(name)).order_by("-pk").values_list("pk", flat=True).first()
        or 0
        for name in named
    }
    assert {name: (state.wallet, state.migrated) for name, state in found.items()} == {
        "still": (Balances(0, 0, 0, 1230), True),
        "active": (Balances(0, 0, 0, 1155), True),
        "returned": (Balances(0, 0, 0, 110), True),
        "back": (Balances(0, 4, 0, 0), False),
        "broke": (Balances(0, 3, 0, 0), False),
        "imported": (Balances(0, 0, 0, 500), True),
        "failed": (Balances(-2, 0, 0, 0), False),
        "late": (Balances(7, 2, 2, 0), False),
    }
    assert entries == {
        "still": LedgerState(1230, 1230, "conversion", ((mass, 1230),)),
        "active": LedgerState(1155, 1155, "spend", ((mass, 1030),)),
        "returned": LedgerState(110, 110, "conversion", ((second, 110),)),
        "back": LedgerState(0, 0, "reversal"),
        "broke": LedgerState(0, 0, "adjustment", ((mass, 300),)),
        "imported": LedgerState(500, 500, "opening", opening=True),
        "failed": LedgerState(),
        "late": LedgerState(0, 0, "reversal"),
    }
    live = {name: [(each.run, each.before, each.credited) for each in found[name].live] for name in named}
    assert live == {
        "still": [(mass, Balances(3, 2, 1, 0), 1230)],
        "active": [(mass, Balances(3, 0, 1, 25), 1030)],
        "returned": [(second, Balances(1, 1, 0, 0), 110)],
        "imported": [(economy.record("imported").run_id, Balances(0, 0, 0, 0), 0)],
    } | {name: [] for name in ("back", "broke", "failed", "late")}
    assert found["still"].live[0].id == economy.record("still").pk


def test_the_state_without_the_ledger_is_the_wallet_alone(economy: Economy) -> None:
    still, nobody = str(economy.key("still")), "987654321"
    found = states.load(connection, [still, nobody], with_ledger=False)
    assert found == {
        still: UserState(
            Balances(0, 0, 0, 1230), migrated=True, ledger=LedgerState(), migrated_at=found[still].migrated_at
        ),
        nobody: UserState(None, migrated=False, ledger=LedgerState()),
    }
    assert states.load(connection, [nobody])[nobody] == UserState(None, migrated=False, ledger=LedgerState())


def test_an_entry_that_names_no_run_is_of_none(economy: Economy) -> None:
    key = str(economy.key("still"))
    for reference, run in (("conversion", -1), ("conversion:x:1", -1), ("conversion:999", 999)):
        with transaction.atomic():
            ManaEntry.objects.filter(user_id=key, kind="conversion").update(reference=reference)
            assert states.load(connection, [key])[key].ledger.open_conversions == ((run, 1230),)
            transaction.set_rollback(True)


def test_users_are_looked_at_in_ranges_that_leave_nobody_out(economy: Economy, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [str(key) for key in Wallet.objects.order_by("pk").values_list("pk", flat=True)]
    assert len(keys) == 15
    for size, ends in ((7, [keys[6], keys[13], None]), (4, [keys[3], keys[7], keys[11], None]), (16, [None])):
        monkeypatch.setattr(scopes, "RANGE", size)
        cut = list(scopes.ranges(connection, Scope(run=3)))
        assert [(part.after, part.until, part.run) for part in cut] == [
            (after, until, 3) for after, until in zip([None, *ends], ends, strict=False)
        ]
    assert list(scopes.ranges(connection, Scope(users=("5", "6")))) == [Scope(users=("5", "6"))]


def test_a_scope_says_whom_it_leaves_out() -> None:
    assert Scope().all_users
    assert Scope(first="1", last="5").all_users
    for some in (Scope(users=("1",)), Scope(run=1), Scope(after="1"), Scope(until="1")):
        assert not some.all_users
    assert Scope(run=1, users=("1",), after="3", until="4", first="2", last="5").people() == Scope(
        users=("1",), after="3", until="4", first="2", last="5"
    )


@pytest.mark.parametrize(
    ("key", "first", "last"), [(UUIDField(), "1", "3"), (CharField(), None, None), (IntegerField(), "1", "20")]
)
def test_the_keys_of_a_run_are_known_where_their_texts_are_ordered_as_they_are(
    monkeypatch: pytest.MonkeyPatch, key: Any, first: str | None, last: str | None
) -> None:
    run = MigrationRun.objects.create(kind="migration", status="stopped", rates={}, actor="x", host="x")
    for low, high, selected in (("3", "20", 4), ("1", "3", 2)):
        MigrationBatch.objects.create(
            run=run, first_user=low, last_user=high, planned=4, selected=selected, migrated=selected, status="done"
        )
    monkeypatch.setattr(counting, "get_user_model", lambda: SimpleNamespace(_meta=SimpleNamespace(pk=key)))
    scope, handled = counting._range_of_run(connection, Scope(run=run.pk))
    assert (scope.run, scope.first, scope.last, handled) == (run.pk, first, last, 6)


def test_the_users_of_a_check_are_named_once_and_in_the_order_of_keys(
    economy: Economy, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(economy)
    ManaEntry.objects.filter(user_id=economy.key("active"), kind__in=("earn", "spend")).update(balance_after=-1)
    Wallet.objects.filter(pk=economy.key("empty")).update(mana=-1)
    Wallet.objects.filter(pk=economy.key("late")).delete()
    terms = WalletTerms(Rates(), large=1)

    def hit(check: str) -> list[str]:
        return [names.users[key] for key in told.users_hit(connection, check, Scope(), terms)]

    assert hit("negative_mana") == ["empty", "active"]  # wallets first
    assert hit("no_wallet") == ["late"]
    assert hit("negative_balance") == ["skipped", "failed"]
    assert hit("zero_balance") == []
    before = findings(names)
    monkeypatch.setattr(told, "_PAGE", 1)
    assert findings(names) == before
