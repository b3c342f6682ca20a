"""Let batches go several in a message although they are few, as those of large runs do."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from mana_migration.engine import foreign, pipeline
from mana_migration.services.worker import loop

#: Triggers of tests that make a batch fail: where anything but our own is attached, batches go one by one.
PLANTED = {"planted", "stop_it"}


@contextmanager
def together(*, most: int = 3, alone_after_trouble: int = 2) -> Iterator[None]:
    """Send batches together from the second one on, so many at most, however slow this machine is."""
    own = foreign.own_triggers("postgresql") | PLANTED
    with (
        mock.patch.object(foreign, "own_triggers", lambda vendor: own),
        mock.patch.multiple(loop, ALONE_AT_FIRST=0, ALONE_AFTER_TROUBLE=alone_after_trouble),
        mock.patch.multiple(pipeline, MOST=most, SECONDS=1_000),
    ):
        yield
