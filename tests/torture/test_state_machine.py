"""Anything, in any order: the database always says what a model in plain Python says.

The full size takes more than ten minutes, so it is marked long; ``make torture`` does half a million steps.
"""

import pytest
from django.db import connection

from tests.torture.machine import explore

pytestmark = pytest.mark.django_db(transaction=True)

#: A step takes 12 to 25 ms.
SHORT = {"sqlite": 16, "postgresql": 4}
FULL = {"sqlite": 1000, "postgresql": 200}
STEPS, LOOK = 50, 5


def everybody_has_what_the_model_says(sequences: int) -> bool:
    done = explore(examples=sequences, steps=STEPS, look_every=LOOK)
    return done["steps"] >= sequences * STEPS // 2


def test_whatever_happens_in_whatever_order_everybody_has_what_the_model_says() -> None:
    assert everybody_has_what_the_model_says(SHORT[connection.vendor])


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_whatever_happens_in_many_sequences_everybody_has_what_the_model_says() -> None:
    assert everybody_has_what_the_model_says(FULL[connection.vendor])
