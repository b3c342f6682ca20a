from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import AppConfig
from django.utils.translation import gettext_lazy

if TYPE_CHECKING:
    from wishes.rates import Rates


class ManaMigrationConfig(AppConfig):
    name = "mana_migration"
    verbose_name = gettext_lazy("Mana migration")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # models may be imported only now; every process of the site waits for what is imported here
        from mana_migration import checks, guards  # noqa: F401, PLC0415 (checks registers the system checks)
        from mana_migration.engine import sessions  # noqa: PLC0415
        from wishes.hooks import hooks  # noqa: PLC0415

        sessions.install()
        hooks.before_spend = _convert_on_first_use
        hooks.rates_of_migrated = _rates_of_migrated
        hooks.more_guards = guards.statements


def _convert_on_first_use(user_key: Any, using: str) -> bool:
    from mana_migration.services.lazy import convert_on_first_use  # noqa: PLC0415 (the whole engine)

    return convert_on_first_use(user_key, using)


def _rates_of_migrated(user_key: Any, using: str) -> Rates | None:
    from mana_migration.selectors.rates import rates_of_migrated  # noqa: PLC0415

    return rates_of_migrated(user_key, using)
