#!/usr/bin/env python3
"""Start Django."""

import json
import os
import sys
from itertools import pairwise

from config.env import ConfigurationError


def main(argv: list[str]) -> None:
    """Run the management command that argv names; a configuration error is one line and exit code 1."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    try:
        from django.core.management import execute_from_command_line  # noqa: PLC0415  after the settings are named
    except ImportError:
        sys.exit("manage.py: Django is not installed for this Python. Run 'make venv', then use .venv/bin/python.")
    try:
        execute_from_command_line(argv)
    except ConfigurationError as error:
        if "--format=json" in argv or ("--format", "json") in pairwise(argv):  # as the commands themselves refuse
            refusal = {"class": "ConfigurationError", "message": str(error), "exit_code": 1}
            sys.stdout.write(json.dumps({"error": refusal}) + "\n")
        sys.exit(f"manage.py: {error}")


if __name__ == "__main__":
    main(sys.argv)
