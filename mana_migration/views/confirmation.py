"""One-time tokens: what was confirmed is exactly what was shown, by whom it was shown to, and once."""

from __future__ import annotations

import secrets
from typing import Any, Final

from django.core import signing
from django.http import HttpRequest

#: Seconds for which a confirmation page may be used.
MAX_AGE: Final = 15 * 60

#: Confirmation pages that may be open at a time in one session; older ones are void.
OPEN_PAGES: Final = 20

_SALT: Final = "mana_migration.confirmation"
_SESSION_KEY: Final = "mana_migration_confirmations"


class StaleTokenError(Exception):
    """The token was used before, is too old, or belongs to another account, session, action or target."""


class OtherTermsError(Exception):
    """The token is good, but what is asked for now is not what was shown."""


def issue(request: HttpRequest, action: str, target: str, terms: str = "") -> str:
    """Return a token for this account, session, action, target and terms."""
    nonce = secrets.token_urlsafe(16)
    request.session[_SESSION_KEY] = [*request.session.get(_SESSION_KEY, []), nonce][-OPEN_PAGES:]
    return signing.dumps({**_content(request, action, target, nonce), "terms": terms}, salt=_SALT, compress=True)


def redeem(request: HttpRequest, action: str, target: str, token: str, terms: str = "") -> None:
    """Accept a token that was issued for just this and not used before; it is void from now on.

    Two requests with the same token at the very same moment may both pass: what they ask for is
    then decided by the service, which lets one of them through.

    Raises:
        StaleTokenError, OtherTermsError: it is not accepted.
    """
    try:
        content: dict[str, Any] = signing.loads(token, salt=_SALT, max_age=MAX_AGE)
        shown, nonce = content.pop("terms"), str(content["nonce"])
    except (signing.BadSignature, KeyError, TypeError, AttributeError) as error:
        raise StaleTokenError from error
    pending = list(request.session.get(_SESSION_KEY, []))
    if nonce not in pending or content != _content(request, action, target, nonce):
        raise StaleTokenError
    if shown != terms:
        raise OtherTermsError
    pending.remove(nonce)
    request.session[_SESSION_KEY] = pending
    request.session.save()


def _content(request: HttpRequest, action: str, target: str, nonce: str) -> dict[str, str]:
    return {"account": str(request.user.pk), "action": action, "target": target, "nonce": nonce}
