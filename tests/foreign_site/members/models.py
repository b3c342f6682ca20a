"""A user model of somebody else's site."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models


class MemberManager(BaseUserManager["Member"]):
    """Make members."""

    def create_superuser(self, email: str, password: str, **values: Any) -> Member:
        """Create a member who may do everything."""
        member = self.model(email=email, is_staff=True, is_superuser=True, **values)
        member.set_password(password)
        member.save()
        return member


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
