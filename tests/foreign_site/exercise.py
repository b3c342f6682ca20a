"""What the site does with its wallets: run in the site's own process, one step at a time, by the name of the step."""

import os
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django.setup()

from django.contrib.auth import get_user_model  # noqa: E402  after the set-up
from django.db import connection, transaction  # noqa: E402
from django.test import Client  # noqa: E402

from mana_migration.models import UserMigration  # noqa: E402
from wishes import services  # noqa: E402
from wishes.models import ManaEntry, Wallet  # noqa: E402

Member = get_user_model()


def open_shop() -> None:
    """Sign members up: some with legacy wallets, some who earn through the service."""
    Member.objects.create_superuser("boss@shop.example", "s3cret-of-the-boss")
    members = [Member.objects.create(email=f"member{number}@shop.example") for number in range(30)]
    for number, member in enumerate(members[:20]):
        Wallet.objects.create(user=member, green=number, blue=number % 3, red=number % 2)
    for member in members[20:]:
        services.earn_wishes(member, "red", 2, reference=f"welcome:{member.pk}")
        services.earn_mana(member, 5, reference=f"gift:{member.pk}")


def after_migration() -> None:
    """Use the wallets of migrated members, by instance and by key."""
    assert Wallet.objects.filter(migrated_at=None).count() == 0
    assert Wallet.objects.count() == 30
    member = Member.objects.get(email="member25@shop.example")
    assert services.read_balance(member) == services.Balance(user=member.pk, mana=2005, migrated=True)
    assert services.earn_wishes(str(member.pk), "blue", 1, reference="late").currency == "mana"
    assert services.earn_wishes(member, "blue", 1, reference="late").repeated
    assert services.spend_mana(member.pk, 6, reference="order").balance_after == 2099
    record = UserMigration.objects.get(user=member)
    assert (record.red, record.mana_credited, record.status) == (2, 2000, "migrated")
    keys = (record.user_id, record.user_id.hex)  # SQLite keeps a UUID without its dashes
    assert ManaEntry.objects.filter(reference__in=[f"conversion:{record.run_id}:{key}" for key in keys]).count() == 1


def after_one_rollback() -> None:
    """One member has wishes again, the others have not."""
    assert Wallet.objects.get(migrated_at=None).user.email == "member21@shop.example"


def after_rollback() -> None:
    """Everybody has their wishes again; what was earned since is mana."""
    assert Wallet.objects.filter(migrated_at=None).count() == 30
    member = Member.objects.get(email="member25@shop.example")
    balance = services.read_balance(member)
    assert (balance.red, balance.mana, balance.worth) == (2, 99, 2099)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT SUM(green), SUM(blue), SUM(red) FROM wishes_wallet")
        assert cursor.fetchone() == (sum(range(20)), sum(n % 3 for n in range(20)), 10 + 20)


def pages() -> None:
    """Sign in and open every page of the admin and of the migration that a link leads to."""
    client = Client()
    assert client.get("/staff-migration/").status_code in (302, 403)
    client.force_login(Member.objects.get(is_superuser=True))
    record, wallet = UserMigration.objects.earliest("id"), Wallet.objects.earliest("pk")
    for address in (
        "/staff/",
        "/staff/wishes/wallet/",
        f"/staff/wishes/wallet/{wallet.pk}/change/",
        "/staff/wishes/manaentry/",
        "/staff/mana_migration/migrationrun/",
        f"/staff/mana_migration/migrationrun/{record.run_id}/change/",
        "/staff/mana_migration/usermigration/",
        f"/staff/mana_migration/usermigration/{record.pk}/change/",
        "/staff/mana_migration/migratinguser/",
        "/staff/mana_migration/migratinguser/?q=member2",
        f"/staff/mana_migration/migratinguser/?q={wallet.pk}",
        *(
            f"/staff/mana_migration/migratinguser/?standing={standing}"
            for standing in ("pending", "migrated", "failed", "skipped", "rolled_back", "no_wallet")
        ),
        f"/staff/mana_migration/migratinguser/{wallet.pk}/change/",
        f"/staff/mana_migration/usermigration/?q={wallet.pk}",
        "/staff-migration/",
        f"/staff-migration/runs/{record.run_id}/",
        f"/staff-migration/runs/{record.run_id}/report",
        f"/staff-migration/runs/{record.run_id}/report/csv",
        f"/staff-migration/users/{record.user_id}/",
        "/staff-migration/healthz",
    ):
        response = client.get(address, follow=True)
        assert response.status_code == 200, f"{address}: {response.status_code}"
        if hasattr(response, "streaming_content"):
            assert response.getvalue()
    explained = client.get(f"/staff-migration/users/{record.user_id}/").content.decode()
    assert "agrees with the ledger" in explained
    assert "ledger entry" in explained
    found = client.post("/staff-migration/users/", {"user": "member25@shop.example"})
    assert found.headers["Location"].startswith("/staff-migration/users/")
    asked = client.post(f"/staff-migration/users/{record.user_id}/rollback")
    assert "Would be rolled back" in asked.content.decode()


if __name__ == "__main__":
    {step.__name__: step for step in (open_shop, after_migration, after_one_rollback, after_rollback, pages)}[
        sys.argv[1]
    ]()
