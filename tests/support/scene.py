"""Users who are alike, an open migration, and the scripts that act on one of them step by step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

from django.contrib.auth import get_user_model
from django.db import DatabaseError, connections, transaction

from mana_migration import conf
from mana_migration.domain.options import Controls, RollbackOptions
from mana_migration.domain.results import Totals
from mana_migration.engine import batches, conversion, dialect
from mana_migration.engine.batches import Task
from mana_migration.errors import NothingToRollBackError
from mana_migration.models import MigrationBatch, MigrationRun, UserMigration
from mana_migration.services import migration, runs
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.rollback import Rollback
from mana_migration.states import BatchStatus, RunKind, RunStatus
from tests.support.stepping import Stage
from wishes import services
from wishes.models import Wallet

MIGRATE, SPEND, ROLLBACK = "migrate", "spend", "rollback"
STEPS = {MIGRATE: 4, SPEND: 3, ROLLBACK: 3}
SOMEBODY = Actor("somebody", "here")

Steps = Generator[None, None, Any]


class Scene:
    """Users who are alike, an open migration, and the scripts that act on one of them."""

    def __init__(self, count: int, *, migrated: bool = False) -> None:
        model = get_user_model()
        model.objects.bulk_create([model(username=f"actor-{number}") for number in range(count)])
        self.users = list(model.objects.order_by("pk").values_list("pk", flat=True))
        Wallet.objects.bulk_create([Wallet(user_id=key, red=2) for key in self.users])
        for key in self.users:
            services.earn_mana(key, 100, reference=f"opened:{key}")
        if migrated:
            self.convert_everybody()
        self.run = self.open_run()
        self.terms = migration.terms_of(self.run)

    def open_run(self) -> MigrationRun:
        """Open a run as the command does."""
        return runs.create_run(
            using="default",
            kind=RunKind.MIGRATION,
            options={},
            rates={"green": 10, "blue": 100, "red": 1000},
            controls=Controls(),
            actor=SOMEBODY,
        )

    def convert_everybody(self) -> None:
        """Migrate all users by an earlier run."""
        run = self.open_run()
        first, last = str(self.users[0]), str(self.users[-1])
        batch = MigrationBatch.objects.create(run=run, first_user=first, last_user=last, planned=len(self.users))
        task = Task(batch.pk, first, last, "worker")
        with transaction.atomic():
            assert conversion.convert(connections["default"], migration.terms_of(run), task) is not None
        runs.change_status(run.pk, RunStatus.STOPPED, actor=SOMEBODY, using="default")

    def plan(self, user: Any) -> None:
        """Plan the batch of one user, which is the only one to claim."""
        MigrationBatch.objects.create(run=self.run, first_user=str(user), last_user=str(user), planned=1)

    def migrate(self) -> Steps:
        """Do bit by bit what the statement for a batch does: claim, lock the wallets, convert and mark, commit."""
        connection = connections["default"]
        with transaction.atomic(durable=True):
            dialect.set_timeouts(connection, lock_ms=60_000, statement_ms=conf.statement_timeout_ms())
            planned = MigrationBatch.objects.filter(run=self.run, status=BatchStatus.PLANNED).first()
            values = planned and {"batch": planned.pk, "upto": planned.last_user, "user": planned.first_user}
            claimed = values and self._fetch(batches.claim_sql("postgresql", of_running_run=True), values)
            yield
            if values and claimed:
                self._fetch(
                    dialect.lock_wallets("postgresql", "w.user_id = %(user)s AND w.migrated_at IS NULL"), values
                )
            yield
            if planned is not None and claimed:
                task = Task(planned.pk, planned.first_user, planned.last_user, "worker")
                assert conversion.convert(connection, self.terms, task) is not None
            yield

    def _fetch(self, sql: str, values: Mapping[str, Any]) -> Any:
        with connections["default"].cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchone()

    def spend(self, user: Any, name: str = "order") -> Steps:
        """Spend as an application does in a transaction of its own: lock, book, commit."""
        with transaction.atomic():
            services.lock_wallets(user)
            yield
            receipt = services.spend_wishes(user, "red", 2, reference=f"{name}:{user}")
            yield
        return receipt.currency, receipt.amount

    def roll_back(self, user: Any) -> Steps:
        """Take one user's conversion back: hold the run, reverse, commit."""
        with transaction.atomic():
            runs.share_open_migration("default")
            yield
            asked = Rollback(RollbackOptions(users=(str(user),)))
            try:
                totals = asked.handle_selected(RunContext(actor=SOMEBODY)).totals
            except NothingToRollBackError:
                totals = Totals.of_one(skipped="not_migrated")
            yield
        return totals.rolled_back, dict(totals.skips)

    def scripts(self, user: Any) -> dict[str, Callable[[], Steps]]:
        """Return the three scripts for one user."""
        return {
            MIGRATE: self.migrate,
            SPEND: lambda: self.spend(user),
            ROLLBACK: lambda: self.roll_back(user),
        }

    def act(self, on: Stage, user: Any, order: tuple[str, ...], scripts: Mapping[str, Callable[[], Steps]]) -> Any:
        """Walk one order and return its outcome, once the batch is done with as a worker would."""
        self.plan(user)
        on.walk(order, scripts)
        # a batch that was rolled back is tried again
        while MigrationBatch.objects.filter(run=self.run, status=BatchStatus.PLANNED).exists():
            for _ in self.migrate():
                pass
        wallet = Wallet.objects.get(pk=user)
        records = UserMigration.objects.filter(user_id=user)
        return (
            (wallet.green, wallet.blue, wallet.red, wallet.mana, wallet.migrated_at is not None),
            tuple(sorted(records.values_list("status", "red", "mana_credited", "mana_debited"))),
            tuple((name, outcome_of(on, name)) for name in sorted(scripts)),
        )


def outcome_of(on: Stage, name: str) -> str:
    """Return what a script came to; a batch has no outcome of its own, since it is tried again."""
    actor = on.actors[name]
    if name == MIGRATE:
        assert actor.error is None or isinstance(actor.error, DatabaseError), actor.error
        return ""
    return repr(actor.result) if actor.error is None else type(actor.error).__name__
