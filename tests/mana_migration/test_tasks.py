"""Runs that Celery's workers do, with a real broker and real worker processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client

from mana_migration.domain.options import Controls, MigrationOptions
from mana_migration.models import MigrationBatch, MigrationRun, RunEvent
from mana_migration.services import runs
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.executors import background, celery, celery_broker
from mana_migration.services.migration import Migration
from mana_migration.states import RunKind
from tests.mana_migration.running import balanced, people, planted, refusal, status, told, wallet
from tests.support.commands import PROJECT, manage_environment, run_manage
from tests.support.oracle import assert_nothing_changes
from tests.support.processes import Running, manage, run
from tests.support.redis import Redis
from wishes.models import Wallet

pytest.importorskip("celery", reason="the extra [celery] is not installed")

committed = pytest.mark.django_db(transaction=True)
pytestmark = [pytest.mark.celery, pytest.mark.slow, pytest.mark.timeout(120)]

SOMEBODY = Actor("somebody", "here")
CELERY = ("--executor", "celery")

#: Seconds after which something that should happen is given up on.
PATIENCE = 45.0


class Worker:
    """A worker of Celery: one process that receives, and one that works."""

    def __init__(self, name: str, folder: Path, *, queue: str = "celery", **environment: str) -> None:
        self.log = folder / f"{name}.log"
        command = (sys.executable, "-m", "celery", "-A", "config", "worker", "--concurrency", "1", "-l", "INFO")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "-n", f"{name}@%h", "-Q", queue, "--without-gossip", "--without-mingle"],
                cwd=PROJECT,
                env=manage_environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ready(self) -> Worker:
        """Wait until it takes tasks."""
        until(lambda: " ready." in self.text(), self.process)
        return self

    def text(self) -> str:
        """Return what it said."""
        return self.log.read_text()

    @property
    def hands(self) -> int:
        """Return the process that does its work; 0 while there is none."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[-1]) if children else 0

    def kill(self) -> None:
        """Kill it with its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)


def until(condition: Callable[[], Any], *processes: subprocess.Popen[bytes]) -> Any:
    """Wait until a condition holds, and return its value."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        assert all(process.poll() is None for process in processes), "a process ended first"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    """Return a broker."""
    with Redis() as server:
        yield server


@pytest.fixture(autouse=True)
def at_this_broker(redis: Redis, settings: Any) -> None:
    """Let this process and its forks use it."""
    settings.CELERY_BROKER_URL = redis.url
    settings.CELERY_BROKER_TRANSPORT_OPTIONS = {}
    reset_app()


def reset_app() -> None:
    """Let the app read the settings again, also in processes that are forked from now on."""
    sys.modules.pop("config.celery", None)


@pytest.fixture
def hire(redis: Redis, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Return a function that starts a worker; all are gone at the end."""
    hired: list[Worker] = []

    def start(name: str, **environment: str) -> Worker:
        hired.append(Worker(name, tmp_path, CELERY_BROKER_URL=redis.url, **environment))
        return hired[-1]

    yield start
    for worker in hired:
        worker.kill()
    connection.close()


@pytest.fixture(scope="module")
def crew(redis: Redis, django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Worker]]:
    """Return two workers who serve all tests of this file."""
    folder = tmp_path_factory.mktemp("crew")
    both = [Worker(name, folder, CELERY_BROKER_URL=redis.url) for name in ("one", "two")]
    for worker in both:
        worker.ready()
    yield both
    for worker in both:
        worker.kill()


def workers_of(run_id: int) -> set[str]:
    """Return the processes that have handled batches of a run."""
    found = MigrationBatch.objects.filter(run=run_id, selected__gt=0).values_list("worker", flat=True)
    return {name.rpartition(":")[2] for name in found}


def joined() -> int:
    """Return how many tasks have begun to work, apart from those that go on with another's work."""
    return RunEvent.objects.filter(kind="joined").count()


def open_run(**controls: Any) -> MigrationRun:
    """Open a migration as the command does."""
    return runs.create_run(
        using="default",
        kind=RunKind.MIGRATION,
        options=MigrationOptions().as_dict(),
        rates={"green": 10, "blue": 100, "red": 1000},
        controls=Controls(**{"batch_size": 5, "delay": 0.02, **controls}),
        actor=SOMEBODY,
    )


def the_run(command: Running) -> MigrationRun:
    """Wait until a command has opened its run."""
    command.until(MigrationRun.objects.exists)
    return MigrationRun.objects.get()


# --- The way of a run -------------------------------------------------------------------------------------------------


@committed
@pytest.mark.postgres
def test_workers_share_a_run_that_the_command_only_follows(crew: list[Worker], redis: Redis) -> None:
    people(400)
    env = {"CELERY_BROKER_URL": redis.url}
    with balanced():
        argv = ("--workers", "2", "--batch-size", "5", "--delay", "0.02", "--format", "json")
        done = run_manage("migrate_users", *CELERY, *argv, env=env)
    found = told(done)
    assert (found["status"], found["users"]["migrated"]) == ("completed", 400)
    assert workers_of(found["run"]) == {str(worker.hands) for worker in crew}
    assert "is sent to Celery in 2 tasks; this command only follows it" in done.err
    with balanced():
        back = run("rollback_migration", "--all", "--no-input", *CELERY, "--format", "json")
    assert told(back)["users"]["rolled_back"] == 400
    assert workers_of(told(back)["run"]) <= {str(worker.hands) for worker in crew}


@committed
@pytest.mark.sqlite
def test_one_worker_does_a_run_on_sqlite(crew: list[Worker]) -> None:
    people(100)
    with balanced():
        found = told(run("migrate_users", *CELERY, "--format", "json", "--delay", "0"))
    assert (found["status"], found["users"]["migrated"]) == ("completed", 100)
    assert workers_of(found["run"]) < {str(worker.hands) for worker in crew}
    assert "SQLite has one writer" in refusal(run("migrate_users", *CELERY, "--workers", "2"), 2)


@committed
@pytest.mark.postgres
def test_a_worker_killed_in_mid_batch_costs_nothing(crew: list[Worker]) -> None:
    keys = people(200)
    before = [worker.hands for worker in crew]
    with (
        balanced(),
        manage("migrate_users", *CELERY, "--workers", "2", "--batch-size", "100", "--format", "json") as it,
    ):
        with holding(keys[10], keys[110]):  # both will be in the middle of a batch, and wait
            it.until(lambda: len(waiting()) == 2)
            os.kill(crew[0].hands, signal.SIGKILL)
            it.until(lambda: joined() == 3)  # its message was delivered again
        found = it.told()
    assert (found["status"], found["users"]["migrated"]) == ("completed", 200)
    assert before[0] != crew[0].hands


@contextlib.contextmanager
def holding(*keys: Any) -> Iterator[None]:
    """Hold the wallets of users, as a transaction of the site does."""
    other = connection.copy()
    other.set_autocommit(False)
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT 1 FROM wishes_wallet WHERE user_id = ANY(%s) FOR UPDATE", [list(keys)])
        yield
    finally:
        other.rollback()
        other.close()


def waiting() -> list[Any]:
    """Return the sessions that wait for somebody's lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return cursor.fetchall()


@committed
@pytest.mark.postgres
def test_a_whole_machine_that_is_lost_is_made_up_for_by_the_others(
    crew: list[Worker], hire: Callable[..., Worker]
) -> None:
    people(400)
    third = hire("third").ready()
    with balanced(), manage("migrate_users", *CELERY, "--workers", "3", "--batch-size", "4", "--format", "json") as it:
        opened = the_run(it)
        it.until(lambda: str(third.hands) in workers_of(opened.pk))
        third.kill()
        found = it.told()
    assert (found["status"], found["users"]["migrated"]) == ("completed", 400)
    assert len(workers_of(opened.pk)) == 3


@committed
@pytest.mark.postgres
def test_a_message_that_comes_twice_or_late_does_no_harm(crew: list[Worker]) -> None:
    people(150)
    opened = open_run()
    with balanced():
        celery_broker.send(opened, using="default", times=1)
        celery_broker.send(opened, using="default", times=1)  # both are at work on it together
        until(lambda: status(opened.pk) == "completed")
    assert sum(MigrationBatch.objects.values_list("migrated", flat=True)) == 150
    until(lambda: not celery_broker.presence(opened.pk, using="default").tasks)
    with assert_nothing_changes():
        celery_broker.send(opened, using="default", times=1)
        until(lambda: sum(worker.text().count(" succeeded in ") for worker in crew) >= 3)
        until(lambda: not celery_broker.presence(opened.pk, using="default").waiting)
        assert not celery.work_on_message(
            opened.pk, RunContext(actor=SOMEBODY), opened=opened.created_at.isoformat(), again=False
        )


@committed
@pytest.mark.postgres
def test_a_message_about_another_database_is_refused(crew: list[Worker]) -> None:
    people(3)
    opened = open_run()
    elsewhere = MigrationRun(pk=opened.pk, created_at=opened.created_at.replace(year=2001))
    with assert_nothing_changes():
        celery_broker.send(elsewhere, using="default", times=1)
        celery_broker.send(opened, using="moon", times=1)
        until(
            lambda: all(any(said in w.text() for w in crew) for said in ("is not the one that was sent", "'moon' here"))
        )


# --- What reaches all of them -----------------------------------------------------------------------------------------


@committed
@pytest.mark.postgres
def test_a_pause_reaches_all_and_none_leaves_for_it(crew: list[Worker]) -> None:
    people(300)
    argv = ("--workers", "2", "--batch-size", "5", "--delay", "0.05", "--format", "json")
    with balanced(), manage("migrate_users", *CELERY, *argv) as it:
        opened = the_run(it)
        it.until(lambda: len(workers_of(opened.pk)) == 2)
        told(run("migrate_users", "--pause", "--reason", "lunch", "--format", "json"))
        it.until(lambda: celery_broker.presence(opened.pk, using="default").tasks == 2)
        done = MigrationBatch.objects.filter(status="done").count()
        assert celery_broker.presence(opened.pk, using="default").tasks == 2  # a second has passed
        assert MigrationBatch.objects.filter(status="done").count() - done <= 2
        told(run("migrate_users", "--resume", "--format", "json"))
        found = it.end()
    assert "paused: lunch" in found.err
    assert told(found)["users"]["migrated"] == 300
    assert joined() == 2


@committed
@pytest.mark.postgres
def test_a_stop_frees_all_of_them(crew: list[Worker]) -> None:
    people(300)
    argv = ("--workers", "2", "--batch-size", "5", "--delay", "0.05", "--format", "json")
    with balanced(), manage("migrate_users", *CELERY, *argv) as it:
        opened = the_run(it)
        it.until(lambda: len(workers_of(opened.pk)) == 2)
        told(run("migrate_users", "--stop", "--format", "json"))
        assert it.told(1)["status"] == "stopped"
        until(lambda: not celery_broker.presence(opened.pk, using="default").tasks)
    assert 0 < Wallet.objects.exclude(migrated_at=None).count() < 300


@committed
@pytest.mark.postgres
def test_the_breaker_ends_it_for_all_and_the_workers_take_it_back(crew: list[Worker]) -> None:
    keys = people(200)
    argv = ("--workers", "2", "--batch-size", "5", "--delay", "0.02", "--format", "json")
    with balanced(), planted(keys[100:150]), manage("migrate_users", *CELERY, *argv) as it:
        found = it.told(4)
    assert found["status"] == "rolled_back"
    assert found["rollback"]["status"] == "completed"
    assert not Wallet.objects.exclude(migrated_at=None).exists()
    until(lambda: not celery_broker.presence(found["run"], using="default").tasks)


@committed
@pytest.mark.postgres
def test_a_task_whose_time_is_up_and_a_worker_who_is_asked_to_end_hand_the_work_on(
    hire: Callable[..., Worker], settings: Any
) -> None:
    people(200)
    settings.MANA_MIGRATION_CELERY_QUEUE = "brief"
    brief = {"queue": "brief", "MANA_MIGRATION_CELERY_QUEUE": "brief", "MANA_MIGRATION_CELERY_TASK_SECONDS": "1"}
    first = hire("first", **brief).ready()
    opened = open_run(delay=0.1)
    with balanced():
        celery_broker.send(opened, using="default", times=1)
        until(lambda: first.text().count(" received") == 3, first.process)
        assert joined() == 1
        first.process.terminate()
        assert first.process.wait(PATIENCE) == 0
        assert status(opened.pk) == "running"
        assert celery_broker.presence(opened.pk, using="default").waiting == 1
        runs.change_controls(opened.pk, {"delay": 0}, actor=SOMEBODY)
        second = hire("second", **brief)
        until(lambda: status(opened.pk) == "completed", second.process)
    assert joined() == 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask who is there after half a second without progress."""
    monkeypatch.setattr(celery, "ASK_AFTER", 0.5)


# --- Nobody works -----------------------------------------------------------------------------------------------------


@committed
@pytest.mark.usefixtures("impatient")
def test_the_command_says_that_nobody_works_and_what_to_do(settings: Any) -> None:
    people(10)
    with Redis() as alone:
        settings.CELERY_BROKER_URL = alone.url
        with manage("migrate_users", *CELERY) as it:
            it.until(lambda: "makes no progress" in it.said())
            it.send(signal.SIGINT)
            done = it.end()
    opened = MigrationRun.objects.get()
    assert done.code == 130
    assert f"run {opened.pk} makes no progress: no Celery worker answers; start one on any machine" in done.out
    assert "celery -A config worker" in done.out
    assert f"no longer following run {opened.pk}: its workers continue" in done.out
    assert opened.status == "running"


@committed
@pytest.mark.usefixtures("impatient")
def test_workers_who_do_not_take_it_are_told_from_none(crew: list[Worker], settings: Any) -> None:
    people(10)
    settings.MANA_MIGRATION_CELERY_QUEUE = "nobodys"
    with balanced(), manage("migrate_users", *CELERY) as it:
        it.until(lambda: "2 workers are busy, or listening to other queues" in it.said())
        assert "celery -A config worker -Q nobodys" in it.said()
        assert run("migrate_users").code == 0  # somebody else does it: that is its end, too
        assert it.end().code == 0


@committed
@pytest.mark.postgres
@pytest.mark.usefixtures("impatient")
def test_a_message_that_is_lost_is_sent_again(crew: list[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    people(10)
    sent = celery_broker.send
    monkeypatch.setattr(
        celery_broker, "send", lambda *args, **options: monkeypatch.setattr(celery_broker, "send", sent)
    )
    with balanced(), manage("migrate_users", *CELERY) as it:
        done = it.end()
    assert done.code == 0
    assert "any more: sending it again, in 1 task" in done.out


@committed
def test_a_broker_that_is_away_is_one_line_and_opens_no_run(settings: Any) -> None:
    people(3)
    settings.CELERY_BROKER_URL = "redis://:secret@127.0.0.1:1/0"
    said = refusal(run("migrate_users", *CELERY))
    assert "the broker redis://:**@127.0.0.1:1/0 does not answer" in said
    assert not MigrationRun.objects.exists()


# --- The staff pages --------------------------------------------------------------------------------------------------


@committed
def test_buttons_hand_the_run_to_the_workers_where_a_setting_says_so(crew: list[Worker], settings: Any) -> None:
    settings.MANA_MIGRATION_EXECUTOR = "celery"
    people(30)
    get_user_model().objects.create_superuser("boss", password="x" * 16)
    client = Client()
    client.login(username="boss", password="x" * 16)
    with balanced():
        token = client.post("/migration/runs/start").context["token"]
        client.post("/migration/runs/start", {"token": token, "reason": "go"})
        opened = MigrationRun.objects.get()
        until(lambda: status(opened.pk) == "completed")
        token = client.post(f"/migration/runs/{opened.pk}/rollback").context["token"]
        client.post(f"/migration/runs/{opened.pk}/rollback", {"token": token, "reason": "oops"})
        until(lambda: status(opened.pk) == "rolled_back")
    assert workers_of(opened.pk) <= {str(worker.hands) for worker in crew}

    settings.CELERY_BROKER_URL = "redis://127.0.0.1:1/0"
    reset_app()
    token = client.post("/migration/runs/start").context["token"]
    refused = client.post("/migration/runs/start", {"token": token, "reason": "go"})
    assert refused.status_code == 409
    assert "does not answer" in refused.content.decode()
    assert MigrationRun.objects.count() == 2


@committed
def test_a_run_whose_message_was_lost_is_sent_again_from_its_page_and_twice_does_no_harm(
    crew: list[Worker], settings: Any
) -> None:
    settings.MANA_MIGRATION_EXECUTOR = "celery"
    keys = people(30)
    with balanced():
        opened = Migration(MigrationOptions()).open(
            RunContext(actor=Actor("sam", "web-1"))
        )  # its message never arrived
        get_user_model().objects.create_superuser("boss", password="x" * 16)
        client = Client()
        client.login(username="boss", password="x" * 16)
        page = f"/migration/runs/{opened.pk}/send-again"
        tokens = [client.post(page).context["token"] for _ in range(2)]
        answers = [client.post(page, {"token": token, "reason": "lost"}).status_code for token in tokens]
        assert set(answers) <= {302, 409}  # the second is refused where the first was quick
        assert answers[0] == 302
        until(lambda: status(opened.pk) == "completed")
    assert all(wallet(key)[4] for key in keys)


@pytest.mark.django_db
def test_a_page_without_progress_says_how_to_start_a_worker_and_how_to_send_again(settings: Any) -> None:
    assert (background.worker_command("eu"), background.send_again_command(7)) == (
        "python manage.py work_migration --database eu",
        "",
    )
    settings.MANA_MIGRATION_EXECUTOR = "celery"
    assert background.worker_command() == "celery -A config worker"
    expected = "python manage.py work_migration --database eu --run 7 --executor celery"
    assert background.send_again_command(7, "eu") == expected


# --- Without Celery ---------------------------------------------------------------------------------------------------


@committed
def test_without_celery_it_is_one_line_about_usage() -> None:
    people(3)

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "celery"]:
            del sys.modules[name]
        sys.modules["celery"] = None  # type: ignore[assignment]

    with manage("migrate_users", *CELERY, prepare=forget) as it:
        said = refusal(it.end(), 2)
    assert "Celery is not installed: python -m pip install 'celery[redis]'" in said
    assert not MigrationRun.objects.exists()


@pytest.mark.parametrize("others", [("--dry-run",), ("--user-id", "1"), ("--validate-only",), ("--stop",)])
@committed
def test_what_is_done_at_once_has_no_executor(others: tuple[str, ...]) -> None:
    people(1)
    assert "--executor" in refusal(run("migrate_users", *CELERY, *others), 2)
    if others[0] in ("--dry-run", "--user-id"):
        assert "--executor" in refusal(run("rollback_migration", "--all", *CELERY, "--dry-run"), 2)


def test_nothing_imports_celery_before_it_is_asked_for() -> None:
    code = (
        "import sys, django; django.setup(); from django.core.management import get_commands, load_command_class;"
        "[load_command_class(app, name) for name, app in get_commands().items() if app == 'mana_migration'];"
        "import config.urls; assert not [name for name in sys.modules if name.split('.')[0] in ('celery', 'kombu')]"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
