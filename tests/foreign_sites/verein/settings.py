"""The settings of a club's site; what is added for the migration is marked."""

import json
import os
from pathlib import Path
from typing import Any

BASE_DIR = Path(os.environ["SITE_FOLDER"])
SECRET_KEY = "das-geheimnis-eines-vereins-der-nur-einen-test-lang-lebt"
ALLOWED_HOSTS = ["testserver"]
INSTALLED_APPS = [
    "mitglieder",
    "django.contrib.admin.apps.SimpleAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    # added:
    "django_htmx",
    "wishes",
    "mana_migration",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
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
ROOT_URLCONF = "verein.urls"
AUTH_USER_MODEL = "mitglieder.Mitglied"
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
STATIC_URL = "/statisch/"
LANGUAGE_CODE = "de"
USE_TZ = False
TIME_ZONE = "Europe/Berlin"

DATABASES = {"default": json.loads(os.environ["SITE_DATABASE"]) | {"ATOMIC_REQUESTS": True}}
if DATABASES["default"]["ENGINE"].endswith("postgresql"):
    DATABASES["default"]["OPTIONS"] = {"options": "-c search_path=verein,public"}

# What the exercise of the tests opens.
SITE = {"admin": "/verwaltung/", "pages": "/umstellung/"}
