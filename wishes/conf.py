"""The only reader of the economy's settings: lazily, so that tests and sites can override them."""

from __future__ import annotations

from django.conf import settings

from wishes.rates import Rates


def rates() -> Rates:
    """Return the conversion rates in force, from the setting ``WISHES_RATES``.

    Without the setting: 10, 100 and 1000 mana for a green, a blue and a red wish.

    Raises:
        InvalidRatesError: the setting has other keys or values out of range.
    """
    values = getattr(settings, "WISHES_RATES", None)
    return Rates() if values is None else Rates.from_mapping(values)
