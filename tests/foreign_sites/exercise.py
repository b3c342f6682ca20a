"""What the sites do with their wallets: run in a site's own process, one step at a time, by the name of the step."""

import os
import sys
from pathlib import Path

import django

django.setup()

from django.apps import apps  # noqa: E402  after the set-up
from django.conf import settings  # noqa: E402
from django.contrib.auth import get_user_model  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.utils import timezone  # noqa: E402

from mana_migration.models import MigrationRun, UserMigration  # noqa: E402
from wishes import services  # noqa: E402
from wishes.models import ManaEntry, Wallet  # noqa: E402

User = get_user_model()


def named(number: int):
    """Return one of the site's own users."""
    return User.objects.get(**{User.USERNAME_FIELD: f"member{number}@shop.example"})


def make_schema() -> None:
    """Make the schema that the club keeps its tables in."""
    if connection.vendor == "postgresql" and settings.ROOT_URLCONF == "verein.urls":
        with connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA verein")


def open_site() -> None:
    """Sign users up: some with legacy wallets, some who earn through the service; write the legacy export."""
    User.objects.sign_up("boss@shop.example", boss=True)
    members = [User.objects.sign_up(f"member{number}@shop.example") for number in range(20)]
    for number, member in enumerate(members[:10]):
        Wallet.objects.create(user=member, green=number, blue=number % 3, red=number % 2)
    for member in members[10:]:
        services.earn_wishes(member, "red", 2, reference=f"welcome:{member.pk}")
        services.earn_mana(member, 5, reference=f"gift:{member.pk}")
    rows = [f"old{number}@shop.example,Old,{number},0,1,0,false" for number in range(10)]
    head = "id,name,green_balance,blue_balance,red_balance,mana_balance,legacy_migration_completed"
    (Path(os.environ["SITE_FOLDER"]) / "export.csv").write_text("\n".join([head, *rows, ""]))


def after_migration() -> None:
    """Use the wallets of migrated members, by instance and by key; times are now, whatever the time zone."""
    assert Wallet.objects.filter(migrated_at=None).count() == 0
    assert Wallet.objects.count() == 30
    member = named(15)
    assert services.read_balance(member) == services.Balance(user=member.pk, mana=2005, migrated=True)
    assert services.earn_wishes(str(member.pk), "blue", 1, reference="late").currency == "mana"
    assert services.earn_wishes(member, "blue", 1, reference="late").repeated
    assert services.spend_mana(member.pk, 6, reference="order").balance_after == 2099
    record = UserMigration.objects.get(user=member)
    assert (record.red, record.mana_credited, record.status) == (2, 2000, "migrated")
    keys = (record.user_id, getattr(record.user_id, "hex", record.user_id))  # SQLite keeps a UUID without its dashes
    assert ManaEntry.objects.filter(reference__in=[f"conversion:{record.run_id}:{key}" for key in keys]).exists()
    wallet = Wallet.objects.get(user=member)
    assert abs((timezone.now() - wallet.migrated_at).total_seconds()) < 600
    assert timezone.is_aware(wallet.migrated_at) is settings.USE_TZ


def after_one_rollback() -> None:
    """One member has wishes again, the others have not."""
    assert Wallet.objects.get(migrated_at=None).user == named(11)


def after_rollback() -> None:
    """All members have their wishes again; what was earned since is mana."""
    assert Wallet.objects.filter(migrated_at=None).count() == 30
    balance = services.read_balance(named(15))
    assert (balance.red, balance.mana, balance.worth) == (2, 99, 2099)


def pages() -> None:
    """Sign in and open every page of the migration, and of the admin where there is one."""
    client = Client()
    here, admin = settings.SITE["pages"], settings.SITE["admin"]
    assert client.get(here).status_code == 302
    client.force_login(User.objects.get(is_staff=True))
    record, wallet = UserMigration.objects.earliest("id"), Wallet.objects.earliest("pk")
    record = UserMigration.objects.get(user=named(15))
    addresses = [
        here,
        f"{here}runs/{record.run_id}/",
        f"{here}runs/{record.run_id}/report",
        f"{here}runs/{record.run_id}/report/csv",
        f"{here}users/{record.user_id}/",
        f"{here}healthz",
    ]
    if admin:
        tables = f"{admin}mana_migration/"
        addresses += [
            admin,
            f"{admin}wishes/wallet/",
            f"{admin}wishes/wallet/{wallet.pk}/change/",
            f"{admin}wishes/manaentry/",
            f"{tables}migrationrun/",
            f"{tables}migrationrun/{record.run_id}/change/",
            f"{tables}usermigration/",
            f"{tables}usermigration/?q={wallet.pk}",
            f"{tables}usermigration/{record.pk}/change/",
            f"{tables}migratinguser/",
            f"{tables}migratinguser/?q=member2",
            f"{tables}migratinguser/?q={wallet.pk}",
            f"{tables}migratinguser/{wallet.pk}/change/",
        ]
        statuses = ("pending", "migrated", "failed", "skipped", "rolled_back", "no_wallet")
        addresses += [f"{tables}migratinguser/?standing={status}" for status in statuses]
    for address in addresses:
        response = client.get(address, follow=True)
        assert response.status_code == 200, f"{address}: {response.status_code}"
        if hasattr(response, "streaming_content"):
            assert response.getvalue()
    run = client.get(f"{here}runs/{record.run_id}/").content.decode()
    assert f"{timezone.localtime(MigrationRun.objects.get(pk=record.run_id).created_at):%Y-%m-%d}" in run
    german = settings.LANGUAGE_CODE == "de"
    assert (">Bericht<" in run, 'lang="de"' in run) == (german, german)
    found = client.post(f"{here}users/", {"user": "member15@shop.example"})
    assert found.headers["Location"].startswith(f"{here}users/")
    assert client.post(f"{here}users/{record.user_id}/rollback").status_code == 200


def versions() -> None:
    """Print what the site runs on, and where the apps come from."""
    driver = ""
    if connection.vendor == "postgresql":
        connection.ensure_connection()
        driver = type(connection.connection).__module__.partition(".")[0]
    print(django.get_version(), driver, apps.get_app_config("mana_migration").path)  # noqa: T201


if __name__ == "__main__":
    steps = (make_schema, open_site, after_migration, after_one_rollback, after_rollback, pages, versions)
    {step.__name__: step for step in steps}[sys.argv[1]]()
