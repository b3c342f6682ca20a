"""Accounts and a village for the tests of the staff pages.

Models are imported inside the fixtures: pytest loads this file before the settings are chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from django.test import Client

if TYPE_CHECKING:
    from tests.mana_migration.stories import Village


@pytest.fixture
def village(db: None) -> Village:
    """Return a completed run and a rollback, without users yet."""
    from tests.mana_migration.stories import Village

    return Village()


@pytest.fixture
def sign_in(db: None) -> Callable[..., Client]:
    """Return a function that signs a new staff account in, with the view permission and those named."""
    from tests.mana_migration.stories import make_staff

    def new_client(*permissions: str, name: str = "staff") -> Client:
        client = Client()
        client.force_login(make_staff(name, "view_migrationrun", *permissions))
        return client

    return new_client
