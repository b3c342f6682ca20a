"""Django signals of what happens to mass runs, sent after the commit, by the process that recorded it.

Receivers get ``sender`` (the model ``MigrationRun``), ``run`` (the instance), ``using`` (the database's alias) and
``reason`` (text, may be empty).  A receiver that raises is logged and changes nothing for the run.  Connect them in
``AppConfig.ready``::

    from mana_migration.signals import finished

    @receiver(finished)
    def update_status_page(sender, run, using, reason, **kwargs): ...
"""

from __future__ import annotations

from django.dispatch import Signal

started = Signal()
paused = Signal()
resumed = Signal()
waiting = Signal()
interrupted = Signal()
stopped = Signal()
breaker_tripped = Signal()
stalled = Signal()
finished = Signal()
rolled_back = Signal()
