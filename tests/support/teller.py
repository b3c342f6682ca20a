"""One client of the bank test: a process that earns, spends, reads, repeats itself and rolls single users back.

Whatever it was told succeeded, it writes into its journal, which is compared with the ledgers in the end.
"""

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, OperationalError, transaction

from mana_migration.domain.options import SKIP, WRITE_OFF, RollbackOptions
from mana_migration.errors import MigrationError
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.rollback import Rollback
from tests.support import oracle
from wishes import services
from wishes.errors import InsufficientBalanceError, ReferenceConflictError, WishesError
from wishes.models import Wallet
from wishes.rates import COLOURS

COUPON_ROUNDS = 40
TRIES = 8


class ChangedMyMindError(Exception):
    """The application takes its own transaction back."""


@dataclass(frozen=True)
class Call:
    """A booking as asked for."""

    user: Any
    kind: str
    currency: str
    amount: int
    reference: str

    def book(self) -> services.Receipt:
        if self.currency == "mana":
            on_mana = services.earn_mana if self.kind == "earn" else services.spend_mana
            return on_mana(self.user, self.amount, reference=self.reference)
        on_wishes = services.earn_wishes if self.kind == "earn" else services.spend_wishes
        return on_wishes(self.user, self.currency, self.amount, reference=self.reference)


class Teller:
    """Do a number of operations, chosen by a seed."""

    def __init__(
        self, number: int, *, seed: int, users: list[Any], hot: int, operations: int, folder: Path, barrier: Barrier
    ) -> None:
        self.number, self.users, self.hot, self.operations, self.barrier = number, users, hot, operations, barrier
        self.random = random.Random(f"{seed}:{number}")
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self.done: list[tuple[Call, services.Receipt]] = []
        self.stale: list[Wallet] = []
        self.serial = 0
        self.journal = (folder / f"teller-{number}.journal").open("w", buffering=1)

    def run(self) -> None:
        """Do everything and leave a summary behind."""
        settings.MANA_MIGRATION_CONVERT_ON_TOUCH = self.number % 2 == 0
        choices: list[tuple[int, Callable[[], None]]] = [
            (48, self.book),
            (15, self.read),
            (10, self.repeat),
            (8, self.give),
            (6, self.save_stale),
            (4, self.read_all),
            (3, self.roll_back),
        ]
        weights, actions = zip(*choices, strict=True)
        rounds = max(5, self.operations // COUPON_ROUNDS)
        for count in range(self.operations):
            action = self.redeem if count % rounds == 0 else self.random.choices(actions, weights)[0]
            try:
                action()
            except OperationalError as error:
                self.counts[f"database error: {str(error).splitlines()[0]}"] += 1
            except (WishesError, IntegrityError) as error:  # without the lock the guard may be who notices
                self.unexpected.append(f"{type(error).__name__}: {str(error).splitlines()[0]}")
        self.journal.close()
        summary = {"counts": self.counts, "unexpected": self.unexpected[:50], "operations": self.operations}
        (self.folder / f"teller-{self.number}.json").write_text(json.dumps(summary))

    # What it does

    def book(self) -> None:
        """Earn or spend something as somebody."""
        self._try(self._call())

    def redeem(self) -> None:
        """Redeem the one coupon of this round, as all the others do at this moment, each for another user."""
        self.barrier.wait(timeout=600)
        self.serial += 1
        number = self.serial  # not of the journal: the same for all tellers
        user = self.users[(self.number + number) % len(self.users)]
        self._try(Call(user, "earn", "mana", 25, f"coupon:{number}:{self.operations}"))

    def read(self) -> None:
        """Look at one balance, which is never negative and never half converted."""
        balance = services.read_balance(self._user())
        if balance.mana < 0 or (balance.migrated and (balance.green, balance.blue, balance.red) != (0, 0, 0)):
            self.unexpected.append(f"a balance is {balance}")
        self.counts["read"] += 1

    def read_all(self) -> None:
        """Look at all balances in one snapshot, which must add up."""
        found = oracle.endowment()
        expected = oracle.Endowment(**json.loads((self.folder / "endowment.json").read_text()))
        if found != expected:
            self.unexpected.append(f"all wallets add up to {found}, not {expected}")
        self.counts["read all"] += 1

    def repeat(self) -> None:
        """Retry something that succeeded, as a client does whose connection broke."""
        if not self.done:
            return self.book()
        call, first = self.random.choice(self.done)
        again = call.book()
        if not again.repeated or (again.currency, again.amount, again.balance_after) != (
            first.currency,
            first.amount,
            first.balance_after,
        ):
            self.unexpected.append(f"{call} was {first} and is now {again}")
        self.counts["repeated"] += 1
        return None

    def give(self) -> None:
        """Move mana from one user to another in one transaction, which is sometimes taken back."""
        giver, taker = self._user(), self._user()
        if giver == taker:
            return
        amount, reference = self.random.randint(1, 50), self._reference("gift")
        calls = [
            Call(giver, "spend", "mana", amount, f"{reference}:out"),
            Call(taker, "earn", "mana", amount, f"{reference}:in"),
        ]
        try:
            with transaction.atomic():
                services.lock_wallets(giver, taker)
                receipts = [call.book() for call in calls]
                if self.random.random() < 0.2:
                    raise ChangedMyMindError
        except (InsufficientBalanceError, ChangedMyMindError) as error:
            self.counts[f"gift: {type(error).__name__}"] += 1
            return
        for call, receipt in zip(calls, receipts, strict=True):
            self._note(call, receipt)
        self.counts["gift"] += 1

    def save_stale(self) -> None:
        """Save a whole wallet as it was a while ago, as old code does; a migrated wallet must refuse it."""
        if not self.stale:
            self.stale += Wallet.objects.filter(pk__in=[self._user() for _ in range(20)])
        wallet = self.stale.pop(self.random.randrange(len(self.stale)))
        wallet.red, wallet.migrated_at = wallet.red + 1, None  # as code does that knew it before
        with transaction.atomic():
            # an unmigrated wallet takes such a save, which is why that code must go: it is not tried here
            if Wallet.objects.select_for_update().get(pk=wallet.pk).migrated_at is None:
                self.counts["stale save not tried"] += 1
                return
            try:
                with transaction.atomic():
                    wallet.save()
            except IntegrityError as error:
                if "use wishes.services" not in str(error):
                    self.unexpected.append(f"a stale save was refused with {error}")
                self.counts["stale save refused"] += 1
            else:
                self.counts["stale save accepted"] += 1

    def roll_back(self) -> None:
        """Take one user's conversion back."""
        user = self._user()
        if not Wallet.objects.filter(pk=user).exists():
            return  # nothing can be recorded of a user without a wallet
        policy = WRITE_OFF if self.random.random() < 0.2 else SKIP
        options = RollbackOptions(users=(str(user),), on_shortfall=policy)
        try:
            totals = Rollback(options).handle_selected(RunContext(actor=Actor(f"teller {self.number}", "bank"))).totals
        except MigrationError as error:
            self.counts[f"rollback refused: {type(error).__name__}"] += 1
            return
        self.counts["rolled back" if totals.rolled_back else f"not rolled back: {next(iter(totals.skips), '?')}"] += 1

    # How it does it

    def _user(self) -> Any:
        """Return a user, half of the time one of the few hot ones."""
        return self.random.choice(self.users[: self.hot] if self.random.random() < 0.5 else self.users)

    def _reference(self, what: str) -> str:
        self.counts["references"] += 1
        return f"{what}:{self.number}:{self.counts['references']}"

    def _call(self) -> Call:
        kind = self.random.choice(["earn", "earn", "spend"])
        currency = self.random.choice([*COLOURS, "mana", "mana"])
        amount = self.random.randint(1, 2000 if currency == "mana" else 5)
        return Call(self._user(), kind, currency, amount, self._reference(kind))

    def _try(self, call: Call) -> None:
        """Book, and again with the same reference if the database had other plans."""
        for _ in range(TRIES):
            try:
                receipt = call.book()
            except (InsufficientBalanceError, ReferenceConflictError) as error:
                self.counts[type(error).__name__] += 1
                return
            except OperationalError as error:
                self.counts[f"database error: {str(error).splitlines()[0]}"] += 1
                continue
            self._note(call, receipt)
            self.counts[call.kind] += 1
            return
        self.unexpected.append(f"{call} could not be booked")

    def _note(self, call: Call, receipt: services.Receipt) -> None:
        self.done.append((call, receipt))
        entry = [call.reference, str(call.user), call.kind, receipt.currency, receipt.amount, receipt.balance_after]
        self.journal.write(json.dumps(entry) + "\n")
