"""Django's user, swapped for the site's own."""

from __future__ import annotations

from django.contrib.auth.models import AbstractUser, UserManager
from django.db import models


class AccountManager(UserManager["Account"]):
    """Make accounts."""

    def sign_up(self, name: str, *, boss: bool = False) -> Account:
        """Create an account."""
        return self.create(username=name, password="!", is_staff=boss, is_superuser=boss)


class Account(AbstractUser):
    """A user with a column of the site's own that must not be empty."""

    plan = models.CharField(max_length=10, default="free")

    objects = AccountManager()
