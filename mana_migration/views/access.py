"""Who may see what: staff accounts, with the permission that a page or an action names."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from django.contrib.auth.models import Permission
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache

from mana_migration.engine import sessions
from mana_migration.views import frame, typed
from mana_migration.views.page import VIEW, refuse

READ: Final = ("GET", "HEAD")
ACT: Final = (*READ, "POST")

View = Callable[..., HttpResponseBase]


def staff_only(*permissions: str, methods: tuple[str, ...] = READ) -> Callable[[View], View]:
    """Let in staff who have the view permission and these, by one of the methods; refuse others with a page.

    Anonymous visitors are sent to sign in, and find what they typed again afterwards.  A poll of a
    page whose session ended makes the page reload, and so leads to the sign-in.
    """

    def decorate(view: View) -> View:
        @never_cache
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if request.method not in methods:
                refusal = refuse(request, 405, _("This address cannot be used like that. Open it from its page."))
                refusal.headers["Allow"] = ", ".join(methods)
                return refusal
            if not request.user.is_authenticated:
                return _anonymous(request, typing="POST" in methods)
            try:
                _check(request, (VIEW, *permissions))
                with sessions.named("page"):
                    return view(request, *args, **kwargs)
            except PermissionDenied as error:
                return refuse(request, 403, str(error))
            except Http404 as error:
                return refuse(request, 404, str(error))

        return guarded

    return decorate


def _check(request: HttpRequest, permissions: tuple[str, ...]) -> None:
    # A user model may lack is_staff; the permissions decide there, asked one by one as the admin asks.
    if not (request.user.is_active and getattr(request.user, "is_staff", True)):
        raise PermissionDenied(_("These pages are for staff accounts."))
    for permission in permissions:
        if not request.user.has_perm(permission):
            codename = permission.partition(".")[2]
            name = Permission.objects.filter(codename=codename).values_list("name", flat=True).first() or codename
            raise PermissionDenied(
                _("Your account lacks the permission “{name}” ({permission}). An administrator can grant it.").format(
                    name=name, permission=permission
                )
            )


def _anonymous(request: HttpRequest, *, typing: bool) -> HttpResponseBase:
    if request.headers.get("HX-Request") == "true":
        return HttpResponse(headers={"HX-Refresh": "true"})
    if request.method not in READ and typing:
        typed.keep(request)
    return redirect_to_login(request.get_full_path(), login_url=frame.sign_in_address())
