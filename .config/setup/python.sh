#!/usr/bin/env bash
# Prints the path of a Python that the locked packages install on; PYTHON in the environment names one to try first.
set -euo pipefail

check='
import sys, sysconfig
import ensurepip, venv
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(1)
print(sys.executable)
'
for candidate in ${PYTHON:+"$PYTHON"} python3 python3.12 python3.13 python3.11; do
  if "$candidate" -c "$check" 2>/dev/null; then
    exit 0
  fi
done
printf 'No Python 3.11 to 3.13 with its venv module: `apt-get install python3 python3-venv` as root.\n' >&2
exit 1
