"""Writes one self-contained HTML page about a run, with alarms for signs that the run goes wrong."""
