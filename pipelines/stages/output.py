"""The stages that hand results to people: report, query, export, publish."""

import os
from pathlib import Path

from drift_data.workspace import Workspace
from pipelines.recipe import Recipe
from pipelines.stages.names import run_name

SQL = Path(__file__).parents[1] / "sql"
