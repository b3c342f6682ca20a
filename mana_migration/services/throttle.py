"""Between batches: wait as the operator said, or only while the database is unwell."""

from __future__ import annotations

from mana_migration.domain.options import Controls
from mana_migration.domain.pacing import AUTO
from mana_migration.services.worker import StopFlag


class Throttle:
    """Wait between two batches of a run; called by its worker after each commit."""

    def __init__(self, run_id: int, using: str, stop: StopFlag) -> None:
        self._run_id, self._using, self._stop = run_id, using, stop

    def __call__(self, controls: Controls, seconds: float) -> None:
        """Wait for the controls' delay, in seconds; ``auto`` asks the database how it is."""
        if controls.delay != AUTO:
            self._stop.wait(float(controls.delay))
