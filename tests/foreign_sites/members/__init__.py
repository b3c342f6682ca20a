"""The users of a site that is not ours: keyed by UUID, signed in by e-mail."""
