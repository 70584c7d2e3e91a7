"""Commands of training that find their work done answer at once: torch, which takes seconds to import, stays out."""

import shutil
import subprocess
import sys
from pathlib import Path

NET = Path(__file__).parents[1] / "net"
CODE = """
import sys
import pipelines.__main__ as cli
work, recipe = sys.argv[1:]
for command in ("warm", "iter --n 1", "eval --n 1"):
    sys.argv = ["drift", *command.split(), "--run", "drift", "--work", work, "--recipe", recipe]
    assert cli.main() == 0, command
print("torch" in sys.modules)
"""


def test_warm_iter_and_eval_that_are_up_to_date_import_no_torch(tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(NET / "workspace", work)
    command = [sys.executable, "-c", CODE, str(work), str(NET / "net.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("up to date") >= 6
    assert done.stdout.splitlines()[-1] == "False"
