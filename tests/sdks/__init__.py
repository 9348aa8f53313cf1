"""Client libraries as they are released, old and new, against a real server."""
