"""Django system checks of the migration's settings and database."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error, register

from wishes import conf as wishes_conf
from wishes.errors import InvalidRatesError


@register("mana_migration")
def check_rates(**kwargs: Any) -> list[CheckMessage]:
    """E001: the conversion rates are whole numbers of mana for exactly the three colours."""
    try:
        wishes_conf.rates()
    except InvalidRatesError as error:
        return [Error(f"WISHES_RATES: {error}", id="mana_migration.E001")]
    return []
