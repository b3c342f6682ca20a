"""Tests that the sites have of their own, as Django's test runner runs them."""

from __future__ import annotations

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase

from mana_migration.models import MigrationRun
from wishes import services
from wishes.models import ManaEntry, Wallet

User = get_user_model()


class TestOrders(TransactionTestCase):
    """Each test finds empty tables, whatever the one before left."""

    def spend(self) -> None:
        self.assertEqual((Wallet.objects.count(), ManaEntry.objects.count(), MigrationRun.objects.count()), (0, 0, 0))
        member = User.objects.sign_up("tester@shop.example")
        services.earn_wishes(member, "red", 1, reference="welcome")
        call_command("migrate_users", "--no-input", "--format", "json", "--database", "default")
        with transaction.atomic():
            services.spend_mana(member, 10, reference="order")
        self.assertEqual(services.read_balance(member).mana, 990)
        self.assertFalse(connection.in_atomic_block)

    def test_once(self) -> None:
        self.spend()

    def test_again(self) -> None:
        self.spend()


class TestAccounts(TestCase):
    """Users come and go while they have nothing to lose."""

    def test_delete(self) -> None:
        member = User.objects.sign_up("tester@shop.example")
        Wallet.objects.create(user=member)
        member.delete()
        self.assertFalse(Wallet.objects.exists())
