"""SQL over a workspace: DuckDB views of all its finished tables, ready-made queries, and results shown or saved."""
