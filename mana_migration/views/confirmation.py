"""One-time tokens: what was confirmed is exactly what was shown, by whom it was shown to, and once."""

from __future__ import annotations

import secrets
from typing import Any, Final

from django.core import signing
from django.http import HttpRequest

#: Seconds for which a confirmation page may be used.
MAX_AGE: Final = 15 * 60

#: Confirmations that a session remembers as used, the latest; older ones are too old by then.
REMEMBERED: Final = 50

_SALT: Final = "mana_migration.confirmation"
_MARK_KEY, _USED_KEY = "mana_migration_mark", "mana_migration_used"


class StaleTokenError(Exception):
    """The token was used before, is too old, or belongs to another account, session, action or target."""


class OtherTermsError(Exception):
    """The token is good, but what is asked for now is not what was shown."""


def issue(request: HttpRequest, action: str, target: str, terms: str = "") -> str:
    """Return a token for this account, session, action, target and terms.

    Only the first one writes into the session: of two previews at the same moment neither undoes what the other wrote.
    """
    if _MARK_KEY not in request.session:
        request.session[_MARK_KEY] = secrets.token_urlsafe(16)
    content = {**_content(request, action, target), "nonce": secrets.token_urlsafe(16), "terms": terms}
    return signing.dumps(content, salt=_SALT, compress=True)


def redeem(request: HttpRequest, action: str, target: str, token: str, terms: str = "") -> None:
    """Accept a token that was issued for just this and not used before; it is void from now on.

    Two requests with the same token at the very same moment may both pass: what they ask for is
    then decided by the service, which lets one of them through.

    Raises:
        StaleTokenError, OtherTermsError: it is not accepted.
    """
    try:
        content: dict[str, Any] = signing.loads(token, salt=_SALT, max_age=MAX_AGE)
        shown, nonce = content.pop("terms"), str(content.pop("nonce"))
    except (signing.BadSignature, KeyError, TypeError, AttributeError) as error:
        raise StaleTokenError from error
    used = list(request.session.get(_USED_KEY, []))
    if nonce in used or content != _content(request, action, target):
        raise StaleTokenError
    if shown != terms:
        raise OtherTermsError
    request.session[_USED_KEY] = [*used, nonce][-REMEMBERED:]
    request.session.save()


def _content(request: HttpRequest, action: str, target: str) -> dict[str, str]:
    mark = str(request.session.get(_MARK_KEY, ""))
    return {"account": str(request.user.pk), "session": mark, "action": action, "target": target}
