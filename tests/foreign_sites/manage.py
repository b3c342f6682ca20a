#!/usr/bin/env python3
"""Start Django for the site that DJANGO_SETTINGS_MODULE names."""

import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
