"""One user of every standing, as the records would show them: for tests of lists and pages."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.urls import reverse
from django.utils import timezone

from mana_migration.domain.results import Totals
from mana_migration.models import MigrationBatch, MigrationRun, RunRequest, UserMigration
from mana_migration.states import RunKind, RunStatus, UserStatus
from tests.mana_migration.history import make_batch, make_run, worth
from wishes.models import EntryKind, ManaEntry, Wallet

HOSTILE_NAMES = (
    "<script>alert(1)</script>",
    '=HYPERLINK("http://evil.example/","click")',
    "\u202egnp.exe\u202c right to left",
    "x" * 150,
    '"><img src=x onerror=alert(1)>',
    "{{ 7|add:7 }}{% now 'Y' %}",
)


def make_user(name: str, *permissions: str, **values: Any) -> Any:
    """Create a user, with permissions of mana_migration by codename."""
    user = get_user_model().objects.create_user(username=name, password="secret", **values)
    if permissions:
        found = Permission.objects.filter(content_type__app_label__in=("mana_migration", "wishes"))
        user.user_permissions.set(found.filter(codename__in=permissions))
        assert user.user_permissions.count() == len(permissions)
    return user


def make_staff(name: str, *permissions: str) -> Any:
    """Create a staff account."""
    return make_user(name, *permissions, is_staff=True)


class Village:
    """A completed run, a rollback of it, a request for another, and users who stand everywhere."""

    def __init__(self) -> None:
        """Create the runs."""
        self.run: MigrationRun = make_run(status=RunStatus.COMPLETED, finished_at=timezone.now())
        self.rollback: MigrationRun = make_run(
            kind=RunKind.ROLLBACK, status=RunStatus.COMPLETED, finished_at=timezone.now(), rates={}
        )
        self.batch: MigrationBatch = make_batch(self.run, Totals())
        self.rollback_batch: MigrationBatch = make_batch(self.rollback, Totals())
        self.request: RunRequest = RunRequest.objects.create(kind=RunKind.MIGRATION, actor="olga", host="web-1")

    def pending(self, name: str) -> Any:
        """Add a user whom no run has handled."""
        user = make_user(name)
        Wallet.objects.create(user=user, green=3, blue=2, red=1)
        return user

    def no_wallet(self, name: str) -> Any:
        """Add a user without a wallet."""
        return make_user(name)

    def migrated(self, name: str, *, spent: int = 0) -> Any:
        """Add a converted user, who has spent some mana since."""
        user = make_user(name)
        credited = worth(3, 2, 1)
        Wallet.objects.create(user=user, mana=credited - spent, migrated_at=timezone.now())
        self.record(user, UserStatus.MIGRATED, mana_credited=credited)
        self._entry(user, credited, credited, EntryKind.CONVERSION, f"conversion:{self.run.pk}:{user.pk}")
        if spent:
            self._entry(user, -spent, credited - spent, EntryKind.SPEND, f"shop:{user.pk}")
        return user

    def failed(self, name: str) -> Any:
        """Add a user with a negative balance."""
        user = make_user(name)
        Wallet.objects.create(user=user, green=-5)
        self.record(user, UserStatus.FAILED, green=-5, error_class="negative_balance", error_message="is negative")
        return user

    def skipped(self, name: str) -> Any:
        """Add a user who was left out."""
        user = self.pending(name)
        self.record(user, UserStatus.SKIPPED, error_class="overflow", error_message="too much")
        return user

    def rolled_back(self, name: str) -> Any:
        """Add a user whose conversion was taken back."""
        user = self.pending(name)
        credited = worth(3, 2, 1)
        self.record(
            user,
            UserStatus.ROLLED_BACK,
            mana_credited=credited,
            reversal_run=self.rollback,
            reversed_at=timezone.now(),
            mana_debited=credited,
            shortfall=0,
        )
        self._entry(user, credited, credited, EntryKind.CONVERSION, f"conversion:{self.run.pk}:{user.pk}")
        self._entry(user, -credited, 0, EntryKind.REVERSAL, f"reversal:{self.run.pk}:{user.pk}")
        return user

    def kept(self, name: str) -> Any:
        """Add a user whom the rollback left migrated, because the mana was spent."""
        user = self.migrated(name, spent=1000)
        UserMigration.objects.create(
            user=user,
            run=self.rollback,
            batch=self.rollback_batch,
            status=UserStatus.SKIPPED,
            error_class="shortfall",
            error_message="part of the mana was already spent",
            shortfall=1000,
        )
        return user

    def record(self, user: Any, status: UserStatus, **values: Any) -> UserMigration:
        """Add a record of the run."""
        return UserMigration.objects.create(
            user=user, run=self.run, batch=self.batch, status=status, **{"green": 3, "blue": 2, "red": 1} | values
        )

    @staticmethod
    def _entry(user: Any, amount: int, after: int, kind: EntryKind, reference: str) -> None:
        ManaEntry.objects.create(user=user, amount=amount, balance_after=after, kind=kind, reference=reference)


def url(name: str, *args: Any) -> str:
    """Return the address of a staff page."""
    return reverse(f"mana_migration:{name}", args=args)


def read_file(response: Any) -> bytes:
    """Read a response to its end and close its file; response.close() would end the test's connection as well."""
    read: bytes = response.getvalue()
    for close_file in response._resource_closers:
        close_file()
    return read
