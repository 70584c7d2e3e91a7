"""One self-contained HTML page of a run."""

from drift_data.report.page import ReportOptions, write_report

__all__ = ["ReportOptions", "write_report"]
