"""Users and their migration in plain Python: what must become of everybody, by another way than the product's SQL."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.support.oracle import Endowment

WORTH = {"green": 10, "blue": 100, "red": 1000}

Balances = tuple[int, int, int, int, bool]


@dataclass
class Person:
    """One user."""

    key: Any
    held: dict[str, int] = field(default_factory=lambda: {"green": 0, "blue": 0, "red": 0, "mana": 0})
    taken: dict[str, int] | None = None
    """The wishes that the live conversion took; None: not migrated."""
    by_run: int = 0
    moment: int = 0
    """When: the number of the model's step."""
    fixed: dict[str, int] = field(default_factory=dict)
    """The negative amounts that a run's auto-fix has set to 0; taken back with the run's conversion."""
    fixed_by: int = 0
    failed: bool = False
    """Some run has failed this user, and its record is still there."""

    @property
    def migrated(self) -> bool:
        return self.taken is not None

    @property
    def credit(self) -> int:
        """Return the mana that the live conversion gave."""
        return sum(WORTH[colour] * amount for colour, amount in (self.taken or {}).items())

    @property
    def negative(self) -> bool:
        return min(self.held[colour] for colour in WORTH) < 0

    @property
    def balances(self) -> Balances:
        return (self.held["green"], self.held["blue"], self.held["red"], self.held["mana"], self.migrated)

    # What happens to them

    def convert(self, run: int, moment: int) -> None:
        assert not self.migrated
        assert not self.negative
        self.taken = {colour: self.held[colour] for colour in WORTH}
        self.held["mana"] += self.credit
        self.held |= dict.fromkeys(WORTH, 0)
        self.by_run, self.moment = run, moment

    def take_back(self, *, write_off: bool) -> int | None:
        """Undo the conversion; return what was written off, None where it is left because of what was spent."""
        assert self.taken is not None
        lacking = max(0, self.credit - self.held["mana"])
        if lacking and not write_off:
            return None
        self.held["mana"] -= self.credit - lacking
        for colour, amount in self.taken.items():
            self.held[colour] += amount
        if self.fixed_by == self.by_run:
            for colour, amount in self.fixed.items():
                self.held[colour] += amount
            self.fixed = {}
        self.taken = None
        return lacking

    def earn(self, currency: str, amount: int) -> None:
        if self.migrated and currency != "mana":
            currency, amount = "mana", amount * WORTH[currency]
        self.held[currency] += amount

    def spend(self, currency: str, amount: int) -> bool:
        """Pay; return False where there is not enough."""
        if self.migrated and currency != "mana":
            currency, amount = "mana", amount * WORTH[currency]
        if self.held[currency] < amount:
            return False
        self.held[currency] -= amount
        return True

    def copy(self) -> "Person":
        return replace(
            self, held=dict(self.held), fixed=dict(self.fixed), taken=None if self.taken is None else dict(self.taken)
        )


@dataclass(frozen=True)
class Selection:
    """What a mass rollback takes back: everything, one run, or what was converted since a step."""

    kind: str
    run: int = 0
    since: int = 0

    def holds(self, person: Person) -> bool:
        if self.kind == "run":
            return person.by_run == self.run
        return self.kind == "all" or person.moment >= self.since


def granted(endowment: Endowment, currency: str, amount: int) -> Endowment:
    """Return what must be there once the site has given somebody so much beside all services."""
    assert endowment.value is not None
    part = {currency: getattr(endowment, currency) + amount}
    return replace(endowment, **part, value=endowment.value + amount * WORTH.get(currency, 1))


def in_order(people: Iterable[Person]) -> list[Person]:
    """Return people in the order in which runs reach them."""
    return sorted(people, key=lambda person: person.key)
