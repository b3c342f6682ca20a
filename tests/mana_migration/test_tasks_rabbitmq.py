"""The same over RabbitMQ: workers share a run, and all tasks are sent again after workers and queue are lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.services.executors import celery
from tests.mana_migration.running import balanced, people
from tests.mana_migration.test_tasks import Worker, reset_app, until, workers_of
from tests.support.processes import manage
from tests.support.rabbitmq import RabbitMQ

pytestmark = [
    pytest.mark.celery,
    pytest.mark.slow,
    pytest.mark.postgres,
    pytest.mark.timeout(300),
    pytest.mark.django_db(transaction=True),
]


@pytest.fixture
def broker(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[RabbitMQ]:
    """Return the broker of this process and its forks, which soon ask workers that do nothing."""
    with RabbitMQ() as server:
        settings.CELERY_BROKER_URL = server.url
        settings.CELERY_BROKER_TRANSPORT_OPTIONS = {}
        monkeypatch.setattr(celery, "ASK_AFTER", 2.0)
        reset_app()
        yield server
    reset_app()


def test_all_tasks_are_sent_again_after_workers_and_queue_are_lost(broker: RabbitMQ, tmp_path: Path) -> None:
    people(600)
    env = {"CELERY_BROKER_URL": broker.url}
    workers = [Worker(name, tmp_path, **env).ready() for name in ("one", "two")]
    try:
        argv = ("--executor", "celery", "--workers", "2", "--batch-size", "5", "--delay", "0.1")
        with balanced(), manage("migrate_users", *argv) as command:
            until(lambda: len({*MigrationBatch.objects.filter(selected__gt=0).values_list("worker", flat=True)}) == 2)
            for worker in workers:
                worker.kill()
            broker.empty()
            workers = [Worker(name, tmp_path, **env).ready() for name in ("three", "four")]
            done = command.end()
        assert done.code == 0
        run = MigrationRun.objects.get()
        assert run.status == "completed"
        assert f"no worker has run {run.pk} any more: sending it again, in 2 tasks" in done.out
        assert workers_of(run.pk) >= {str(worker.hands) for worker in workers}
    finally:
        for worker in workers:
            worker.kill()
        connection.close()
