"""The documentation as a site: ``make docs`` builds it, and fails on a warning."""

import os
import sys
from pathlib import Path

import django

PROJECT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(Path(__file__).parent / "_ext")]

# The reference is read off the code, which needs settings but no database.
os.environ |= {
    "DJANGO_SETTINGS_MODULE": "config.settings",
    "ENV_FILE": os.devnull,
    "SECRET_KEY": "for-the-documentation-only-" * 2,
    "DATABASE_URL": "sqlite:///:memory:",
}
django.setup()

project = "Mana migration"
author = "The django-mana-migration authors"
copyright = "2026, the django-mana-migration authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reference"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "Mana migration"
html_extra_path = ["report.schema.json"]
html_show_sphinx = False
html_copy_source = False
