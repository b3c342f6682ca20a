"""Every pair of statuses: the edges of the table are allowed, all others refused."""

from __future__ import annotations

import itertools

import pytest

from mana_migration.errors import TransitionError
from mana_migration.states import OPEN_STATUSES, RUN_TRANSITIONS, EventKind, RunStatus, check_transition

PAIRS = list(itertools.product(RunStatus, RunStatus))


@pytest.mark.parametrize(("current", "target"), PAIRS, ids=str)
def test_only_the_edges_of_the_table_are_allowed(current: RunStatus, target: RunStatus) -> None:
    if target in RUN_TRANSITIONS[current]:
        check_transition(7, current, target)
        return
    with pytest.raises(TransitionError) as caught:
        check_transition(7, current, target)
    assert (caught.value.run, caught.value.current, caught.value.target) == (7, current, target)
    assert f"run 7 is {current} and cannot become {target}" in str(caught.value)


def test_every_status_has_its_line_in_the_table() -> None:
    assert set(RUN_TRANSITIONS) == set(RunStatus)


def test_every_status_can_be_reached_from_the_start() -> None:
    reached, fresh = {RunStatus.RUNNING}, [RunStatus.RUNNING]
    while fresh:
        for target in RUN_TRANSITIONS[fresh.pop()]:
            if target not in reached:
                reached.add(target)
                fresh.append(target)
    assert reached == set(RunStatus)


def test_every_open_status_can_end_and_no_closed_one_opens_again() -> None:
    for status in RunStatus:
        if status in OPEN_STATUSES:
            assert RunStatus.STOPPED in RUN_TRANSITIONS[status]
        else:
            assert not set(RUN_TRANSITIONS[status]) & set(OPEN_STATUSES)


def test_a_run_that_was_taken_back_stays_so() -> None:
    assert RUN_TRANSITIONS[RunStatus.ROLLED_BACK] == ()


@pytest.mark.parametrize("kinds", [RunStatus, EventKind])
def test_names_fit_their_columns(kinds: type[RunStatus] | type[EventKind]) -> None:
    longest = {RunStatus: 12, EventKind: 20}[kinds]
    assert max(len(kind.value) for kind in kinds) <= longest
