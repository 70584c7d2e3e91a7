"""Manages the folder of a project: its paths, tables and manifests, what is finished, and how a stage makes more.

A stage fills temporary folders. When it ends without an error and its rows add up, each of them is renamed into place
with a `manifest.json` inside. A folder with a manifest is therefore finished, and a process that is killed at any
moment leaves nothing half-written. `drift_data.schema` says what the tables mean.
"""

from drift_data.workspace.atomic import name_part_file, replace_file, replace_folder
from drift_data.workspace.errors import AccountingError, UserError
from drift_data.workspace.manifest import (
    CARD,
    MANIFEST,
    Manifest,
    hash_file,
    hash_folder,
    measure_peak_memory,
    read_tool_version,
)
from drift_data.workspace.output import Output
from drift_data.workspace.runs import locate_output, locate_run, name_model
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
    "hash_file",
    "hash_folder",
    "locate_output",
    "locate_run",
    "measure_peak_memory",
    "name_model",
    "name_part_file",
    "read_tool_version",
    "replace_file",
    "replace_folder",
]
