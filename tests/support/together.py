"""Let batches go several in a message although they are few, as those of large runs do."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from mana_migration.engine import pipeline
from mana_migration.services.worker import loop


@contextmanager
def together(*, most: int = 3, alone_after_trouble: int = 2) -> Iterator[None]:
    """Send batches together from the second one on, so many at most, however slow this machine is."""
    with (
        mock.patch.multiple(loop, ALONE_AT_FIRST=0, ALONE_AFTER_TROUBLE=alone_after_trouble),
        mock.patch.multiple(pipeline, MOST=most, SECONDS=1_000),
    ):
        yield
