"""Tables and models for other people: the Hub with cards and screening, and the release's own layout."""
