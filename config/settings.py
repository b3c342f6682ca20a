"""Django's settings. Every value that a deployment may change is read from the environment through config.env.

.env.example documents each variable.
"""

from pathlib import Path
from typing import Any

from csp.constants import NONE, SELF

from config import env

# --- Where we are -----------------------------------------------------------------------------------------------------

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = BASE_DIR / "var"

env.read_file(env.path("ENV_FILE", default=BASE_DIR / ".env", base=BASE_DIR))

DEBUG = env.boolean("DEBUG", default=False)

# Management commands must run on a fresh checkout, so a missing key is made once and kept. With more than one machine
# serving pages, set the same SECRET_KEY on all of them.
SECRET_KEY_FILE = VAR_DIR / "secret_key"
SECRET_KEY = env.secret("SECRET_KEY", keep_in=SECRET_KEY_FILE)

ALLOWED_HOSTS = env.items("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.items("CSRF_TRUSTED_ORIGINS", default=[])

# --- Applications -----------------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "config",
    "django.contrib.admin.apps.SimpleAdminConfig",  # config.urls finds the screens: commands need not import them
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_htmx",
    "csp",
    "wishes",
    "mana_migration",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# --- Databases --------------------------------------------------------------------------------------------------------

SQLITE_OPTIONS = {
    # Take the write lock when a transaction starts: upgrading a read lock later fails at once instead of waiting.
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    # WAL lets the site read while the migration writes. synchronous=FULL, because NORMAL may lose the last commits when
    # the power fails: the file stays consistent, but money that was reported as converted would not be.
    # recursive_triggers makes REPLACE fire the ledger's DELETE guard.
    "init_command": (
        "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;PRAGMA foreign_keys=ON;PRAGMA recursive_triggers=ON;"
    ),
}


def _with_options(database: dict[str, Any]) -> dict[str, Any]:
    """Add what this site wants of the database; options given in its URL win."""
    if database["ENGINE"].endswith("sqlite3"):
        database["OPTIONS"] = SQLITE_OPTIONS | database["OPTIONS"]
        if database["NAME"] != ":memory:":
            database["NAME"] = BASE_DIR / database["NAME"]
        return database
    connect_timeout = env.integer("DATABASE_CONNECT_TIMEOUT", default=10, minimum=1, maximum=600)
    database["OPTIONS"] = {"connect_timeout": connect_timeout} | database["OPTIONS"]
    database["CONN_MAX_AGE"] = env.integer("CONN_MAX_AGE", default=60, minimum=0, maximum=86_400)
    database["CONN_HEALTH_CHECKS"] = True
    # PgBouncer in transaction mode hands the next statement to another server connection, where the cursor is unknown.
    database["DISABLE_SERVER_SIDE_CURSORS"] = env.boolean("DISABLE_SERVER_SIDE_CURSORS", default=False)
    return database


DATABASES = {
    alias: _with_options(database)
    for alias, database in env.databases("DATABASE_URL", default=f"sqlite:///{BASE_DIR / 'db.sqlite3'}").items()
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Language and time ------------------------------------------------------------------------------------------------

LANGUAGE_CODE = "en-us"
LANGUAGES = [("en", "English"), ("de", "Deutsch")]  # by the browser's wish; commands stay English
TIME_ZONE = env.time_zone("TIME_ZONE", default="UTC")
USE_I18N = True
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_TZ = True

# --- Passwords and sign-in --------------------------------------------------------------------------------------------

PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",  # reads what an older site stored; upgraded at the next sign-in
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "admin:login"

# --- Security ---------------------------------------------------------------------------------------------------------

HTTPS_ONLY = env.boolean("HTTPS_ONLY", default=not DEBUG)
SECURE_SSL_REDIRECT = HTTPS_ONLY
SESSION_COOKIE_SECURE = HTTPS_ONLY
CSRF_COOKIE_SECURE = HTTPS_ONLY
SECURE_HSTS_SECONDS = (
    env.integer("HSTS_SECONDS", default=31_536_000, minimum=0, maximum=63_072_000) if HTTPS_ONLY else 0
)
# They bind every other site of the domain, and for long: off unless the environment says otherwise.
SECURE_HSTS_INCLUDE_SUBDOMAINS = env.boolean("HSTS_INCLUDE_SUBDOMAINS", default=False)
SECURE_HSTS_PRELOAD = env.boolean("HSTS_PRELOAD", default=False)
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]  # which ask for these two
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_HTTPONLY = True
CSRF_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"
if env.boolean("BEHIND_TLS_PROXY", default=False):
    # Only where a proxy sets this header itself on every request: a client could send it otherwise.
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

_csp_report_uri = env.text("CSP_REPORT_URI")  # underscored: django-csp 4 refuses settings of its older names
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF],
        "connect-src": [SELF],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        **({"report-uri": _csp_report_uri} if _csp_report_uri else {}),
    },
}

# --- Static files -----------------------------------------------------------------------------------------------------

STATIC_URL = "static/"
# Served hashed and compressed from staticfiles/ after "manage.py collectstatic", or straight from the source folders.
COLLECTED_STATIC = env.boolean("COLLECTED_STATIC", default=not DEBUG)
STATIC_ROOT = BASE_DIR / "staticfiles" if COLLECTED_STATIC else None
WHITENOISE_USE_FINDERS = not COLLECTED_STATIC
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"
        if COLLECTED_STATIC
        else "django.contrib.staticfiles.storage.StaticFilesStorage",
    },
}

# --- Logging ----------------------------------------------------------------------------------------------------------

# For people at a terminal. The migration's own JSON log files are opened by mana_migration, for the time of a run.
LOG_LEVEL = env.choice("LOG_LEVEL", default="WARNING", allowed=("DEBUG", "INFO", "WARNING", "ERROR"))
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {"django": {"handlers": [], "level": LOG_LEVEL, "propagate": True}},
}

# --- The migration ----------------------------------------------------------------------------------------------------

# What one wish is worth in mana. A run keeps the rates it was started with.
WISHES_RATES = {
    "green": env.integer("GREEN_RATE", default=10, minimum=1, maximum=10**9),
    "blue": env.integer("BLUE_RATE", default=100, minimum=1, maximum=10**9),
    "red": env.integer("RED_RATE", default=1000, minimum=1, maximum=10**9),
}
# A conversion worth more than this is pointed out, never blocked.
MANA_MIGRATION_LARGE_CONVERSION = env.integer(
    "MANA_MIGRATION_LARGE_CONVERSION", default=100_000, minimum=0, maximum=2**63 - 1
)
MANA_MIGRATION_LOG_DIR = env.path("MANA_MIGRATION_LOG_DIR", default=BASE_DIR / "logs", base=BASE_DIR)
MANA_MIGRATION_LOG_DAYS = env.integer("MANA_MIGRATION_LOG_DAYS", default=0, minimum=0, maximum=36_500)
MANA_MIGRATION_REPORT_DIR = env.path("MANA_MIGRATION_REPORT_DIR", default=BASE_DIR / "reports", base=BASE_DIR)
MANA_MIGRATION_CONVERT_ON_TOUCH = env.boolean("MANA_MIGRATION_CONVERT_ON_TOUCH", default=False)
MANA_MIGRATION_METRICS_ENABLED = env.boolean("MANA_MIGRATION_METRICS_ENABLED", default=False)
MANA_MIGRATION_METRICS_TOKEN = env.text("MANA_MIGRATION_METRICS_TOKEN")

# Mass runs start only after a checklist that is at most so many hours old and says go; 0: without one.
MANA_MIGRATION_CHECKLIST_HOURS = env.integer("MANA_MIGRATION_CHECKLIST_HOURS", default=0, minimum=0, maximum=8_760)
MANA_MIGRATION_APPROVAL_HOURS = env.integer("MANA_MIGRATION_APPROVAL_HOURS", default=0, minimum=0, maximum=8_760)
# Addresses as apprise takes them (mailto://, slack://, msteams://, json:// ...), separated by commas or spaces.
MANA_MIGRATION_NOTIFY = env.text("MANA_MIGRATION_NOTIFY")
MANA_MIGRATION_SITE_URL = env.text("MANA_MIGRATION_SITE_URL")

# Who works on runs that staff pages open: work_migration processes, or Celery's workers.
MANA_MIGRATION_EXECUTOR = env.choice(
    "MANA_MIGRATION_EXECUTOR", default="work_migration", allowed=("work_migration", "celery")
)
MANA_MIGRATION_CELERY_APP = "config.celery.app"
MANA_MIGRATION_CELERY_QUEUE = env.text("MANA_MIGRATION_CELERY_QUEUE")
MANA_MIGRATION_CELERY_WORKERS = env.integer("MANA_MIGRATION_CELERY_WORKERS", default=1, minimum=1, maximum=64)
# After so long a task hands its work on to a new one; the broker would otherwise take its message for lost.
MANA_MIGRATION_CELERY_TASK_SECONDS = env.integer(
    "MANA_MIGRATION_CELERY_TASK_SECONDS", default=900, minimum=1, maximum=86_400
)

# --- Celery, an extra -------------------------------------------------------------------------------------------------

CELERY_BROKER_URL = env.text("CELERY_BROKER_URL", default="redis://localhost:6379/0")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# For Redis alone: seconds after which a message that no worker has acknowledged is delivered again.
_visibility = env.integer("CELERY_VISIBILITY_TIMEOUT", default=3600, minimum=60, maximum=604_800)
if CELERY_BROKER_URL.startswith("redis"):
    CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": _visibility}
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_IGNORE_RESULT = True
# A worker takes no task into reserve: while it works on one run, the next must go to a worker that is free.
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
