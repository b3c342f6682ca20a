"""The only reader of the migration's settings, lazily and under one prefix: ``MANA_MIGRATION_``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from django.conf import settings


def _get(name: str, default: Any) -> Any:
    return getattr(settings, f"MANA_MIGRATION_{name}", default)


def _whole(name: str, default: int, minimum: int = 0) -> int:
    value = _get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"give a whole number from {minimum}")
    return value


def _folder(name: str, default: str) -> Path:
    """Return a folder; a relative one starts at the site's BASE_DIR, never where a command happens to be given."""
    base = Path(getattr(settings, "BASE_DIR", None) or Path.home() / ".local" / "state" / "mana_migration")
    return base / Path(_get(name, default)).expanduser()


def large_conversion() -> int:
    """Return the worth, in mana, above which a conversion is pointed out (never blocked)."""
    return _whole("LARGE_CONVERSION", 100_000)


def log_dir() -> Path:
    """Return the folder of the daily log files."""
    return _folder("LOG_DIR", "logs")


def log_days() -> int:
    """Return how many days the daily log files are kept; 0: for ever."""
    return _whole("LOG_DAYS", 0)


def report_dir() -> Path:
    """Return the folder where reports go when no other path is asked for."""
    return _folder("REPORT_DIR", "reports")


def convert_on_first_use() -> bool:
    """Return whether a user who spends before their turn is converted in that same transaction."""
    return bool(_get("CONVERT_ON_TOUCH", False))


def metrics_enabled() -> bool:
    """Return whether the metrics endpoint answers at all."""
    return bool(_get("METRICS_ENABLED", False))


def metrics_token() -> str:
    """Return the bearer token that opens the metrics endpoint; empty: the view permission is needed."""
    return str(_get("METRICS_TOKEN", ""))


def lock_timeout_ms() -> int:
    """Return how long, in milliseconds, a batch waits for a wallet that another session holds."""
    return _whole("LOCK_TIMEOUT_MS", 1000)


def read_only_wait() -> int:
    """Return how long, in seconds, a run waits for a server that takes no writes, as while it fails over.

    A command on several databases waits as long for one that is lost, once it has ended on all others.
    """
    return _whole("READ_ONLY_WAIT", 60)


def statement_timeout_ms() -> int:
    """Return how long, in milliseconds, one statement of a batch may take; 0 means no limit."""
    return _whole("STATEMENT_TIMEOUT_MS", 60_000)


def executor() -> str:
    """Return who works on runs that staff pages open: ``work_migration`` processes, or ``celery``."""
    value = str(_get("EXECUTOR", "work_migration"))
    if value not in ("work_migration", "celery"):
        raise ValueError("give work_migration or celery")
    return value


def celery_app() -> str:
    """Return the dotted path of the site's Celery app; empty: the one that Celery holds for current."""
    return str(_get("CELERY_APP", ""))


def celery_queue() -> str:
    """Return the queue that runs are handed to; empty: where the app's own routes lead."""
    return str(_get("CELERY_QUEUE", ""))


def celery_workers() -> int:
    """Return how many tasks a run that a staff page opens is handed over in."""
    return _whole("CELERY_WORKERS", 1, minimum=1)


def celery_task_seconds() -> int:
    """Return after how many seconds a task hands its work on to a new one, so that no message is held for long."""
    return _whole("CELERY_TASK_SECONDS", 900, minimum=1)


def notify() -> str | list[str]:
    """Return the addresses that notifications go to, as apprise takes them; empty: none are sent."""
    found = _get("NOTIFY", "")
    return found if isinstance(found, str) else list(found)


def site_url() -> str:
    """Return where the site is served (``https://site.example``), for links in notifications; empty: no links."""
    return str(_get("SITE_URL", ""))


def checklist_hours() -> int:
    """Return how old, in hours, the checklist may be that a mass run needs; 0: none is needed."""
    return _whole("CHECKLIST_HOURS", 0)


def approval_hours() -> int:
    """Return for how many hours a request may wait for a second person's approval; 0: mass runs need none."""
    return _whole("APPROVAL_HOURS", 0)


#: Every setting by its name after the prefix, for the system checks and the reference in the documentation.
READERS: Final[dict[str, Callable[[], Any]]] = {
    "LARGE_CONVERSION": large_conversion,
    "LOG_DIR": log_dir,
    "LOG_DAYS": log_days,
    "REPORT_DIR": report_dir,
    "CONVERT_ON_TOUCH": convert_on_first_use,
    "METRICS_ENABLED": metrics_enabled,
    "METRICS_TOKEN": metrics_token,
    "LOCK_TIMEOUT_MS": lock_timeout_ms,
    "READ_ONLY_WAIT": read_only_wait,
    "STATEMENT_TIMEOUT_MS": statement_timeout_ms,
    "EXECUTOR": executor,
    "CELERY_APP": celery_app,
    "CELERY_QUEUE": celery_queue,
    "CELERY_WORKERS": celery_workers,
    "CELERY_TASK_SECONDS": celery_task_seconds,
    "NOTIFY": notify,
    "SITE_URL": site_url,
    "CHECKLIST_HOURS": checklist_hours,
    "APPROVAL_HOURS": approval_hours,
}
