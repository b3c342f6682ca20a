"""Celery's app of this site, for its workers and for what sends them a run; needs the extra ``[celery]``.

    celery -A config worker --concurrency 4

Nothing else imports it: a site without Celery does not notice.
"""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("mana")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["mana_migration"])
