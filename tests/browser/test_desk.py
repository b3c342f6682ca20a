"""What the desk must notice, or every test with it would pass."""

from collections.abc import Callable

import pytest

from tests.browser.desk import Desk

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def test_a_request_to_anywhere_else_is_noticed_and_goes_nowhere(desk: Callable[..., Desk]) -> None:
    sam = desk()
    # Leaving the first page aborts what it still loads, which fails as well.
    with sam.page.expect_event("requestfailed", lambda request: "elsewhere.example" in request.url[:30]) as failed:
        sam.page.goto('data:text/html,<img src="http://elsewhere.example/pixel.png">')
    assert failed.value.failure == "net::ERR_NAME_NOT_RESOLVED"
    assert "request to http://elsewhere.example/pixel.png" in sam.complaints
    sam.forgive("elsewhere.example")
    sam.forgive("ERR_NAME_NOT_RESOLVED")


def test_a_dialog_and_an_error_of_a_script_are_noticed(desk: Callable[..., Desk]) -> None:
    sam = desk()
    sam.page.goto("data:text/html,<script>alert('hello'); nothing.is.there</script>")
    assert sam.complaints[0] == "dialog: hello"
    assert sam.complaints[1].startswith("script error: ")
    sam.complaints.clear()
