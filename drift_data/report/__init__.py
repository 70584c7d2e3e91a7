"""One self-contained HTML page of a run, and the signs that it goes wrong."""
