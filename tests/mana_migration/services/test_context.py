"""The flag that asks a worker to end: it wakes whoever waits, and no wait outlives its time."""

import os
import random
import signal
import threading
import time

from mana_migration.services.context import StopFlag

#: Seconds after which a wait is taken for one without end.
LONG = 60.0


def start(flag: StopFlag, seconds: float) -> tuple[threading.Thread, list[bool]]:
    """Let a thread wait; return it with what the wait will say."""
    said: list[bool] = []
    thread = threading.Thread(target=lambda: said.append(flag.wait(seconds)), daemon=True)
    thread.start()
    return thread, said


def test_however_short_a_wait_is_it_ends() -> None:
    ended = threading.Event()

    def wait_often() -> None:
        for _ in range(20_000):  # each with a flag that nobody has waited for yet
            StopFlag().wait(1e-9)
        ended.set()

    threading.Thread(target=wait_often, daemon=True).start()
    assert ended.wait(LONG)


def test_a_wait_that_nobody_disturbs_takes_its_time_and_says_so() -> None:
    begun = time.monotonic()
    assert not StopFlag().wait(0.05)
    assert time.monotonic() - begun >= 0.05


def test_all_who_wait_are_woken_and_nobody_waits_any_more() -> None:
    flag = StopFlag()
    waiting = [start(flag, LONG) for _ in range(5)]
    flag.request(signal.SIGTERM)
    flag.request(signal.SIGINT)
    for thread, said in waiting:
        thread.join(LONG / 2)
        assert said == [True]
    assert flag.wait(LONG)
    assert flag.signal == signal.SIGINT


def test_a_signal_wakes_the_very_thread_that_waits() -> None:
    flag = StopFlag()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: flag.request(number))
    try:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        begun = time.monotonic()
        assert flag.wait(LONG)
        assert time.monotonic() - begun < LONG / 2
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_at_any_moment_of_a_wait_ends_it() -> None:
    """Also in the instant before it begins, when Python does not hear of it before the wait is over."""
    moments = random.Random(6)
    flag = StopFlag()
    before = signal.signal(signal.SIGALRM, lambda number, frame: flag.request(number))
    deadlines = signal.getitimer(signal.ITIMER_REAL)  # pytest's own, for tests that take too long
    try:
        for _ in range(20):
            flag, begun = StopFlag(), time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-6, 5e-5))
            assert flag.wait(LONG)
            assert time.monotonic() - begun < LONG / 2
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *deadlines)


def test_listeners_hear_of_it_at_once() -> None:
    flag, heard = StopFlag(), list[bool]()
    flag.listeners.append(lambda: heard.append(flag.requested))
    flag.request()
    assert heard == [True]
