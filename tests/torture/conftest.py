"""A laboratory for this folder's tests, on the database that the suite runs on."""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.torture.jobs import BY_NAME
from tests.torture.lab import Lab
from tests.torture.trials import Bench


@pytest.fixture(scope="package")
def lab(pytestconfig: pytest.Config) -> Iterator[Lab]:
    """Return a laboratory with databases of its own."""
    url = None if pytestconfig.getoption("db") == "sqlite" else os.environ["DATABASE_URL"]
    with Lab(url) as one:
        yield one


@pytest.fixture(scope="package")
def bench(lab: Lab) -> Callable[[str], Bench]:
    """Return a function that returns the bench of a job, made once."""
    made: dict[str, Bench] = {}

    def of(name: str) -> Bench:
        if name not in made:
            made[name] = Bench(lab, BY_NAME[name])
        return made[name]

    return of
