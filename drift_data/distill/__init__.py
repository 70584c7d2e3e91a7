"""A teacher's labels → a classifier of one's own, with what that costs in quality and saves in money."""
