"""A user model of somebody else's site."""

from __future__ import annotations

import uuid

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models


class MemberManager(BaseUserManager["Member"]):
    """Make members."""

    def sign_up(self, name: str, *, boss: bool = False) -> Member:
        """Create a member."""
        return self.create(email=name, password="!", is_staff=boss, is_superuser=boss)


class Member(AbstractBaseUser, PermissionsMixin):
    """Somebody who signed up."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField(unique=True)
    is_staff = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)

    USERNAME_FIELD = "email"

    objects = MemberManager()

    class Meta:
        db_table = "shop_member"

    def __str__(self) -> str:
        return self.email
