"""Between batches: wait as the operator said, or only while the database is under load."""

from __future__ import annotations

import time
from typing import Final

from mana_migration.domain.options import Controls
from mana_migration.domain.pacing import AUTO
from mana_migration.domain.pressure import Pressure, Sign, Usual, in_words, judge
from mana_migration.engine.health import read_health
from mana_migration.models import MigrationRun
from mana_migration.services import notifications, runs
from mana_migration.services.context import RunContext
from mana_migration.states import EventKind, RunStatus

#: Seconds between two polls of the database, and between two polls while holding.
POLL_SECONDS, HOLD_STEP = 1.0, 1.0

#: Seconds of a long delay after which the run is read again: an operator may have changed it.
DELAY_STEP: Final = 1.0

#: The longest soft wait, in seconds.
LONGEST_SOFT_WAIT: Final = 2.0


class Throttle:
    """Wait between two batches of a run; called by its worker after each commit.

    With ``auto`` there is no wait on a healthy database.  A soft sign slows down to half the pace; a
    hard one holds until it has passed or the end is asked for.  The reason is an event, once for
    each time that it begins.
    """

    def __init__(
        self,
        run_id: int,
        context: RunContext,
    ) -> None:
        self._run_id, self._context = run_id, context
        self._usual = Usual()
        self._polled = 0.0
        self._pressure = Pressure.NONE
        self._reason = ""
        self._long_wait = notifications.LongWait(run_id, context.using)

    def __call__(self, controls: Controls, seconds: float) -> bool:
        """Wait for the controls' delay, in seconds; ``auto`` asks the database how it is, once a second at most.

        Returns whether the work may continue at its full pace.
        """
        if controls.delay != AUTO:
            self._wait_for(controls, float(controls.delay))
            return not controls.delay
        if time.monotonic() - self._polled >= POLL_SECONDS:
            self._poll(seconds)
        while self._pressure is Pressure.HARD and not self._context.stop.wait(HOLD_STEP):
            if self._changed(controls):
                return False
            self._long_wait.continues(self._reason)
            self._poll(0.0)
        self._long_wait.ended()
        if self._pressure is Pressure.SOFT:
            self._context.stop.wait(min(seconds, LONGEST_SOFT_WAIT))
        return self._pressure is Pressure.NONE

    def _wait_for(self, controls: Controls, delay: float) -> None:
        """Wait that long, until the end is asked for or the run has changed."""
        end = time.monotonic() + delay
        while not self._context.stop.wait(min(DELAY_STEP, end - time.monotonic())) and time.monotonic() < end:
            if self._changed(controls):
                return

    def _changed(self, controls: Controls) -> bool:
        """Say whether the run was paused or ended, its delay was changed or its window ended meanwhile."""
        run = MigrationRun.objects.using(self._context.using).get(pk=self._run_id)
        now = run.controls_in_force
        return run.status != RunStatus.RUNNING or now.delay != controls.delay or now.window_is_over()

    def _poll(self, seconds: float) -> None:
        health = read_health(self._context.connection)
        pressure, sign, reason = judge(health, self._usual, seconds)
        if pressure is Pressure.NONE:
            self._usual.learn(health, seconds)
        if pressure is not self._pressure:
            self._report(pressure, sign, reason)
        self._pressure, self._reason = pressure, reason
        self._polled = time.monotonic()

    def _report(self, pressure: Pressure, sign: Sign, reason: str) -> None:
        sentence = in_words(pressure, reason)
        self._context.notice(sentence)
        self._context.show_wait(self._run_id, sentence if pressure else "")
        runs.add_event(
            self._run_id,
            EventKind.THROTTLED,
            message=sentence,
            details={
                "wait": pressure.name.lower(),
                "sign": sign.value if pressure else "",
                "reason": reason if pressure else "",
            },
            using=self._context.using,
        )
