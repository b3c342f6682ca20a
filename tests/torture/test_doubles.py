"""The same thing done by several at the same moment is done once; two thousand users with ``make torture``."""

import pytest

from tests.torture.lab import Lab

pytestmark = pytest.mark.postgres


@pytest.mark.slow
def test_of_four_who_roll_one_user_back_at_the_same_moment_exactly_one_succeeds(lab: Lab) -> None:
    found = lab.zygote.call("tests.torture.doubles:run", database=lab.empty(), records=12, seed=1, rounds=1)
    assert found["problems"] == []
    assert (found["succeeded"], found["refused"]) == (12, 36)
    assert sum(count > 0 for count in found["by"].values()) > 1, "always the same one won: nobody raced"
    assert found["conversions"] >= 3 * 12
