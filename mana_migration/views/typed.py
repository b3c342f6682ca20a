"""What was typed into a form: from the request, or kept over a sign-in that was needed in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from django.http import HttpRequest, QueryDict

#: Fields that the page itself adds.
_OWN: Final = ("csrfmiddlewaretoken", "token", "preview")

#: Characters kept of a field, and fields kept.
_LONGEST, _MOST = 2000, 30

_SESSION_KEY: Final = "mana_migration_typed"


def values(request: HttpRequest) -> Mapping[str, str]:
    """Return the fields of the form: as posted, else as kept for this address, else as given in the address."""
    if request.method == "POST":
        return _fields(request.POST)
    kept: Mapping[str, str] = request.session.pop(_SESSION_KEY, {}).get(request.path, {})
    return kept or _fields(request.GET)


def keep(request: HttpRequest) -> None:
    """Keep what was posted to this address for the next time that it is opened in this session."""
    request.session[_SESSION_KEY] = {request.path: _fields(request.POST)}


def _fields(given: QueryDict) -> dict[str, str]:
    pairs = [(name, str(value)[:_LONGEST]) for name, value in given.items() if name not in _OWN]
    return dict(pairs[:_MOST])
