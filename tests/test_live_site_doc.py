"""The pages for developers tell the truth: their examples run, and their texts are those of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.test import RequestFactory

from mana_migration import conf
from tests.factories import UserFactory, WalletFactory
from wishes import errors, guards, services
from wishes.models import Wallet

DOCS = Path(__file__).resolve().parent.parent / "docs"
LIVE_SITE = (DOCS / "live-site.md").read_text()
INSTALL = (DOCS / "install-into-your-site.md").read_text()


def example(heading: str) -> dict[str, Any]:
    """Return what the example under this heading defines."""
    section = LIVE_SITE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code, f"there is no example under {heading!r}"
    names: dict[str, Any] = {}
    exec(compile(code[1], heading, "exec"), names)  # noqa: S102 (our own page)
    return names


@pytest.mark.django_db
def test_the_view_sells_once_and_says_what_is_lacking(rf: RequestFactory) -> None:
    buy = example("A view")["buy"]
    request = rf.post("/")
    request.user = WalletFactory(red=3).user
    for _ in range(2):
        assert buy(request, 1, "sword").content == b'{"paid": 2, "in": "red", "left": 1}'
    refused = buy(request, 2, "sword")
    assert (refused.status_code, refused.content) == (402, b'{"needs": 2, "has": 1, "in": "red"}')


@pytest.mark.django_db
def test_the_job_may_run_again_at_any_point() -> None:
    reward = example("A background job")["reward"]
    wallets = [WalletFactory(blue=0), WalletFactory(blue=2**63 - 1), WalletFactory(blue=0)]
    keys = [wallet.pk for wallet in wallets]
    assert reward(1, keys[:1]) == []
    assert reward(1, keys) == [keys[1]]
    assert [Wallet.objects.get(pk=key).blue for key in keys] == [2, 2**63 - 1, 2]


@pytest.mark.django_db
def test_the_gift_moves_everything_or_nothing() -> None:
    give = example("Two users in one transaction")["give"]
    giver, taker = UserFactory().pk, UserFactory().pk
    services.earn_mana(giver, 5, reference="salary")
    give(giver, taker, 5, 1)
    assert [services.read_balance(user).mana for user in (giver, taker)] == [0, 5]
    with pytest.raises(errors.InsufficientBalanceError):
        give(giver, taker, 5, 2)
    assert [services.read_balance(user).mana for user in (giver, taker)] == [0, 5]


def test_the_page_quotes_the_errors_of_the_database() -> None:
    for text in (guards.STALE_WALLET, guards.APPEND_ONLY.format(table="wishes_manaentry"), guards.WALLET_HAS_HISTORY):
        assert text in LIVE_SITE


def test_the_page_lists_every_error_of_the_services() -> None:
    ours = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.WishesError) and value is not errors.WishesError
    }
    listed = set(re.findall(r"^\| `(\w+Error)` \|", LIVE_SITE, re.MULTILINE))
    # the others are a mistake in the settings, and a refused rollback: no errors of a call
    assert listed == ours - {"InvalidRatesError", "ReversalNotAllowedError"}


def test_the_page_names_the_reserved_references() -> None:
    for prefix in services.RESERVED_PREFIXES:
        assert f"`{prefix}`" in LIVE_SITE
    assert f"{services.REFERENCE_MAX} characters" in LIVE_SITE


def test_the_installation_lists_every_setting_with_its_default() -> None:
    read = set(re.findall(r'_get\("(\w+)"', Path(conf.__file__).read_text()))
    section = INSTALL.partition("Everything else has a default")[2].partition("\n## ")[0]
    assert {name for name in read if f"_{name}`" not in section} == set()
    for default in (conf.large_conversion(), conf.lock_timeout_ms(), conf.statement_timeout_ms()):
        assert f"| {default} |" in section
