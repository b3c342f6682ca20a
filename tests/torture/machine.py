"""A machine that does anything to a few users, in any order, and compares them with the model after each step."""

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any
from unittest import mock

import hypothesis
from django.contrib.auth import get_user_model
from django.db import IntegrityError, connection, transaction
from django.db.models import F, ProtectedError
from django.test import override_settings
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mana_migration import guards
from mana_migration.domain.options import SKIP, WRITE_OFF, Controls, MigrationOptions, RollbackOptions
from mana_migration.errors import FindingsError, NothingToMigrateError, NothingToRollBackError, RunConflictError
from mana_migration.models import IntegrityFix, MigrationRun, UserMigration
from mana_migration.services import autofix, operation, preflight, runs, validation
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.migration import Migration
from mana_migration.services.rollback import Rollback
from mana_migration.states import RunStatus
from tests.support import oracle
from tests.support.together import together
from tests.torture.model import WORTH, Person, Selection, granted, in_order
from tests.torture.points import AFTER, BEFORE, Moment, watch
from wishes import guards as wishes_guards
from wishes import services
from wishes.errors import InsufficientBalanceError
from wishes.models import ManaEntry, Wallet, WishEntry

ACTOR = Actor("machine", "here")
COLOURS = st.sampled_from(sorted(WORTH))
CURRENCIES = st.sampled_from([*sorted(WORTH), "mana", "mana"])
PEOPLE = 4
USERS = st.integers(0, PEOPLE - 1)
SIZES = st.integers(1, 4)
#: Moments of a command that a crash may choose from; a command that has fewer is not crashed.
MOMENTS = 120
TABLES = (
    "mana_migration_integrityfix", "mana_migration_runevent", "mana_migration_usermigration",
    "mana_migration_migrationbatch", "mana_migration_migrationrun", "wishes_manaentry", "wishes_wishentry",
    "wishes_wallet",
)  # fmt: skip


class CrashError(BaseException):
    """The process ends here: nothing handles it."""


class RegretError(Exception):
    """The application takes its own transaction back."""


class MigrationMachine(RuleBasedStateMachine):
    """Do anything; ``look_every``: the oracle looks after every so many steps, and at the end."""

    look_every = 1

    def __init__(self) -> None:
        super().__init__()
        empty()
        self.references = (f"machine:{number}" for number in itertools.count())
        self.steps = 0
        self.started: dict[int, datetime] = {}
        self.open: tuple[MigrationRun, Selection | None, RollbackOptions | None, int] | None = None
        self.people: list[Person] = []
        self.visitor: Any = None

    @initialize(amounts=st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=PEOPLE, max_size=PEOPLE))
    def open_accounts(self, amounts: list[tuple[int, int, int]]) -> None:
        model = get_user_model()
        model.objects.bulk_create([model(username=f"machine-{number}") for number in range(PEOPLE)])
        keys = model.objects.order_by("pk").values_list("pk", flat=True)
        self.people = [
            Person(key, {**dict(zip(("green", "blue", "red"), amount, strict=True)), "mana": 0})
            for key, amount in zip(keys, amounts, strict=True)
        ]
        Wallet.objects.bulk_create(
            [Wallet(user_id=one.key, **{colour: one.held[colour] for colour in WORTH}) for one in self.people]
        )
        self.endowment = oracle.endowment()

    # The site

    @rule(user=USERS, currency=CURRENCIES, amount=st.integers(1, 2000))
    def earn(self, user: int, currency: str, amount: int) -> None:
        amount = amount if currency == "mana" else amount % 3 + 1
        if currency == "mana":
            services.earn_mana(self.people[user].key, amount, reference=next(self.references))
        else:
            services.earn_wishes(self.people[user].key, currency, amount, reference=next(self.references))
        self.people[user].earn(currency, amount)

    @rule(user=USERS, currency=CURRENCIES, amount=st.integers(1, 2000))
    def spend(self, user: int, currency: str, amount: int) -> None:
        amount = amount if currency == "mana" else amount % 3 + 1
        key, reference = self.people[user].key, next(self.references)
        if self.people[user].spend(currency, amount):
            assert not book(key, currency, amount, reference).repeated
            assert book(key, currency, amount, reference).repeated
        else:
            refused(InsufficientBalanceError, lambda: book(key, currency, amount, reference))

    @rule(user=USERS, colour=COLOURS, amount=st.integers(1, 3))
    def earn_as_old_code_does(self, user: int, colour: str, amount: int) -> None:
        one = self.people[user]
        if one.migrated:
            refused(IntegrityError, lambda: self.write_wallet(one, colour, amount))
            return
        self.write_wallet(one, colour, amount)
        one.held[colour] += amount
        self.endowment = granted(self.endowment, colour, amount)

    @precondition(lambda self: self.open is None)
    @rule(user=USERS, colour=COLOURS, amount=st.integers(1, 3))
    def overdraw_as_old_code_does(self, user: int, colour: str, amount: int) -> None:
        one = self.people[user]
        if one.migrated:
            return
        change = -one.held[colour] - amount
        self.write_wallet(one, colour, change)
        one.held[colour] += change
        self.endowment = granted(self.endowment, colour, change)

    @rule(user=USERS)
    def save_a_stale_wallet(self, user: int) -> None:
        """Save a whole wallet as it was before the conversion: refused, once there was one."""
        one = self.people[user]
        if one.migrated and one.taken and any(one.taken.values()):
            stale = Wallet(user_id=one.key, **one.taken, mana=0)
            refused(IntegrityError, lambda: inside(lambda: stale.save(force_update=True)))

    @rule(user=USERS)
    def delete(self, user: int) -> None:
        """Delete a user with a history: refused."""
        account = get_user_model().objects.get(pk=self.people[user].key)
        wallet = {"user": account, "green": 0, "blue": 0, "red": 0, "mana": 0, "migrated_at": None}
        traces = (ManaEntry, WishEntry, UserMigration, IntegrityFix)
        if not Wallet.objects.filter(**wallet).exists() or any(
            trace.objects.filter(user=account).exists() for trace in traces
        ):
            refused(ProtectedError, account.delete)

    @rule()
    def sign_up_or_leave(self) -> None:
        """Sign up without ever touching a wallet; leave again the next time."""
        users = get_user_model().objects
        if self.visitor is None:
            self.visitor = users.create(username="visitor").pk
            return
        users.get(pk=self.visitor).delete()
        assert not users.filter(pk=self.visitor).exists()
        self.visitor = None

    @rule(user=USERS, currency=CURRENCIES, amount=st.integers(1, 2000))
    def spend_and_be_converted(self, user: int, currency: str, amount: int) -> None:
        """Spend where the setting says that an open run converts whom it meets."""
        one = self.people[user]
        after = one.copy()
        if self.touches(one):
            assert self.open is not None
            after.convert(self.open[0].pk, self.steps)
        with override_settings(MANA_MIGRATION_CONVERT_ON_TOUCH=True):
            amount = amount if currency == "mana" else amount % 3 + 1
            if after.spend(currency, amount):
                book(one.key, currency, amount, next(self.references))
                self.people[user] = after
            else:  # what is refused has not converted anybody
                refused(InsufficientBalanceError, lambda: book(one.key, currency, amount, next(self.references)))

    def touches(self, one: Person) -> bool:
        """Say whether the open run converts this user now."""
        if self.open is None or self.open[1] is not None or one.migrated or one.negative:
            return False
        run = MigrationRun.objects.get(pk=self.open[0].pk)
        return run.status == RunStatus.RUNNING and not UserMigration.objects.filter(run=run, user_id=one.key).exists()

    @rule(giver=USERS, taker=USERS, amount=st.integers(1, 500), regret=st.booleans())
    def give(self, giver: int, taker: int, amount: int, regret: bool) -> None:
        """Move mana in one transaction, which may be taken back."""
        reference = next(self.references)
        keys = self.people[giver].key, self.people[taker].key

        def move() -> None:
            services.lock_wallets(*keys)
            services.spend_mana(keys[0], amount, reference=f"{reference}:out")
            services.earn_mana(keys[1], amount, reference=f"{reference}:in")
            if regret:
                raise RegretError

        if self.people[giver].held["mana"] < amount:
            refused(InsufficientBalanceError, lambda: inside(move))
        elif regret:
            refused(RegretError, lambda: inside(move))
        else:
            inside(move)
            self.people[giver].spend("mana", amount)
            self.people[taker].earn("mana", amount)

    @rule(user=USERS)
    def read(self, user: int) -> None:
        one = self.people[user]
        seen = services.read_balance(one.key)
        assert (seen.green, seen.blue, seen.red, seen.mana, seen.migrated) == one.balances
        assert seen.wishes_worth == sum(WORTH[colour] * one.held[colour] for colour in WORTH)

    @rule()
    def a_moment_passes(self) -> None:
        """Note a moment that is neither that of the step before nor that of the next, however coarse the clock is."""
        time.sleep(0.002)
        self.started[self.steps] = runs.database_now("default")
        time.sleep(0.002)

    # Migrations

    def migrate(self, options: MigrationOptions) -> None:
        """Migrate all, or some; what must come of it depends on what is open."""
        if self.open is not None and self.open[1] is not None:
            refused(RunConflictError, lambda: operation.execute(Migration(options), RunContext(actor=ACTOR)))
            return
        eligible = self.eligible(options)
        if self.open is None and not eligible:
            refused(NothingToMigrateError, lambda: operation.execute(Migration(options), RunContext(actor=ACTOR)))
            return
        negative = [one for one in self.people if one.negative and not one.migrated]
        repaired: list[Person] = []
        if options.auto_fix and self.open is None:
            for one in negative:
                one.fixed = {colour: one.held[colour] for colour in WORTH if one.held[colour] < 0}
                for colour in one.fixed:
                    one.held[colour] = 0
            repaired, negative = negative, []
        if negative and not options.skip_invalid and self.open is None:
            refused(FindingsError, lambda: operation.execute(Migration(options), RunContext(actor=ACTOR)))
            return
        done = operation.execute(Migration(options), RunContext(actor=ACTOR))
        assert done.status == "completed", done
        assert done.run is not None
        for one in repaired:
            one.fixed_by = done.run
        for one in in_order(eligible)[: options.limit]:
            if not one.negative:
                one.convert(done.run, self.steps)
        self.open = None

    def eligible(self, options: MigrationOptions) -> list[Person]:
        """Return who is still to be handled."""
        handled = set()
        if self.open is not None:
            if MigrationRun.objects.get(pk=self.open[0].pk).status == RunStatus.CHECKING:
                return []  # it has converted everybody, and whoever was taken back since is not its business any more
            handled = set(UserMigration.objects.filter(run=self.open[0]).values_list("user_id", flat=True))
        return [
            one
            for one in self.people
            if not one.migrated and one.key not in handled and (one.failed or not options.retry_failed)
        ]

    @rule(size=SIZES)
    def migrate_all(self, size: int) -> None:
        self.migrate(MigrationOptions(controls=Controls(batch_size=size, delay=0.0)))

    @precondition(lambda self: self.open is None)
    @rule(size=SIZES, limit=st.integers(1, 3), skip_invalid=st.booleans())
    def migrate_some(self, size: int, limit: int, skip_invalid: bool) -> None:
        self.migrate(
            MigrationOptions(limit=limit, skip_invalid=skip_invalid, controls=Controls(batch_size=size, delay=0.0))
        )

    @precondition(lambda self: self.open is None)
    @rule()
    def migrate_with_auto_fix(self) -> None:
        self.migrate(MigrationOptions(auto_fix=True, controls=Controls(delay=0.0)))

    @precondition(lambda self: self.open is None)
    @rule(skip_invalid=st.booleans())
    def migrate_whom_a_run_has_failed(self, skip_invalid: bool) -> None:
        self.migrate(MigrationOptions(retry_failed=True, skip_invalid=skip_invalid, controls=Controls(delay=0.0)))

    @rule(users=st.sets(USERS, min_size=1))
    def migrate_selected(self, users: set[int]) -> None:
        chosen = [self.people[user] for user in users]
        options = MigrationOptions(users=tuple(str(one.key) for one in chosen))
        if self.open is not None and self.open[1] is not None:
            refused(RunConflictError, lambda: operation.execute(Migration(options), RunContext(actor=ACTOR)))
            return
        done = operation.execute(Migration(options), RunContext(actor=ACTOR))
        for one in chosen:
            if one.migrated:
                continue
            if one.negative:
                one.failed = True
                continue
            assert done.run is not None
            one.convert(done.run, self.steps)
        failed = [one for one in chosen if one.negative]
        assert done.totals.failed == len(failed)

    @precondition(lambda self: any(one.migrated for one in self.people))
    @rule()
    def change_the_rates(self) -> None:
        """Other rates are refused while anybody is migrated at these."""
        with override_settings(WISHES_RATES={"green": 11, "blue": 100, "red": 1000}):
            refused(RunConflictError, lambda: operation.execute(Migration(MigrationOptions()), RunContext(actor=ACTOR)))

    @rule()
    def fix(self) -> None:
        autofix.fix_all(actor=ACTOR.name)
        for one in self.people:
            if not one.migrated:
                for colour in WORTH:
                    one.held[colour] = max(0, one.held[colour])

    # Rollbacks

    @rule(users=st.sets(USERS, min_size=1), write_off=st.booleans())
    def roll_back_selected(self, users: set[int], write_off: bool) -> None:
        chosen = [self.people[user] for user in users]
        options = RollbackOptions(
            users=tuple(str(one.key) for one in chosen), on_shortfall=WRITE_OFF if write_off else SKIP
        )
        before = {one.key: one.copy() for one in chosen}
        if not any(one.migrated for one in chosen):
            with contextlib.suppress(NothingToRollBackError):
                operation.execute(Rollback(options), RunContext(actor=ACTOR))
            return
        operation.execute(Rollback(options), RunContext(actor=ACTOR))
        for one in chosen:
            if before[one.key].migrated:
                one.take_back(write_off=write_off)

    @rule(kind=st.sampled_from(["all", "run", "since"]), write_off=st.booleans(), keep=st.booleans(), data=st.data())
    def roll_back(self, kind: str, write_off: bool, keep: bool, data: st.DataObject) -> None:
        chosen = self.choose(kind, data)
        if chosen is None:
            return
        selection, options = chosen
        options = RollbackOptions(**options, on_shortfall=WRITE_OFF if write_off else SKIP, preserve_logs=keep)
        candidates = [one for one in self.people if one.migrated and selection.holds(one)]
        if self.open is not None and self.open[2] is not None:
            if self.open[1] == selection and self.open[2].as_dict() == options.as_dict():
                self.go_on()
            else:
                refused(RunConflictError, lambda: operation.execute(Rollback(options), RunContext(actor=ACTOR)))
            return
        if not candidates:
            refused(NothingToRollBackError, lambda: operation.execute(Rollback(options), RunContext(actor=ACTOR)))
            return
        done = operation.execute(Rollback(options), RunContext(actor=ACTOR))
        assert done.status == "completed", done
        self.took_back(candidates, options)
        self.open = None

    def choose(self, kind: str, data: st.DataObject) -> tuple[Selection, dict[str, Any]] | None:
        """Return a selection, as the model and as the product take it."""
        if kind == "all":
            return Selection("all"), {"everything": True}
        if kind == "run":
            migrations = MigrationRun.objects.filter(kind="migration").order_by("pk").values_list("pk", flat=True)
            if not migrations:
                return None
            run = data.draw(st.sampled_from(list(migrations)), label="run")
            return Selection("run", run=run), {"run": run}
        if not self.started:
            return None
        step = data.draw(st.sampled_from(sorted(self.started)), label="since step")
        return Selection("since", since=step), {"since": self.started[step]}

    def took_back(self, candidates: list[Person], options: RollbackOptions) -> None:
        """Do to the model what a finished rollback must have done."""
        for one in candidates:
            if one.take_back(write_off=options.write_off) is not None and not options.preserve_logs:
                note(f"the record of {one.key} is deleted")

    # Crashes

    @precondition(lambda self: self.open is None or self.open[1] is None)
    @rule(size=SIZES, position=st.integers(1, MOMENTS), after=st.booleans())
    def crash_a_migration(self, size: int, position: int, after: bool) -> None:
        if any(one.negative for one in self.people if not one.migrated):
            return
        options = MigrationOptions(controls=Controls(batch_size=size, delay=0.0))
        eligible = self.eligible(options)
        if self.open is None and not eligible:
            return
        crashed = crash(lambda: operation.execute(Migration(options), RunContext(actor=ACTOR)), position, after=after)
        run = self.open[0].pk if self.open is not None else self.latest_migration()
        reached = self.adopt(lambda one: one.convert(run, self.steps), eligible)
        assert crashed or len(reached) == len(eligible)
        self.look_what_is_open(None, None)

    def latest_migration(self) -> int:
        """Return the run of the migration that was begun last; 0 where there was none."""
        runs_begun = MigrationRun.objects.filter(kind="migration").order_by("-pk")
        return runs_begun.values_list("pk", flat=True).first() or 0

    @precondition(lambda self: self.open is None)
    @rule(write_off=st.booleans(), position=st.integers(1, MOMENTS), after=st.booleans(), size=SIZES)
    def crash_a_rollback(self, write_off: bool, position: int, after: bool, size: int) -> None:
        candidates = [one for one in self.people if one.migrated]
        if not candidates:
            return
        options = RollbackOptions(
            everything=True,
            on_shortfall=WRITE_OFF if write_off else SKIP,
            controls=Controls(batch_size=size, delay=0.0),
        )
        crash(lambda: operation.execute(Rollback(options), RunContext(actor=ACTOR)), position, after=after)
        self.adopt(lambda one: one.take_back(write_off=write_off), candidates)
        self.look_what_is_open(Selection("all"), options)

    @precondition(lambda self: self.open is not None)
    @rule()
    def go_on(self) -> None:
        """Give the command that crashed again."""
        assert self.open is not None
        run, selection, options, crashed_at = self.open
        if selection is None or options is None:
            self.migrate(MigrationOptions(controls=Controls.from_dict(run.controls)))
            return
        skipped = set(UserMigration.objects.filter(run=run).values_list("user_id", flat=True))
        candidates = [
            one
            for one in self.people
            # whoever was converted after the rollback began is none of its business
            if one.migrated and selection.holds(one) and one.moment <= crashed_at and one.key not in skipped
        ]
        done = operation.execute(Rollback(options), RunContext(actor=ACTOR))
        assert done.status == "completed", done
        self.took_back(candidates, options)
        self.open = None

    @precondition(lambda self: self.open is not None)
    @rule()
    def stop(self) -> None:
        assert self.open is not None
        runs.stop_run(self.open[0].pk, actor=ACTOR, reason="enough")
        self.open = None

    def adopt(self, change: Callable[[Person], Any], people: list[Person]) -> list[Person]:
        """Change those whom a crashed command had reached: each is as before or as after it, as the invariant sees."""
        found = wallets()
        reached = [one for one in people if found[one.key] != one.balances]
        for one in reached:
            change(one)
        return reached

    def look_what_is_open(self, selection: Selection | None, options: RollbackOptions | None) -> None:
        run = runs.open_run_or_none("default")
        if run is None:
            self.open = None
        elif run.kind == "migration":
            self.open = (run, None, None, self.steps)
        else:
            self.open = (run, selection, options, self.steps)

    # What must hold

    @invariant()
    def everybody_has_what_the_model_says(self) -> None:
        if not self.people:
            return
        found = wallets()
        for one in self.people:
            assert found[one.key] == one.balances, f"user {one.key}: {found[one.key]}, not {one.balances}"
        self.steps += 1
        if self.steps % self.look_every == 0:
            self.look()

    def look(self) -> None:
        oracle.assert_books_balance(expected=self.endowment)

    def teardown(self) -> None:
        if not self.steps:
            return
        self.look()
        report = validation.validate(phase="post")
        assert report.ok, [check for check in report.checks if check.blocks]

    def write_wallet(self, one: Person, colour: str, change: int) -> None:
        inside(lambda: Wallet.objects.filter(pk=one.key).update(**{colour: F(colour) + change}))


def wallets() -> dict[Any, tuple[int, int, int, int, bool]]:
    """Return everybody's balances and whether they are migrated."""
    rows = Wallet.objects.values_list("pk", "green", "blue", "red", "mana", "migrated_at")
    return {key: (green, blue, red, mana, moment is not None) for key, green, blue, red, mana, moment in rows}


def refused(error: type[Exception], do: Callable[[], Any]) -> None:
    """Do what must be refused."""
    try:
        do()
    except error:
        return
    raise AssertionError(f"it was not refused with {error.__name__}")


def book(key: Any, currency: str, amount: int, reference: str) -> services.Receipt:
    """Spend mana or wishes."""
    if currency == "mana":
        return services.spend_mana(key, amount, reference=reference)
    return services.spend_wishes(key, currency, amount, reference=reference)


def inside(do: Callable[[], Any]) -> Any:
    """Do something in a transaction."""
    with transaction.atomic():
        return do()


def crash(do: Callable[[], Any], position: int, *, after: bool) -> bool:
    """Begin something and let the process end at one of its moments; return whether it had so many."""

    struck = False

    def act(moment: Moment, when: str) -> None:
        nonlocal struck
        # whatever the work does about it, such as trying again: its process is gone
        struck = struck or (moment.position == position and when == (AFTER if after else BEFORE))
        if struck:
            raise CrashError

    try:
        with watch(act):
            do()
    except BaseException:  # on its way up an error of the connection may take its place
        if not struck:
            raise
    if struck:
        connection.close()
    return struck


def explore(*, examples: int, steps: int, seed: int | None = None, look_every: int = 1) -> Counter[str]:
    """Let the machine do so many sequences of so many steps; without a seed always the same. Return
    the numbers of steps and sequences done.

    Raises:
        AssertionError, or whatever else was raised, with the shortest sequence found that leads to it.
    """
    done: Counter[str] = Counter()

    class Machine(MigrationMachine):
        def teardown(self) -> None:
            done.update(steps=self.steps, sequences=1)
            super().teardown()

    Machine.look_every = look_every
    test = Machine.TestCase
    test.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=seed is None,
        database=None,
        print_blob=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    if seed is not None:
        test.runTest = hypothesis.seed(seed)(test.runTest)
    # Django reads every schema migration's file to find out that none is missing: a sixth of all the work here.
    with mock.patch.object(preflight, "_check_schema"), together():
        test().runTest()
    return done


def empty() -> None:
    """Empty every table of ours and that of the users, on a connection that has done nothing else: always the same."""
    connection.close()
    users = get_user_model()._meta.db_table
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL session_replication_role = replica")
            cursor.execute(f"TRUNCATE {', '.join(TABLES)}, {users} RESTART IDENTITY CASCADE")
            return
        cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        triggers = cursor.fetchall()
        for name, _ in triggers:
            cursor.execute(f'DROP TRIGGER "{name}"')
        for table in (*TABLES, users):
            cursor.execute(f'DELETE FROM "{table}"')
        cursor.execute("DELETE FROM sqlite_sequence")
        for _, sql in triggers:
            cursor.execute(sql)
    assert not wishes_guards.faults(connection) | guards.faults(connection)
