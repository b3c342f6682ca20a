from __future__ import annotations

import pytest

from mana_migration.domain.pressure import Health, Pressure, Usual, in_words, judge

USUAL = Usual(active_sessions=3.0, batch_seconds=0.25)


@pytest.mark.parametrize(
    ("health", "seconds", "pressure", "reason"),
    [
        (Health(), 0.25, Pressure.NONE, ""),
        (Health(replication_lag=1.5), 0.25, Pressure.NONE, ""),
        (Health(replication_lag=1.6), 0.25, Pressure.SOFT, "a standby is 1.6 s behind, more than 1.5 s"),
        (Health(replication_lag=10.1), 0.25, Pressure.HARD, "a standby is 10.1 s behind, more than 10 s"),
        (Health(waiting_locks=5), 0.25, Pressure.NONE, ""),
        (Health(waiting_locks=6), 0.25, Pressure.SOFT, "6 sessions wait for locks, more than 5"),
        (Health(waiting_locks=21), 0.25, Pressure.HARD, "21 sessions wait for locks, more than 20"),
        (Health(active_sessions=10), 0.25, Pressure.NONE, ""),  # three times the usual, but few
        (Health(active_sessions=11), 0.25, Pressure.SOFT, "11 sessions are at work, usual are 3"),
        (Health(active_sessions=13), 0.25, Pressure.HARD, "13 sessions are at work, usual are 3"),
        (Health(active_sessions=12), 0.25, Pressure.SOFT, "12 sessions are at work, usual are 3"),
        (Health(replication_lag=10.0), 0.25, Pressure.SOFT, "a standby is 10.0 s behind, more than 1.5 s"),
        (Health(waiting_locks=20), 0.25, Pressure.SOFT, "20 sessions wait for locks, more than 5"),
        (Health(archiving_fails=True), 0.25, Pressure.SOFT, "the archive_command of the server fails"),
        (Health(), 1.25, Pressure.NONE, ""),
        (Health(), 1.3, Pressure.SOFT, "a batch took 1.30 s, usual is 0.25 s"),
        (Health(), 5.0, Pressure.SOFT, "a batch took 5.00 s, usual is 0.25 s"),
        (Health(), 5.1, Pressure.HARD, "a batch took 5.10 s, usual is 0.25 s"),
    ],
)
def test_each_sign_asks_for_what_it_is_worth(health: Health, seconds: float, pressure: Pressure, reason: str) -> None:
    found, _, sentence = judge(health, USUAL, seconds)
    assert found is pressure
    if pressure:
        assert sentence == reason


def test_the_worst_sign_counts() -> None:
    found, sign, reason = judge(Health(replication_lag=2.0, waiting_locks=30), USUAL, 0.25)
    assert (found, sign, reason) == (Pressure.HARD, "waiting_locks", "30 sessions wait for locks, more than 20")


def test_nothing_is_unusual_before_anything_is_usual() -> None:
    assert judge(Health(active_sessions=90), Usual(), 60.0)[0] is Pressure.NONE


@pytest.mark.parametrize(
    ("active", "pressure"), [(40, Pressure.NONE), (41, Pressure.SOFT), (80, Pressure.SOFT), (81, Pressure.HARD)]
)
def test_where_many_sessions_are_usual_twice_as_many_are_a_sign_and_four_times_hold(
    active: int, pressure: Pressure
) -> None:
    assert judge(Health(active_sessions=active), Usual(active_sessions=20.0, batch_seconds=0.25), 0.25)[0] is pressure


def test_a_short_batch_is_never_slow() -> None:
    assert judge(Health(), Usual(batch_seconds=0.001), 0.4)[0] is Pressure.NONE
    assert judge(Health(), Usual(batch_seconds=0.001), 0.5)[0] is Pressure.NONE
    assert judge(Health(), Usual(batch_seconds=0.001), 0.51)[0] is Pressure.HARD


def test_the_usual_is_learnt_slowly() -> None:
    usual = Usual()
    usual.learn(Health(active_sessions=4), 1.0)
    assert (usual.active_sessions, usual.batch_seconds) == (4.0, 1.0)
    usual.learn(Health(active_sessions=14), 2.0)
    assert (usual.active_sessions, usual.batch_seconds) == (pytest.approx(5.0), pytest.approx(1.1))


def test_a_database_that_shows_nothing_is_well() -> None:
    assert Health() == Health(replication_lag=0.0, waiting_locks=0, active_sessions=0, archiving_fails=False)


def test_what_is_done_about_it_is_said_in_plain_words() -> None:
    assert [in_words(pressure, "the reason") for pressure in Pressure] == [
        "the database has recovered: resuming",
        "going at half the pace: the reason",
        "waiting while the database is under load: the reason",
    ]
