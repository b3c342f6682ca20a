"""Anything, in any order: the database always says what a model in plain Python says.

The full size takes more than ten minutes, so it is marked long; ``make torture`` does half a million steps.
"""

import pytest
from django.db import connection

from tests.torture.machine import explore

pytestmark = pytest.mark.django_db(transaction=True)

#: A step takes 12 to 25 ms.
SHORT = {"sqlite": 16, "postgresql": 8}
FULL = {"sqlite": 1000, "postgresql": 200}
STEPS = 50


def test_whatever_happens_in_whatever_order_everybody_has_what_the_model_says() -> None:
    assert explore(examples=SHORT[connection.vendor], steps=STEPS) >= SHORT[connection.vendor] * STEPS // 2


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_whatever_happens_in_fifty_thousand_steps_everybody_has_what_the_model_says() -> None:
    assert explore(examples=FULL[connection.vendor], steps=STEPS) >= FULL[connection.vendor] * STEPS // 2
