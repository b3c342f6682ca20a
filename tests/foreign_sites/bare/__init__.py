"""A site without the admin, with no time zone but UTC, and with a sign-in page of its own."""
