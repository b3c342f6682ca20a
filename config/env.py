"""Typed readers of environment variables, on top of django-environ.

Each fails at start with the variable's name, its value and what is allowed. A value that may hold a secret (a key, a
token, a database URL) is never part of the message.
"""

import os
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

import environ

TRUE = ("true", "yes", "on", "1")
FALSE = ("false", "no", "off", "0")
DATABASE_ENGINES = {
    "sqlite": "django.db.backends.sqlite3",
    "postgres": "django.db.backends.postgresql",
    "postgresql": "django.db.backends.postgresql",
}

_environment = environ.Env()


class ConfigurationError(Exception):
    """A setting taken from the environment is wrong; the message is one line for the operator."""


def read_file(path: Path) -> None:
    """Read a .env file if there is one; variables that are already set win."""
    if path.is_file():
        environ.Env.read_env(path)


def text(name: str, *, default: str = "") -> str:
    """Return the variable, stripped."""
    return str(_environment.str(name, default=default)).strip()


def boolean(name: str, *, default: bool) -> bool:
    """Return the variable as true or false; empty means the default."""
    value = text(name)
    if value == "":
        return default
    if value.lower() in TRUE:
        return True
    if value.lower() in FALSE:
        return False
    raise ConfigurationError(f"{name}={value!r} is neither true nor false; allowed: {', '.join(TRUE + FALSE)}.")


def integer(name: str, *, default: int, minimum: int, maximum: int) -> int:
    """Return the variable as an integer of the range, bounds included; empty means the default."""
    value = text(name)
    if value == "":
        return default
    try:
        number = int(value)
    except ValueError:
        number = None
    if number is None or not minimum <= number <= maximum:
        raise ConfigurationError(f"{name}={value!r} is not allowed; give a whole number from {minimum} to {maximum}.")
    return number


def choice(name: str, *, default: str, allowed: Collection[str]) -> str:
    """Return the variable, which must be one of the allowed words."""
    value = text(name) or default
    if value not in allowed:
        raise ConfigurationError(f"{name}={value!r} is not allowed; give one of: {', '.join(allowed)}.")
    return value


def items(name: str, *, default: list[str]) -> list[str]:
    """Return the comma-separated words of the variable, without empty ones; an empty variable means the default."""
    value = text(name)
    return [item.strip() for item in value.split(",") if item.strip()] if value else default


def path(name: str, *, default: Path, base: Path) -> Path:
    """Return the variable as an absolute path; a relative one starts at the base."""
    value = text(name)
    if "\0" in value:
        raise ConfigurationError(f"{name}={value!r} is not a path.")
    return base / Path(value).expanduser() if value else default


def time_zone(name: str, *, default: str) -> str:
    """Return the variable, which must name a time zone that this machine knows."""
    value = text(name) or default
    try:
        ZoneInfo(value)
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        message = f"{name}={value!r} is not a time zone; give a name like UTC or Europe/Berlin."
        raise ConfigurationError(message) from None
    return value


def secret(name: str, *, keep_in: Path, minimum_length: int = 50) -> str:
    """Return the variable or, if it is empty, a random key that is made once and kept in a file only we can read."""
    value = text(name)
    if value == "":
        value = _kept_secret(name, keep_in)
    if len(value) < minimum_length:
        raise ConfigurationError(
            f"{name} has {len(value)} characters; give at least {minimum_length} random ones (it is not shown here)."
        )
    return value


def _kept_secret(name: str, keep_in: Path) -> str:
    try:
        if not keep_in.exists():
            keep_in.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = keep_in.with_name(f"{keep_in.name}.{os.getpid()}.{secrets.token_hex(4)}")
            draft.touch(mode=0o600, exist_ok=False)
            draft.write_text(secrets.token_urlsafe(64))
            try:
                # A link, not a rename: of two processes that start at once, the second takes the first one's key.
                keep_in.hardlink_to(draft)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        return keep_in.read_text().strip()
    except OSError as error:
        message = f"{name} is not set, and a random one cannot be kept in {keep_in} ({error.strerror}); set {name}."
        raise ConfigurationError(message) from error


def database(name: str, *, default: str) -> dict[str, Any]:
    """Return Django's settings for a database URL (sqlite:///FILE or postgres://USER:PASSWORD@HOST:PORT/NAME).

    A server's socket folder is given as the host, percent-encoded: postgres://user@%2Fvar%2Frun%2Fpostgresql/name.
    """
    url = text(name) or default
    scheme = url.partition(":")[0]
    allowed = "give sqlite:///FILE or postgres://USER:PASSWORD@HOST:PORT/NAME (its value is a secret, not shown)"
    if scheme not in DATABASE_ENGINES:
        raise ConfigurationError(f"{name} is not the URL of a database that is supported; {allowed}.")
    try:
        _ = urlsplit(url).port
        settings: dict[str, Any] = environ.Env.db_url_config(url)
    except ValueError:
        raise ConfigurationError(f"{name} cannot be read as a URL; {allowed}.") from None
    if not settings.get("NAME"):
        raise ConfigurationError(f"{name} names no database; {allowed}.")
    settings["ENGINE"] = DATABASE_ENGINES[scheme]
    settings["HOST"] = unquote(settings.get("HOST") or "")
    settings.setdefault("OPTIONS", {})
    return settings


def databases(name: str, *, default: str) -> dict[str, dict[str, Any]]:
    """Return every database of the environment: NAME is the alias "default", NAME_<ALIAS> the alias in lower case."""
    prefix = f"{name}_"
    aliases = sorted(variable for variable in os.environ if variable.startswith(prefix) and variable != prefix)
    found = {"default": database(name, default=default)}
    for variable in aliases:
        if text(variable):
            found[variable.removeprefix(prefix).lower()] = database(variable, default="")
    return found
