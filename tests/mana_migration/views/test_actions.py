"""What staff do from a page: shown first, confirmed once with a reason, done by the service, recorded."""

import html
import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core import signing
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from mana_migration.domain.options import MigrationOptions
from mana_migration.errors import BrokerUnavailableError
from mana_migration.models import MigrationRun, RunEvent, UserMigration
from mana_migration.services import operation
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.executors import celery_broker
from mana_migration.services.migration import Migration
from mana_migration.states import EventKind, RunKind, RunStatus
from mana_migration.views import confirmation
from tests.factories import make_wallets
from tests.mana_migration.history import make_run
from tests.mana_migration.stories import url
from wishes.models import ManaEntry, Wallet
from wishes.services import spend_mana

pytestmark = pytest.mark.django_db

SignIn = Callable[..., Client]
OLGA = Actor("olga", "db-1")


def migrated(*balances: tuple[int, ...]) -> tuple[MigrationRun, list[Any]]:
    """Convert users with these balances and return the run and their keys."""
    wallets = make_wallets(balances)
    done = operation.execute(Migration(MigrationOptions()), RunContext(actor=OLGA))
    assert done.run is not None
    return MigrationRun.objects.get(pk=done.run), [wallet.pk for wallet in wallets]


def token_of(response: Any) -> str:
    """Return the token of a confirmation page."""
    found = re.search(r'name="token" value="([^"]+)"', response.content.decode())
    assert found, response.content.decode()[:3000]
    return html.unescape(found[1])


def text_of(response: Any) -> str:
    """Return what a reader of the page sees, on one line."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode())))


def confirm(client: Client, address: str, *, reason: str = "because", **fields: str) -> Any:
    """Ask and confirm, as a person does."""
    token = token_of(client.post(address, {"preview": "1", **fields}))
    return client.post(address, {"token": token, "reason": reason, **fields})


CHANGES = {
    "pause": (RunStatus.RUNNING, RunStatus.PAUSED, EventKind.PAUSED),
    "resume": (RunStatus.PAUSED, RunStatus.RUNNING, EventKind.RESUMED),
    "stop": (RunStatus.RUNNING, RunStatus.STOPPED, EventKind.STOPPED),
}


@pytest.mark.parametrize("action", CHANGES)
def test_a_run_is_changed_once_it_is_confirmed(action: str, sign_in: SignIn) -> None:
    before, after, kind = CHANGES[action]
    run = make_run(status=before)
    client = sign_in(f"{action}_run", name="sam")
    asked = client.post(url(action, run.pk))
    run.refresh_from_db()
    assert (asked.status_code, run.status) == (200, before)  # asking changes nothing
    done = client.post(url(action, run.pk), {"token": token_of(asked), "reason": "the backup runs"})
    assert (done.status_code, done.headers["Location"]) == (302, url("run", run.pk))
    run.refresh_from_db()
    assert run.status == after
    event = RunEvent.objects.get(run=run, kind=kind)
    assert (event.actor, event.message) == ("sam", "the backup runs")


@pytest.mark.parametrize("action", CHANGES)
@pytest.mark.parametrize("status", RunStatus)
def test_a_change_that_the_status_does_not_allow_is_refused(action: str, status: RunStatus, sign_in: SignIn) -> None:
    before, after, _ = CHANGES[action]
    allowed = {
        "pause": {RunStatus.RUNNING},
        "resume": {RunStatus.PAUSED},
        "stop": {RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.CHECKING},
    }[action]
    run = make_run(status=status)
    response = sign_in(f"{action}_run").post(url(action, run.pk))
    assert response.status_code == (200 if status in allowed else 409)
    assert ('name="token"' in response.content.decode()) == (status in allowed)
    assert before != after


@pytest.fixture
def sent(settings: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Let workers be sent messages; return the run and the number of each that is sent."""
    found: list[tuple[int, int]] = []
    settings.MANA_MIGRATION_EXECUTOR = "celery"
    monkeypatch.setattr(celery_broker, "check", lambda: None)
    monkeypatch.setattr(celery_broker, "send", lambda run, *, using, times: found.append((run.pk, times)))
    return found


def test_a_run_whose_message_was_lost_is_sent_again(
    sign_in: SignIn, sent: list[tuple[int, int]], django_capture_on_commit_callbacks: Any
) -> None:
    run = make_run(status=RunStatus.RUNNING)
    client = sign_in("resume_run", name="sam")
    asked = client.post(url("send_again", run.pk))
    assert (asked.status_code, sent) == (200, [])
    assert "that does no harm" in text_of(asked)
    with django_capture_on_commit_callbacks(execute=True):
        done = client.post(url("send_again", run.pk), {"token": token_of(asked), "reason": "Redis was emptied"})
    assert (done.status_code, done.headers["Location"]) == (302, url("run", run.pk))
    assert sent == [(run.pk, 1)]
    event = RunEvent.objects.get(run=run, kind=EventKind.RESUMED_WORK)
    assert (event.actor, event.message) == ("sam", "sent to the workers again: Redis was emptied")


@pytest.mark.django_db(transaction=True)
def test_what_could_not_be_sent_again_is_not_said_to_have_been(
    sign_in: SignIn, sent: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(run: MigrationRun, **_: Any) -> None:
        raise BrokerUnavailableError("the broker does not answer")

    monkeypatch.setattr(celery_broker, "send", gone)
    run = make_run(status=RunStatus.RUNNING)
    client = sign_in("resume_run")
    token = token_of(client.post(url("send_again", run.pk)))
    done = client.post(url("send_again", run.pk), {"token": token, "reason": "Redis was emptied"}, follow=True)
    assert "the broker does not answer" in text_of(done)
    assert not RunEvent.objects.filter(run=run, kind=EventKind.RESUMED_WORK).exists()


@pytest.mark.parametrize(
    "status", [status for status in RunStatus if status not in (RunStatus.RUNNING, RunStatus.CHECKING)]
)
def test_only_a_run_that_workers_can_do_is_sent_again(
    status: RunStatus, sign_in: SignIn, sent: list[tuple[int, int]]
) -> None:
    run = make_run(status=status)
    response = sign_in("resume_run").post(url("send_again", run.pk))
    assert (response.status_code, sent) == (409, [])


def test_where_workers_look_for_runs_themselves_nothing_is_sent_again(sign_in: SignIn) -> None:
    run = make_run(status=RunStatus.RUNNING)
    response = sign_in("resume_run").post(url("send_again", run.pk))
    assert response.status_code == 409
    assert "start one with python manage.py work_migration" in text_of(response)


def test_the_button_is_there_for_who_may_when_nobody_works_and_messages_are_sent(
    sign_in: SignIn, settings: Any
) -> None:
    run = make_run(status=RunStatus.RUNNING, created_at=timezone.now() - timedelta(minutes=5))
    button = f'href="{url("send_again", run.pk)}"'
    boss, viewer = sign_in("resume_run", name="boss"), sign_in(name="viewer")
    assert button not in boss.get(url("run", run.pk)).content.decode()
    settings.MANA_MIGRATION_EXECUTOR = "celery"
    for page in (url("run", run.pk), url("run_fragment", run.pk), url("overview")):
        assert button in boss.get(page).content.decode(), page
        seen = viewer.get(page).content.decode()
        assert button not in seen, page
        assert f"work_migration --run {run.pk} --executor celery" in seen, page


@pytest.mark.parametrize("reason", ["", "   ", "\n\t", "\x00\x1b"])
def test_a_reason_is_required(reason: str, sign_in: SignIn) -> None:
    run = make_run(status=RunStatus.RUNNING)
    response = confirm(sign_in("pause_run"), url("pause", run.pk), reason=reason)
    assert response.status_code == 400
    assert "Give a reason" in text_of(response)
    run.refresh_from_db()
    assert run.status == RunStatus.RUNNING


def test_a_reason_is_one_line_of_bounded_length_and_shown_as_text(sign_in: SignIn) -> None:
    run = make_run(status=RunStatus.RUNNING)
    client = sign_in("pause_run")
    confirm(client, url("pause", run.pk), reason="<b>bold</b>\nsecond line\x1b[31m " + "x" * 2000)
    event = RunEvent.objects.get(run=run, kind=EventKind.PAUSED)
    assert len(event.message) == 500
    assert "\n" not in event.message
    assert "\x1b" not in event.message
    page = client.get(url("run", run.pk)).content.decode()
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold</b>" not in page


def test_a_confirmation_works_once(sign_in: SignIn) -> None:
    run = make_run(status=RunStatus.RUNNING)
    client = sign_in("pause_run", "resume_run")
    token = token_of(client.post(url("pause", run.pk)))
    fields = {"token": token, "reason": "because"}
    assert client.post(url("pause", run.pk), fields).status_code == 302
    confirm(client, url("resume", run.pk))
    replayed = client.post(url("pause", run.pk), fields)
    assert replayed.status_code == 409
    assert confirmation.MAX_AGE == 900
    run.refresh_from_db()
    assert run.status == RunStatus.RUNNING
    assert RunEvent.objects.filter(run=run, kind=EventKind.PAUSED).count() == 1


def test_two_previews_at_once_void_neither(sign_in: SignIn) -> None:
    run = make_run(status=RunStatus.RUNNING)
    client = sign_in("pause_run")
    client.get(url("pause", run.pk))
    before = dict(client.session)
    tokens = [token_of(client.get(url("pause", run.pk))) for _ in range(2)]
    assert dict(client.session) == before  # what one wrote, the other would undo
    assert client.post(url("pause", run.pk), {"token": tokens[0], "reason": "because"}).status_code == 302


def test_a_confirmation_of_another_session_is_refused(sign_in: SignIn) -> None:
    run = make_run(status=RunStatus.RUNNING)
    client = sign_in("pause_run", name="sam")
    token = token_of(client.get(url("pause", run.pk)))
    again = Client()
    again.login(username="sam", password="secret")
    again.get(url("pause", run.pk))
    assert again.post(url("pause", run.pk), {"token": token, "reason": "because"}).status_code == 409


def test_a_confirmation_is_for_one_action_target_and_account(sign_in: SignIn) -> None:
    run, other = make_run(status=RunStatus.RUNNING), make_run(status=RunStatus.COMPLETED)
    client = sign_in("pause_run", "stop_run", name="sam")
    token = token_of(client.post(url("pause", run.pk)))
    stranger = sign_in("pause_run", "stop_run", name="eve")
    fields = {"token": token, "reason": "because"}
    assert client.post(url("stop", run.pk), fields).status_code == 409
    assert client.post(url("pause", other.pk), fields).status_code == 409
    assert stranger.post(url("pause", run.pk), fields).status_code == 409
    run.refresh_from_db()
    assert run.status == RunStatus.RUNNING
    assert client.post(url("pause", run.pk), fields).status_code == 302


@pytest.mark.parametrize("token", ["", "x", "x:y:z", signing.dumps({"nonce": "1"}, salt="mana_migration.confirmation")])
def test_a_made_up_confirmation_is_refused(token: str, sign_in: SignIn) -> None:
    run = make_run(status=RunStatus.RUNNING)
    client = sign_in("pause_run")
    assert client.post(url("pause", run.pk), {"token": token, "reason": "because"}).status_code == 409
    run.refresh_from_db()
    assert run.status == RunStatus.RUNNING


def test_an_old_confirmation_is_refused(sign_in: SignIn, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(status=RunStatus.RUNNING)
    client = sign_in("pause_run")
    token = token_of(client.post(url("pause", run.pk)))
    monkeypatch.setattr(confirmation, "MAX_AGE", -1)
    response = client.post(url("pause", run.pk), {"token": token, "reason": "because"})
    assert response.status_code == 409
    assert "too old" in text_of(response)


def test_a_permission_that_was_taken_away_meanwhile_counts(sign_in: SignIn) -> None:
    from django.contrib.auth import get_user_model

    run = make_run(status=RunStatus.RUNNING)
    client = sign_in("pause_run", name="sam")
    token = token_of(client.post(url("pause", run.pk)))
    get_user_model().objects.get(username="sam").user_permissions.clear()
    assert client.post(url("pause", run.pk), {"token": token, "reason": "because"}).status_code == 403


# --- Start


def test_a_migration_is_shown_first_and_then_opened_for_a_worker(sign_in: SignIn) -> None:
    make_wallets([(3, 2, 1), (0, 0, 5)])
    client = sign_in("start_run", name="sam")
    asked = client.post(url("start"))
    words = text_of(asked)
    assert "Would be migrated 2 of 2 users" in words
    assert "6,230" in words
    assert MigrationRun.objects.count() == 0
    done = client.post(url("start"), {"token": token_of(asked), "reason": "the big day"})
    run = MigrationRun.objects.get()
    assert done.headers["Location"] == url("run", run.pk)
    assert (run.status, run.actor, run.reason, run.kind) == (RunStatus.RUNNING, "sam", "the big day", RunKind.MIGRATION)
    assert Wallet.objects.filter(migrated_at__isnull=False).count() == 0  # nothing is converted in the request


def test_a_limit_and_skipping_are_taken_from_the_page(sign_in: SignIn) -> None:
    make_wallets([(3, 2, 1), (-4, 0, 0)])
    given = {"limit": "1", "skip_invalid": "on", "batch_size": "7", "delay": "0.5", "error_threshold": "2.5"}
    confirm(sign_in("start_run"), url("start"), **given)
    run = MigrationRun.objects.get()
    assert (run.options["limit"], run.options["skip_invalid"]) == (1, True)
    assert run.controls == {"batch_size": 7, "delay": 0.5, "error_threshold": "2.5"}


def test_the_preview_follows_the_form_and_keeps_what_was_typed(sign_in: SignIn) -> None:
    make_wallets([(3, 2, 1), (0, 0, 5), (-4, 0, 0)])
    client = sign_in("start_run")
    blocked = client.get(url("start"))
    assert "1 user with an error in the data blocks the run" in text_of(blocked)
    assert 'name="token"' not in blocked.content.decode()
    shown = client.post(url("start"), {"preview": "1", "skip_invalid": "on", "limit": "2", "reason": "the big day"})
    assert "Would be migrated 2 of 2 users" in text_of(shown)
    assert ">the big day</textarea>" in shown.content.decode()
    fixed = client.get(url("start"), {"auto_fix": "on"})
    assert "Would be migrated 3 of 3 users" in text_of(fixed)
    assert MigrationRun.objects.count() == 0


def test_what_was_changed_after_the_preview_is_shown_before_it_is_done(sign_in: SignIn) -> None:
    make_wallets([(3, 2, 1), (0, 0, 5)])
    client = sign_in("start_run")
    token = token_of(client.get(url("start"), {"limit": "1"}))
    response = client.post(url("start"), {"token": token, "limit": "2", "reason": "because"})
    assert response.status_code == 409
    assert "changed after the preview" in text_of(response)
    assert "Would be migrated 2 of 2 users" in text_of(response)
    assert MigrationRun.objects.count() == 0


def test_a_run_of_no_users_cannot_be_started(sign_in: SignIn) -> None:
    migrated((3, 2, 1))
    response = sign_in("start_run").get(url("start"))
    assert "There is nothing to migrate" in text_of(response)
    assert 'name="token"' not in response.content.decode()


def test_what_was_typed_survives_a_session_that_ended(sign_in: SignIn) -> None:
    run = make_run(status=RunStatus.RUNNING)
    client = sign_in("pause_run", name="sam")
    token = token_of(client.get(url("pause", run.pk)))
    client.logout()
    refused = client.post(url("pause", run.pk), {"token": token, "reason": "the backup runs"})
    assert refused.headers["Location"] == f"{reverse('admin:login')}?next={url('pause', run.pk)}"
    client.post(reverse("admin:login"), {"username": "sam", "password": "secret"})
    page = client.get(url("pause", run.pk)).content.decode()
    assert ">the backup runs</textarea>" in page
    run.refresh_from_db()
    assert run.status == RunStatus.RUNNING


def test_settings_of_an_open_run_are_changed_with_a_reason(sign_in: SignIn) -> None:
    run = make_run(status=RunStatus.RUNNING)
    client = sign_in("change_migrationrun", name="sam")
    confirm(client, url("settings", run.pk), batch_size="7", reason="too fast")
    run.refresh_from_db()
    assert run.controls == {"batch_size": 7, "delay": 0.0, "error_threshold": "10"}
    event = RunEvent.objects.get(run=run, kind=EventKind.SETTING_CHANGED)
    assert (event.actor, event.message) == ("sam", "too fast")
    refused = confirm(client, url("settings", run.pk), batch_size="-1")
    assert refused.status_code == 400
    assert 'value="-1"' in refused.content.decode()
    same = confirm(client, url("settings", run.pk), batch_size="7")
    assert 'class="warning"' in client.get(same.headers["Location"]).content.decode()
    closed = make_run(status=RunStatus.COMPLETED)
    assert client.get(url("settings", closed.pk)).status_code == 409


def test_a_run_that_is_checked_ends_by_itself(sign_in: SignIn) -> None:
    run = make_run(status=RunStatus.CHECKING)
    response = sign_in("pause_run").get(url("pause", run.pk))
    assert response.status_code == 409
    assert "It ends by itself when the checks are done." in text_of(response)


def test_users_who_failed_for_one_reason_are_retried(sign_in: SignIn) -> None:
    make_wallets([(3, 2, 1)] * 20)
    failing = make_wallets([(-4, 0, 0)] * 2)
    operation.execute(
        Migration(MigrationOptions(skip_invalid=False, users=tuple(str(wallet.pk) for wallet in failing))),
        RunContext(actor=OLGA),
    )
    run = MigrationRun.objects.get()
    client = sign_in("start_run", name="sam")
    address = f"{url('retry', run.pk)}?error_class=negative_balance"
    assert "Nothing has changed since they failed" in text_of(client.get(address))
    asked = client.post(address, {"preview": "1", "auto_fix": "on"})
    assert "Would be migrated 2 of 2 users" in text_of(asked)
    done = client.post(address, {"token": token_of(asked), "auto_fix": "on", "reason": "corrected"}, follow=True)
    assert "2 migrated, 0 failed, 0 skipped" in text_of(done)
    assert Wallet.objects.filter(migrated_at__isnull=False).count() == 2
    assert client.get(address).status_code == 409


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1.5", "9" * 20, "\u0663"])
def test_a_limit_that_cannot_be_meant_is_refused(limit: str, sign_in: SignIn) -> None:
    make_wallets([(3, 2, 1)])
    client = sign_in("start_run")
    response = client.post(url("start"), {"limit": limit, "token": token_of(client.get(url("start"))), "reason": "x"})
    assert response.status_code == 400
    assert "give a whole number of users" in text_of(response)
    assert MigrationRun.objects.count() == 0


def test_findings_stand_in_the_way_and_are_shown(sign_in: SignIn) -> None:
    make_wallets([(3, 2, 1), (-4, 0, 0)])
    client = sign_in("start_run")
    asked = client.post(url("start"))
    assert "negative_balance 1 error wishes are negative" in text_of(asked)
    assert 'name="token"' not in asked.content.decode()
    assert client.post(url("start"), {"token": "", "reason": "because"}).status_code == 409
    assert MigrationRun.objects.count() == 0


def test_a_second_open_run_is_refused(sign_in: SignIn) -> None:
    make_run(status=RunStatus.RUNNING)
    response = sign_in("start_run").post(url("start"))
    assert response.status_code == 409
    assert "Let it finish or stop it first." in text_of(response)


# --- Roll back a run


def test_the_rollback_of_a_run_shows_what_the_dry_run_says(sign_in: SignIn) -> None:
    run, users = migrated((3, 2, 1), (0, 0, 5), (7, 0, 0))
    spend_mana(users[1], amount=4000, reference="shop:1")
    response = sign_in("rollback_run").post(url("rollback_run", run.pk))
    words = text_of(response)
    assert "Would be rolled back 2 of 3 users" in words
    assert "Mana debited 1,300" in words
    assert "10 green, 2 blue, 1 red" in words
    assert "Would stay migrated 1 1 spent the mana" in words
    assert "then 3 users are rolled back and 4,000 mana is written off" in words
    record = UserMigration.objects.get(user=users[1])
    assert f"{record.pk} 5,000 4,000" in words
    assert MigrationRun.objects.count() == 1


def test_the_rollback_of_a_run_is_opened_for_a_worker(sign_in: SignIn) -> None:
    run, _ = migrated((3, 2, 1))
    done = confirm(sign_in("rollback_run", name="sam"), url("rollback_run", run.pk), reason="wrong rates")
    opened = MigrationRun.objects.get(kind=RunKind.ROLLBACK)
    assert done.headers["Location"] == url("run", opened.pk)
    assert (opened.status, opened.actor, opened.reason) == (RunStatus.RUNNING, "sam", "wrong rates")
    assert opened.options["on_shortfall"] == "skip"
    assert Wallet.objects.filter(migrated_at__isnull=False).count() == 1  # nothing is taken back in the request


def test_spent_mana_is_written_off_where_that_was_chosen(sign_in: SignIn) -> None:
    run, users = migrated((3, 2, 1))
    spend_mana(users[0], amount=1000, reference="shop:1")
    confirm(sign_in("rollback_run"), url("rollback_run", run.pk), on_shortfall="write-off")
    assert MigrationRun.objects.get(kind=RunKind.ROLLBACK).options["on_shortfall"] == "write-off"


def test_a_rollback_that_would_stop_an_open_migration_says_so(sign_in: SignIn) -> None:
    run, _ = migrated((3, 2, 1))
    open_run = make_run(status=RunStatus.RUNNING)
    response = sign_in("rollback_run").post(url("rollback_run", run.pk))
    assert f"Migration run {open_run.pk} is open: it is stopped first" in text_of(response)


def test_two_confirmations_of_one_rollback_open_one(sign_in: SignIn) -> None:
    run, _ = migrated((3, 2, 1))
    client = sign_in("rollback_run")
    tokens = [token_of(client.post(url("rollback_run", run.pk))) for _ in range(2)]
    codes = [
        client.post(url("rollback_run", run.pk), {"token": token, "reason": "because"}).status_code for token in tokens
    ]
    assert codes == [302, 409]
    assert MigrationRun.objects.filter(kind=RunKind.ROLLBACK).count() == 1


def test_a_run_without_conversions_cannot_be_rolled_back(sign_in: SignIn) -> None:
    client = sign_in("rollback_run")
    response = client.post(url("rollback_run", make_run().pk))
    assert response.status_code == 409
    assert "Nothing to roll back" in text_of(response)
    rollback = make_run(kind=RunKind.ROLLBACK)
    assert client.post(url("rollback_run", rollback.pk)).status_code == 409


# --- Roll back a user


def test_a_rollback_from_a_page_is_in_the_rollback_log(sign_in: SignIn, settings: Any, tmp_path: Path) -> None:
    settings.MANA_MIGRATION_LOG_DIR = tmp_path / "logs"
    _, users = migrated((3, 2, 1))
    confirm(sign_in("rollback_user", name="sam"), url("rollback_user", users[0]), reason="asked for it")
    [file] = (tmp_path / "logs").iterdir()
    run = MigrationRun.objects.get(kind=RunKind.ROLLBACK)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert file.name.startswith("rollback-")
    assert "started" in {line["context"].get("event") for line in lines}
    assert {line["context"]["run"] for line in lines if "run" in line["context"]} == {run.pk}
    assert "sam" not in file.read_text()


def test_a_user_is_rolled_back_at_once(sign_in: SignIn) -> None:
    _, users = migrated((3, 2, 1), (0, 0, 5))
    client = sign_in("rollback_user", name="sam")
    asked = client.post(url("rollback_user", users[0]))
    assert "Would be rolled back 1 of 1 user" in text_of(asked)
    done = client.post(url("rollback_user", users[0]), {"token": token_of(asked), "reason": "asked for it"})
    assert done.headers["Location"] == url("user", users[0])
    wallet = Wallet.objects.get(pk=users[0])
    assert (wallet.green, wallet.blue, wallet.red, wallet.mana, wallet.migrated_at) == (3, 2, 1, 0, None)
    run = MigrationRun.objects.get(kind=RunKind.ROLLBACK)
    assert (run.status, run.actor, run.reason) == (RunStatus.COMPLETED, "sam", "asked for it")
    assert Wallet.objects.get(pk=users[1]).migrated_at is not None
    assert f"User {users[0]} is rolled back, by run {run.pk}." in text_of(client.get(url("user", users[0])))


def test_a_user_who_spent_the_mana_is_left_alone_unless_it_is_written_off(sign_in: SignIn) -> None:
    _, users = migrated((3, 2, 1))
    spend_mana(users[0], amount=1000, reference="shop:1")
    client = sign_in("rollback_user")
    asked = client.get(url("rollback_user", users[0])).content.decode()
    assert "checked" not in asked
    unclear = confirm(client, url("rollback_user", users[0]), shortfalls="1")
    assert (unclear.status_code, MigrationRun.objects.filter(kind=RunKind.ROLLBACK).count()) == (400, 0)
    left = confirm(client, url("rollback_user", users[0]), shortfalls="1", on_shortfall="skip")
    page = client.get(left.headers["Location"])
    assert "Nothing was changed" in text_of(page)
    assert '<li class="warning">' in page.content.decode()
    assert Wallet.objects.get(pk=users[0]).migrated_at is not None
    confirm(client, url("rollback_user", users[0]), shortfalls="1", on_shortfall="write-off")
    wallet = Wallet.objects.get(pk=users[0])
    assert (wallet.green, wallet.mana, wallet.migrated_at) == (3, 0, None)
    assert "1,000 mana was spent already and was written off" in text_of(client.get(url("user", users[0])))


def test_a_user_is_rolled_back_once(sign_in: SignIn) -> None:
    _, users = migrated((3, 2, 1))
    client = sign_in("rollback_user")
    tokens = [token_of(client.post(url("rollback_user", users[0]))) for _ in range(2)]
    for token in tokens:
        client.post(url("rollback_user", users[0]), {"token": token, "reason": "because"})
    assert ManaEntry.objects.filter(kind="reversal").count() == 1
    assert client.post(url("rollback_user", users[0])).status_code == 409


def test_a_user_who_is_not_migrated_cannot_be_rolled_back(sign_in: SignIn) -> None:
    [wallet] = make_wallets([(3, 2, 1)])
    response = sign_in("rollback_user").post(url("rollback_user", wallet.pk))
    assert response.status_code == 409
    assert "is not migrated" in text_of(response)


def test_asking_never_writes(sign_in: SignIn) -> None:
    run, users = migrated((3, 2, 1))
    client = sign_in("rollback_run", "rollback_user", "start_run")
    before = _tables()
    for address in (url("rollback_run", run.pk), url("rollback_user", users[0]), url("start")):
        client.post(address)
    assert _tables() == before


def _tables() -> dict[str, list[Any]]:
    """Return every row of every table of ours."""
    rows = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            if table.startswith(("wishes_", "mana_migration_")):
                cursor.execute(f"SELECT * FROM {table}")
                rows[table] = sorted(map(repr, cursor.fetchall()))
    return rows


def local(**ahead: float) -> str:
    """Return a local time from now as a form sends it."""
    return f"{timezone.localtime() + timedelta(**ahead):%Y-%m-%dT%H:%M}"


def test_a_run_is_started_with_a_window_that_can_be_moved_and_removed(sign_in: SignIn) -> None:
    make_wallets([(3, 2, 1)] * 3)
    client, end = sign_in("start_run", "change_migrationrun"), local(hours=2)
    confirm(client, url("start"), until=end)
    run = MigrationRun.objects.get()
    assert timezone.localtime(datetime.fromisoformat(run.controls["until"])).isoformat()[:16] == end
    assert f"window until {end.replace('T', ' ')}:00" in text_of(client.get(url("run", run.pk)))
    confirm(client, url("settings", run.pk), until=local(hours=3))
    run.refresh_from_db()
    assert run.controls["until"] > (timezone.now() + timedelta(hours=2.5)).isoformat()
    assert "No window: the present one ends at" in text_of(client.get(url("settings", run.pk)))
    confirm(client, url("settings", run.pk), no_window="on")
    run.refresh_from_db()
    assert "until" not in run.controls


@pytest.mark.parametrize(
    ("until", "why"), [("soon", "give a date and a time"), ("2020-01-01T05:00", "would be over already")]
)
def test_a_window_that_cannot_be_meant_is_refused(until: str, why: str, sign_in: SignIn) -> None:
    make_wallets([(3, 2, 1)])
    response = sign_in("start_run").post(url("start"), {"preview": "1", "until": until})
    assert response.status_code == 400
    assert why in text_of(response)


def test_a_run_whose_window_is_over_says_so_and_asks_for_no_worker(sign_in: SignIn) -> None:
    ago = timezone.now() - timedelta(minutes=5)
    run = make_run(status=RunStatus.RUNNING, created_at=ago, controls={"until": ago.isoformat()})
    page = text_of(sign_in().get(url("run", run.pk)))
    assert "Its window ended at" in page
    assert "Remaining window over the run stays open" in page
    assert "No worker process seems" not in page
