"""Template tags of the staff pages and the admin."""
