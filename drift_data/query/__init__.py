"""DuckDB over a workspace: one view a table, canned queries, results shown or saved."""
