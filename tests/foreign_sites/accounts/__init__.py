"""The accounts of a site that has Django's own user model in all but name."""
