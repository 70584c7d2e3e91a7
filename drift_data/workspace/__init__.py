"""Paths, atomic tables, manifests and "is this already done?": the one implementation all stages share.

A stage writes into a temporary folder; when it ends without an error and its rows add up, every output is
renamed into place with its `manifest.json` inside. A folder with a manifest is therefore finished, and a process
killed at any moment leaves nothing half-written. This package knows nothing about what the tables mean.
"""

from drift_data.workspace.atomic import part_path, replaced_file, replaced_folder
from drift_data.workspace.errors import AccountingError, UserError
from drift_data.workspace.manifest import (
    CARD,
    MANIFEST,
    Manifest,
    file_digest,
    folder_digest,
    peak_memory_bytes,
    tool_version,
)
from drift_data.workspace.output import Output
from drift_data.workspace.runs import label_model, locate_output, locate_run
from drift_data.workspace.table import TableWriter
from drift_data.workspace.workspace import Workspace

__all__ = [
    "CARD",
    "MANIFEST",
    "AccountingError",
    "Manifest",
    "Output",
    "TableWriter",
    "UserError",
    "Workspace",
    "file_digest",
    "folder_digest",
    "label_model",
    "locate_output",
    "locate_run",
    "part_path",
    "peak_memory_bytes",
    "replaced_file",
    "replaced_folder",
    "tool_version",
]
