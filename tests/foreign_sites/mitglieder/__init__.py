"""The members of a German club, with permissions of their own making."""
