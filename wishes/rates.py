"""What a wish is worth, as plain Python: no Django, no database, no settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from wishes.errors import InvalidRatesError

COLOURS: Final = ("green", "blue", "red")

#: The largest value of a BIGINT column, in mana or wishes (two's complement, 64 bits).
BIGINT_MAX: Final = 2**63 - 1

#: The highest rate accepted, in mana per wish; far above any site's, far below a typing error.
RATE_MAX: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Rates:
    """Hold how much mana one wish of each colour is worth.

    Rates are whole numbers of mana per wish, from 1 to ``RATE_MAX``.

    Raises:
        InvalidRatesError: a rate is not a whole number in that range.
    """

    green: int = 10
    blue: int = 100
    red: int = 1000

    def __post_init__(self) -> None:
        for colour in COLOURS:
            rate = getattr(self, colour)
            if isinstance(rate, bool) or not isinstance(rate, int) or not 1 <= rate <= RATE_MAX:
                raise InvalidRatesError(
                    f"the rate of a {colour} wish is {rate!r}; set it to a whole number of mana from 1 to {RATE_MAX}"
                )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Rates:
        """Build rates from a mapping with exactly the keys green, blue and red."""
        if set(values) != set(COLOURS):
            raise InvalidRatesError(
                f"rates are given for {', '.join(sorted(values)) or 'no colour'}; give exactly {', '.join(COLOURS)}"
            )
        return cls(**{colour: values[colour] for colour in COLOURS})

    def as_dict(self) -> dict[str, int]:
        """Return the rates by colour, for JSON."""
        return {colour: getattr(self, colour) for colour in COLOURS}

    def of(self, colour: str) -> int:
        """Return the mana that one wish of this colour is worth."""
        if colour not in COLOURS:
            raise InvalidRatesError(f"there is no {colour!r} wish; choose from {', '.join(COLOURS)}")
        return int(getattr(self, colour))

    def worth(self, green: int, blue: int, red: int) -> int:
        """Return the mana that these wishes are worth, exactly, whatever their size or sign."""
        return green * self.green + blue * self.blue + red * self.red
