"""Approval by a second person: who asks cannot approve, each step is an event, and one request opens one run."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from mana_migration.domain.options import Controls, MigrationOptions, RollbackOptions
from mana_migration.errors import MigrationError
from mana_migration.models import MigrationRun, RunEvent, RunRequest
from mana_migration.services import approval, notifications, operation
from mana_migration.services.approval import Approval, ApprovalError
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.executors import background
from mana_migration.services.migration import Migration
from mana_migration.services.rollback import Rollback
from mana_migration.states import RequestStatus, RunKind, RunStatus
from tests.factories import make_wallets
from tests.mana_migration.running import refusal
from tests.support.commands import run_command
from wishes.models import Wallet

pytestmark = pytest.mark.django_db(transaction=True)

OLGA, SAM = Actor("olga", "web-1"), Actor("sam", "web-2")


@pytest.fixture(autouse=True)
def needed(settings: Any) -> None:
    settings.MANA_MIGRATION_APPROVAL_HOURS = 24


def ask(**values: Any) -> RunRequest:
    given = {"kind": RunKind.MIGRATION, "options": MigrationOptions().as_dict(), "controls": Controls(batch_size=7)}
    return approval.ask(**given | {"preview": {"selected": 3}, "reason": "the big day", "actor": OLGA} | values)


def approve(request: RunRequest, actor: Actor = SAM) -> MigrationRun:
    return background.approve(request.pk, RunContext(actor=actor), reason="checked")


def steps(request: RunRequest) -> list[tuple[str, str, str]]:
    return list(RunEvent.objects.filter(request=request).values_list("kind", "actor", "message"))


def age(request: RunRequest, **past: float) -> None:
    RunRequest.objects.filter(pk=request.pk).update(created_at=timezone.now() - timedelta(**past))


def test_a_second_person_opens_the_run_that_was_asked_for() -> None:
    make_wallets([(3, 2, 1)] * 3)
    request = ask()
    assert not MigrationRun.objects.exists()
    run = approve(request)
    request.refresh_from_db()
    assert (request.status, request.run_id) == (RequestStatus.APPROVED, run.pk)
    assert (run.status, run.actor, run.host, run.reason) == (RunStatus.RUNNING, "olga", "web-1", "the big day")
    assert run.controls_in_force.batch_size == 7
    assert steps(request) == [("requested", "olga", "the big day"), ("approved", "sam", "checked")]
    assert [event.kind for event in run.events.all()] == ["started", "approved"]
    background.work(RunContext(), once=True)
    assert Wallet.objects.filter(migrated_at=None).count() == 0


def test_a_rollback_is_asked_for_and_approved_as_well() -> None:
    make_wallets([(3, 2, 1)] * 3)
    run = approve(ask())
    background.work(RunContext(), once=True)
    options = RollbackOptions(run=run.pk, on_shortfall="write-off")
    back = approve(ask(kind=RunKind.ROLLBACK, options=options.as_dict()))
    assert (back.kind, back.target_run_id, back.actor) == (RunKind.ROLLBACK, run.pk, "olga")
    assert (back.options["on_shortfall"], back.options["approved_by"]) == ("write-off", "sam")
    background.work(RunContext(), once=True)
    assert Wallet.objects.filter(migrated_at=None).count() == 3


@pytest.mark.parametrize("name", ["olga", "OLGA", " olga "])
def test_nobody_approves_or_declines_their_own_request(name: str) -> None:
    make_wallets([(3, 2, 1)])
    request = ask()
    with pytest.raises(ApprovalError, match="is your own"):
        approve(request, Actor(name, "elsewhere"))
    with pytest.raises(ApprovalError, match="withdraw it instead"):
        approval.close(request.pk, RequestStatus.DECLINED, actor=Actor(name, "elsewhere"), reason="no")
    assert not MigrationRun.objects.exists()


def test_declined_and_withdrawn_requests_open_no_run() -> None:
    make_wallets([(3, 2, 1)])
    declined, withdrawn = ask(), ask()
    approval.close(declined.pk, RequestStatus.DECLINED, actor=SAM, reason="not tonight")
    with pytest.raises(ApprovalError, match="decline it instead"):
        approval.close(withdrawn.pk, RequestStatus.WITHDRAWN, actor=SAM, reason="not mine")
    approval.close(withdrawn.pk, RequestStatus.WITHDRAWN, actor=OLGA, reason="a mistake")
    assert steps(declined)[1:] == [("declined", "sam", "not tonight")]
    assert steps(withdrawn)[1:] == [("withdrawn", "olga", "a mistake")]
    for request, word in ((declined, "declined"), (withdrawn, "withdrawn")):
        with pytest.raises(ApprovalError, match=f"request {request.pk} was {word} already"):
            approve(request)
    with pytest.raises(ApprovalError, match="was declined already"):
        approval.close(declined.pk, RequestStatus.DECLINED, actor=SAM, reason="again")
    assert not MigrationRun.objects.exists()


def test_a_request_expires() -> None:
    make_wallets([(3, 2, 1)])
    request = ask()
    age(request, hours=25)
    request.refresh_from_db()
    assert approval.is_expired(request, "default")
    with pytest.raises(ApprovalError, match=r"more than 24 h old.*ask for the run again"):
        approve(request)
    age(request, hours=23)
    assert approve(request).status == RunStatus.RUNNING


def test_a_run_that_cannot_start_leaves_the_request_waiting() -> None:
    make_wallets([(-1, 0, 0)])
    request = ask()
    with pytest.raises(MigrationError, match="block"):
        approve(request)
    request.refresh_from_db()
    assert (request.status, steps(request)[1:]) == (RequestStatus.WAITING, [])


def test_of_two_people_who_approve_at_once_one_opens_the_run() -> None:
    make_wallets([(3, 2, 1)] * 3)
    request, barrier = ask(), threading.Barrier(2)

    def decide(name: str) -> str:
        try:
            barrier.wait()
            approve(request, Actor(name, "web-3"))
        except MigrationError as error:
            return str(error)
        finally:
            connection.close()
        return ""

    with ThreadPoolExecutor(2) as threads:
        refused = [text for text in threads.map(decide, ("sam", "tina")) if text]
    run = MigrationRun.objects.get()
    assert len(refused) == 1
    assert str(run.pk) in refused[0]
    assert [kind for kind, *_ in steps(request)] == ["requested", "approved"]


def test_the_command_line_names_a_second_person() -> None:
    make_wallets([(3, 2, 1)] * 3)
    assert "ask for it on the staff pages, or name that person with --approved-by NAME" in refusal(
        run_command("migrate_users")
    )
    me = RunContext().actor.name
    assert "--approved-by names yourself" in refusal(run_command("migrate_users", "--approved-by", me))
    assert not MigrationRun.objects.exists()
    assert run_command("migrate_users", "--approved-by", "Olga").code == 0
    run = MigrationRun.objects.get()
    event = run.events.get(kind="approved")
    assert (event.actor, event.message) == (me, "Olga approved it, by --approved-by")
    assert "a second person's approval" in refusal(run_command("rollback_migration", "--all", "--no-input"))
    assert run_command("rollback_migration", "--all", "--no-input", "--approved-by", "Olga").code == 0
    assert run_command("migrate_users", "--approved-by", "Olga").code == 0
    assert "a second person's approval" in refusal(run_command("migrate_users", "--rollback", "--no-input"))
    assert run_command("migrate_users", "--rollback", "--no-input", "--approved-by", "Olga").code == 0


def test_selected_users_and_the_breaker_need_no_approval() -> None:
    keys = [str(wallet.pk) for wallet in make_wallets([(3, 2, 1)] * 2)]
    operation.execute(Migration(MigrationOptions(users=tuple(keys))), RunContext())
    operation.execute(Rollback(RollbackOptions(users=tuple(keys))), RunContext())
    migrated = approve(ask())
    background.work(RunContext(), once=True)
    tripped = Rollback(RollbackOptions(run=migrated.pk, breaker=True)).open(RunContext())
    assert tripped.status == RunStatus.RUNNING


def test_an_open_run_is_resumed_without_another_approval() -> None:
    make_wallets([(3, 2, 1)] * 3)
    Migration(MigrationOptions(), "", Approval("Sam")).open(RunContext(actor=OLGA))
    assert run_command("migrate_users").code == 0
    assert Wallet.objects.filter(migrated_at=None).count() == 0


def test_where_no_approval_is_needed_a_run_may_still_name_who_approved_it(settings: Any) -> None:
    settings.MANA_MIGRATION_APPROVAL_HOURS = 0
    make_wallets([(3, 2, 1)])
    assert run_command("migrate_users", "--approved-by", "Olga").code == 0
    assert MigrationRun.objects.get().events.filter(kind="approved").count() == 1


def test_who_may_approve_is_notified(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.MANA_MIGRATION_NOTIFY = "json://localhost"
    settings.MANA_MIGRATION_SITE_URL = "https://site.example"
    sent: list[notifications.Message] = []
    monkeypatch.setattr(notifications, "_send", sent.append)
    request = ask()
    assert [message.title for message in sent] == [
        f"Migration request {request.pk} waits for a second person's approval"
    ]
    assert sent[0].body == f"https://site.example/migration/requests/{request.pk}/"
