"""One browser window of one staff account, which notes everything that should not happen in it."""

from __future__ import annotations

import re
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from django.conf import settings
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.test import Client
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request, expect

from tests.mana_migration.stories import make_staff

expect.set_options(timeout=20_000)  # a busy machine answers later


class Desk:
    """A signed-in window: ``page`` is Playwright's, ``complaints`` what went wrong in it.

    Complaints are messages on the console, errors of scripts, dialogs, and requests to anywhere but the site.
    """

    def __init__(
        self,
        site: str,
        browser: Browser,
        *permissions: str,
        name: str = "sam",
        by_form: bool = False,
        **options: Any,
    ) -> None:
        """Sign a new staff account in, with the view permission and those named: with a session, or by the form."""
        self.site = site
        self.complaints: list[str] = []
        self._listening = True
        self._context = browser.new_context(base_url=site, **options)
        self._context.set_default_timeout(20_000)
        # Listened to, not routed: each routed request takes its time, and the cache is off. The browser finds no name.
        self._context.on("request", self._only_the_site)
        self.page: Page = self._context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self._complain(f"script error: {error}"))
        self.page.on("dialog", self._dialog)
        account = make_staff(name, "view_migrationrun", *permissions)
        # The tests' own hasher is unknown to the server, which reads this one.
        account.password = PBKDF2PasswordHasher().encode("secret", "salt", iterations=1)
        account.save()
        if by_form:
            self.page.goto("/admin/login/?next=/migration/")
            self.page.get_by_label("Username").fill(name)
            self.page.get_by_label("Password").fill("secret")
            self.page.get_by_role("button", name="Log in").click()
        else:
            client = Client()
            client.force_login(account)
            session = client.cookies[settings.SESSION_COOKIE_NAME]
            self._context.add_cookies([{"name": session.key, "value": session.value, "url": site}])
            self.page.goto("/migration/")
        self.page.locator("h1", has_text=re.compile("mana.migration", re.IGNORECASE)).wait_for()  # in either language

    def close(self) -> None:
        """Close the window."""
        self._context.close()

    def forgive(self, words: str) -> None:
        """Forget complaints with these words: the test has brought them about."""
        self.complaints = [complaint for complaint in self.complaints if words not in complaint]

    def serious_findings(self) -> list[str]:
        """Return what axe finds on the page that is serious or critical."""
        self._listening = False  # axe itself breaks the content security policy
        try:
            violations = Axe().run(self.page).response["violations"]
        finally:
            self._listening = True
        return [
            f"{violation['id']}: {node['html'][:200]}"
            for violation in violations
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        wide: int = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        return wide

    def _complain(self, complaint: str) -> None:
        if self._listening:
            self.complaints.append(complaint)

    def _console(self, message: ConsoleMessage) -> None:
        # The browser asks for an icon by itself where a page of Django's own admin names none.
        if message.type in ("error", "warning") and not message.location.get("url", "").endswith("/favicon.ico"):
            self._complain(f"console {message.type}: {message.text}")

    def _dialog(self, dialog: Dialog) -> None:
        self._complain(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _only_the_site(self, request: Request) -> None:
        if not request.url.startswith((self.site, "data:", "blob:")):
            self._complain(f"request to {request.url}")
