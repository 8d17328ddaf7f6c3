#!/usr/bin/env bash
# Finds the programs that everything else stands on. As root on Debian or Ubuntu it installs those that are missing;
# anywhere else it names each with what was found, what is wanted and the line that installs it.
set -euo pipefail
. "$(dirname "$0")/common.sh"

missing=()
packages=()

need() {
  local what=$1 found=$2 wanted=$3 package=$4
  missing+=("$what: found $found, wanted $wanted")
  packages+=("$package")
}

version_of() {
  # The first version number that the command prints, or nothing.
  { "$@" 2>&1 || printf '\n'; } | grep -m1 -oE '[0-9]+(\.[0-9]+)*' | head -n1
}

first_known() {
  local package
  for package in "$@"; do
    if apt-cache show "$package" >/dev/null 2>&1; then
      printf '%s' "$package"
      return
    fi
  done
  printf '%s' "$1"
}

look() {
  missing=()
  packages=()
  local major command

  if ! "$(dirname "$0")/python.sh" >/dev/null 2>&1; then
    need python3 "$(version_of python3 --version || printf 'no such program')" \
      "Python 3.11 to 3.13 with its venv module" "python3 python3-venv"
  fi

  if ! command -v java >/dev/null; then
    need java "no such program" "a JDK 17 or newer" "$(first_known openjdk-17-jdk-headless openjdk-21-jdk-headless)"
  else
    major=$(java -version 2>&1 | sed -nE '1,3s/.*version "([0-9]+).*/\1/p')
    if ((${major:-0} < 17)); then
      need java "version ${major:-unknown}" "a JDK 17 or newer" \
        "$(first_known openjdk-17-jdk-headless openjdk-21-jdk-headless)"
    fi
  fi

  while read -r command package; do
    if ! command -v "$command" >/dev/null; then
      need "$command" "no such program" "any version" "$package"
    fi
  done <<'EOF'
mvn maven
git git
setpriv util-linux
flock util-linux
ps procps
EOF
}

look
if ((${#missing[@]} == 0)); then
  exit 0
fi

printf 'Missing prerequisite: %s\n' "${missing[@]}"
# An entry may be several packages.
install_packages ${packages[*]}
look
if ((${#missing[@]} > 0)); then
  printf 'Still missing after the installation: %s\n' "${missing[@]}" >&2
  exit 1
fi
