"""The settings of a site that is not ours; what is added for the migration is marked."""

import json
import os
from pathlib import Path
from typing import Any

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "the-secret-of-a-site-that-lives-for-one-test-only"
ALLOWED_HOSTS = ["testserver"]
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "members",
    # added:
    "django_htmx",
    "wishes",
    "mana_migration",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    # added:
    "django_htmx.middleware.HtmxMiddleware",
]
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
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
ROOT_URLCONF = "shop.urls"
AUTH_USER_MODEL = "members.Member"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "Europe/Berlin"

DATABASES = {"default": json.loads(os.environ["SITE_DATABASE"])}

# added:
MANA_MIGRATION_LOG_DIR = Path(os.environ["SITE_FOLDER"]) / "logs"
MANA_MIGRATION_REPORT_DIR = Path(os.environ["SITE_FOLDER"]) / "reports"

# What the exercise of the tests opens.
SITE = {"admin": "/staff/", "pages": "/staff-migration/"}
