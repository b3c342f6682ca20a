"""The settings of a site without the admin; what is added for the migration is marked."""

import json
import os
from pathlib import Path
from typing import Any

BASE_DIR = Path(os.environ["SITE_FOLDER"])
SECRET_KEY = "the-secret-of-a-bare-site-that-lives-for-one-test-only"
ALLOWED_HOSTS = ["testserver"]
INSTALLED_APPS = [
    "accounts",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    # added:
    "django_htmx",
    "wishes",
    "mana_migration",
]
MIDDLEWARE = [
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
ROOT_URLCONF = "bare.urls"
AUTH_USER_MODEL = "accounts.Account"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/static/"
LANGUAGE_CODE = "en-gb"
USE_TZ = True
TIME_ZONE = "UTC"

DATABASES = {"default": json.loads(os.environ["SITE_DATABASE"])}

LOGIN_URL = "/sign-in/"

# What the exercise of the tests opens.
SITE = {"admin": "", "pages": "/mana/"}
