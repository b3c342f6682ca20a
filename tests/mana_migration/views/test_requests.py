"""Mass runs that a second person approves, on the pages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from mana_migration.models import MigrationRun, RunRequest
from mana_migration.services.context import RunContext
from mana_migration.services.executors import background
from mana_migration.states import RequestStatus, RunStatus
from tests.factories import make_wallets
from tests.mana_migration.history import make_run
from tests.mana_migration.stories import url
from tests.mana_migration.views.test_actions import confirm, text_of, token_of
from wishes.models import Wallet
from wishes.services import spend_mana

pytestmark = pytest.mark.django_db

SignIn = Callable[..., Client]


@pytest.fixture(autouse=True)
def needed(settings: Any) -> None:
    settings.MANA_MIGRATION_APPROVAL_HOURS = 24


def ask(client: Client, **fields: str) -> RunRequest:
    response = confirm(client, url("start"), reason="the big day", **fields)
    assert response.status_code == 302, text_of(response)
    return RunRequest.objects.get()


def test_a_migration_is_asked_for_by_one_and_approved_by_another(sign_in: SignIn) -> None:
    make_wallets([(3, 2, 1)] * 3)
    olga, sam = sign_in("start_run", "approve_run", name="olga"), sign_in("approve_run", name="sam")
    assert "you cannot approve it yourself" in text_of(olga.get(url("start")))
    request = ask(olga, limit="2", batch_size="7")
    assert not MigrationRun.objects.exists()
    own, others = text_of(olga.get(url("request", request.pk))), text_of(sam.get(url("request", request.pk)))
    assert "You asked for this run, so a second person has to approve it." in own
    assert "Withdraw…" in own
    assert "Approve…" not in own
    for text in ("by olga", "the big day", "at most 2 users", "batch size 7", "Would be migrated 2 2", "Approve…"):
        assert text in others, text
    assert "Withdraw…" not in others
    assert "The numbers have changed" not in others
    assert f"Migration request {request.pk} waits for a second person's approval." in text_of(sam.get(url("overview")))

    refused = olga.get(url("approve", request.pk))
    assert (refused.status_code, 'name="token"' in refused.content.decode()) == (409, False)
    done = confirm(sam, url("approve", request.pk), reason="checked")
    run = MigrationRun.objects.get()
    assert (done.status_code, done.headers["Location"]) == (302, url("run", run.pk))
    assert (run.actor, run.options["limit"]) == ("olga", 2)
    assert f"Approved by sam : checked Request {request.pk}" in text_of(sam.get(url("run", run.pk)))
    assert "waits for" not in text_of(sam.get(url("overview")))
    assert f"Run {run.pk}" in text_of(olga.get(url("request", request.pk)))


def test_a_request_whose_numbers_changed_says_so(sign_in: SignIn) -> None:
    make_wallets([(3, 2, 1)] * 3)
    olga, sam = sign_in("start_run", name="olga"), sign_in("approve_run", name="sam")
    request = ask(olga)
    make_wallets([(0, 0, 1)])
    page = text_of(sam.get(url("approve", request.pk)))
    assert "The numbers have changed since it was asked for." in page
    assert "Would be migrated 3 4" in page
    assert "Mana 3,690 4,690" in page


def test_a_request_that_would_be_refused_now_cannot_be_approved(sign_in: SignIn) -> None:
    make_wallets([(3, 2, 1)] * 3)
    olga, sam = sign_in("start_run", name="olga"), sign_in("approve_run", name="sam")
    request = ask(olga)
    make_wallets([(-1, 0, 0)])
    page = sam.get(url("request", request.pk))
    assert "The run would be refused now:" in text_of(page)
    assert "Approve…" not in text_of(page)
    assert sam.get(url("approve", request.pk)).status_code == 409


def test_a_request_is_not_approved_while_a_run_is_open(sign_in: SignIn) -> None:
    make_wallets([(3, 2, 1)] * 3)
    olga, sam = sign_in("start_run", name="olga"), sign_in("approve_run", name="sam")
    request = ask(olga)
    run = make_run(status=RunStatus.RUNNING)
    page = text_of(sam.get(url("request", request.pk)))
    assert f"The run would be refused now: Migration run {run.pk} is open." in page
    assert "Would be migrated 3" in page  # as it was asked for
    assert sam.get(url("approve", request.pk)).status_code == 409


def test_an_expired_request_says_so_and_can_only_be_declined(sign_in: SignIn) -> None:
    make_wallets([(3, 2, 1)])
    olga, sam = sign_in("start_run", name="olga"), sign_in("approve_run", name="sam")
    request = ask(olga)
    token = token_of(sam.get(url("approve", request.pk)))
    RunRequest.objects.update(created_at=timezone.now() - timedelta(hours=25))
    page = text_of(sam.get(url("request", request.pk)))
    assert "This request has expired" in page
    assert "Approve…" not in page
    done = sam.post(url("approve", request.pk), {"token": token, "reason": "late"})
    assert (done.status_code, MigrationRun.objects.count()) == (409, 0)
    assert confirm(sam, url("decline", request.pk)).status_code == 302
    assert RunRequest.objects.get().status == RequestStatus.DECLINED


def test_a_request_is_withdrawn_by_its_author_alone(sign_in: SignIn) -> None:
    make_wallets([(3, 2, 1)])
    olga, sam = sign_in("start_run", name="olga"), sign_in("approve_run", name="sam")
    request = ask(olga)
    assert sam.get(url("withdraw", request.pk)).status_code == 409
    done = confirm(olga, url("withdraw", request.pk), reason="a mistake")
    assert done.headers["Location"] == url("request", request.pk)
    assert "Withdrawn by olga : a mistake" in text_of(olga.get(url("request", request.pk)))
    assert sam.get(url("approve", request.pk)).status_code == 409


def test_a_rollback_is_asked_for_with_what_it_would_cost(sign_in: SignIn) -> None:
    wallets = make_wallets([(3, 2, 1)] * 3)
    olga, sam = sign_in("start_run", "rollback_run", name="olga"), sign_in("approve_run", name="sam")
    confirm(sam, url("approve", ask(olga).pk))
    background.work(RunContext(), once=True)
    spend_mana(wallets[0].pk, amount=1000, reference="shop:1")
    run = MigrationRun.objects.get()
    confirm(olga, url("rollback_run", run.pk), shortfalls="1", on_shortfall="write-off")
    request = RunRequest.objects.latest("pk")
    assert (request.kind, request.preview["rolled_back"], request.preview["shortfall"]) == ("rollback", 3, 1000)
    page = text_of(sam.get(url("approve", request.pk)))
    for text in ("spent mana is written off", "Mana written off because it was spent 1,000 1,000", f"Run {run.pk}"):
        assert text in page, text
    confirm(sam, url("approve", request.pk))
    background.work(RunContext(), once=True)
    assert Wallet.objects.filter(migrated_at=None).count() == 3
    assert MigrationRun.objects.get(pk=run.pk).status == RunStatus.ROLLED_BACK


def test_without_the_setting_nothing_is_asked_for(sign_in: SignIn, settings: Any) -> None:
    settings.MANA_MIGRATION_APPROVAL_HOURS = 0
    make_wallets([(3, 2, 1)])
    confirm(sign_in("start_run"), url("start"))
    assert (MigrationRun.objects.count(), RunRequest.objects.count()) == (1, 0)
