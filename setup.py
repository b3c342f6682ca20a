"""Say what goes into the wheel; everything else is in pyproject.toml.

The templates live in the project's templates/ folder. Inside the wheel they become mana_migration/templates/, where
Django's APP_DIRS loader finds them on somebody else's site.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["wishes*", "mana_migration*"]), "mana_migration.templates"],
    package_dir={"mana_migration.templates": "templates"},
    package_data={
        "": ["py.typed"],
        "mana_migration": ["static/**/*"],
        "wishes": ["static/**/*"],
        "mana_migration.templates": ["**/*"],
    },
    include_package_data=False,
)
