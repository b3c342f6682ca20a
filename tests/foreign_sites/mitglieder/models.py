"""A user model without PermissionsMixin, whose ``has_perm`` takes a permission and nothing else."""

from __future__ import annotations

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager
from django.db import models


class MitgliedManager(BaseUserManager["Mitglied"]):
    """Make members."""

    def sign_up(self, name: str, *, boss: bool = False) -> Mitglied:
        """Create a member."""
        return self.create(name=name, password="!", is_staff=boss)


class Mitglied(AbstractBaseUser):
    """A member of the club."""

    nummer = models.AutoField(primary_key=True)
    name = models.CharField(max_length=80, unique=True)
    is_staff = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    eintritt = models.DateTimeField(auto_now_add=True)

    USERNAME_FIELD = "name"

    objects = MitgliedManager()

    def __str__(self) -> str:
        return self.name

    def has_perm(self, perm: str) -> bool:
        """Let the staff do everything."""
        return self.is_staff

    def has_module_perms(self, app_label: str) -> bool:
        """Let the staff do everything."""
        return self.is_staff
