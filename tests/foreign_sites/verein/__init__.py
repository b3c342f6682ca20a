"""A German site: no USE_TZ, an admin site of its own, a schema of its own, ATOMIC_REQUESTS."""
