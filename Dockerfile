# The site with everything it may need: gunicorn for the pages, Celery for workers on many machines.
#
#   docker build --tag mana .
#   docker run --env-file .env --publish 8000:8000 mana
#
# Exactly the lock is installed; the secrets come from the environment and are not part of the image.
FROM python:3.11-slim

WORKDIR /site
COPY requirements-celery.txt ./
RUN pip install --no-cache-dir --require-hashes --no-deps -r requirements-celery.txt && pip check

COPY . .
# The key is for this one command, which signs nothing.
RUN SECRET_KEY=only-for-collectstatic-only-for-collectstatic-only-for-it python manage.py collectstatic --no-input --verbosity 0 \
    && useradd --system site && mkdir -p logs reports var && chown site logs reports var

USER site
EXPOSE 8000
CMD ["gunicorn", "config.wsgi", "--bind", "0.0.0.0:8000", "--workers", "2", "--threads", "8"]
