"""The staff pages and the endpoints for machines."""
