"""Every pair of statuses: the changes of the table are allowed, all others refused."""

from __future__ import annotations

import itertools

import pytest

from mana_migration.errors import TransitionError
from mana_migration.states import OPEN_STATUSES, RUN_STATES, Action, EventKind, RunStatus, StopCause, check_transition

PAIRS = list(itertools.product(RunStatus, RunStatus))


@pytest.mark.parametrize(("current", "target"), PAIRS, ids=str)
def test_only_the_changes_of_the_table_are_allowed(current: RunStatus, target: RunStatus) -> None:
    if target in RUN_STATES[current].leads_to:
        check_transition(7, current, target)
        return
    with pytest.raises(TransitionError) as caught:
        check_transition(7, current, target)
    assert (caught.value.run, caught.value.current, caught.value.target) == (7, current, target)
    assert f"run 7 is {current} and cannot become {target}" in str(caught.value)


def test_every_status_has_its_line_in_the_table() -> None:
    assert set(RUN_STATES) == set(RunStatus)


def test_every_status_can_be_reached_from_the_start() -> None:
    reached, fresh = {RunStatus.RUNNING}, [RunStatus.RUNNING]
    while fresh:
        for target in RUN_STATES[fresh.pop()].leads_to:
            if target not in reached:
                reached.add(target)
                fresh.append(target)
    assert reached == set(RunStatus)


def test_every_open_status_can_end_and_no_closed_one_opens_again() -> None:
    for status in RunStatus:
        if status in OPEN_STATUSES:
            assert RunStatus.STOPPED in RUN_STATES[status].leads_to
        else:
            assert not set(RUN_STATES[status].leads_to) & set(OPEN_STATUSES)


def test_a_run_that_was_rolled_back_stays_so() -> None:
    assert RUN_STATES[RunStatus.ROLLED_BACK].leads_to == ()


@pytest.mark.parametrize(
    ("action", "target"),
    [(Action.PAUSE, RunStatus.PAUSED), (Action.RESUME, RunStatus.RUNNING), (Action.STOP, RunStatus.STOPPED)],
)
def test_an_action_is_allowed_where_the_change_that_it_means_is_possible(action: Action, target: RunStatus) -> None:
    for state in RUN_STATES.values():
        assert (action in state.allows) == (target in state.leads_to)


def test_settings_are_changed_while_a_run_is_open_and_a_closed_run_is_final_unless_it_is_being_rolled_back() -> None:
    for status in RunStatus:
        assert (Action.SET in status.state.allows) == status.is_open
        assert status.is_final == (not status.is_open and status is not RunStatus.ROLLING_BACK)


@pytest.mark.parametrize("kinds", [RunStatus, EventKind, StopCause])
def test_names_fit_their_columns(kinds: type[RunStatus] | type[EventKind] | type[StopCause]) -> None:
    longest = {RunStatus: 12, EventKind: 20, StopCause: 16}[kinds]
    assert max(len(kind.value) for kind in kinds) <= longest
