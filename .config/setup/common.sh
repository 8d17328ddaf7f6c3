# Sourced by the scripts of this folder: telling what goes on, and installing packages.

say() {
  local script=${0##*/}
  printf '%s: %s\n' "${script%.sh}" "$*"
}

step() {
  # A line at once, and one every ten seconds while the command goes on.
  local label=$1 started=$SECONDS ticker code=0
  shift
  say "$label"
  # The sleep outlives the loop; it must not keep a pipe open that the caller reads: 3 is where a script that prints a
  # result keeps its stdout, 9 its lock.
  (while sleep 10 >/dev/null 2>&1; do say "$label, $((SECONDS - started)) s so far"; done) 3>&- 9<&- &
  ticker=$!
  "$@" 9<&- || code=$?
  kill "$ticker"
  wait "$ticker" 2>/dev/null || test $? -eq 143
  return "$code"
}

persist() {
  # For what goes over a network: up to four tries, ever further apart, since mirrors have breaks of seconds.
  local attempt pause=${STREAMOPS_RETRY_SECONDS:-10}
  for attempt in 1 2 3 4; do
    if "$@"; then
      return
    fi
    if ((attempt < 4)); then
      say "that was try $attempt of 4; the next in $pause s"
      sleep "$pause"
      pause=$((2 * pause))
    fi
  done
  return 1
}

fetch_and_install() {
  # Explicitly, since nothing ends by itself in a function whose result is asked for.
  apt-get update --quiet || return
  "$@"
}

install_packages() {
  # As root on Debian or Ubuntu; anywhere else it names the line that would do it, and fails.
  local line="apt-get install --yes --no-install-recommends $*"
  if ! command -v apt-get >/dev/null; then
    printf 'This machine has no apt-get: install them its own way, then run the same command again.\n' >&2
    return 1
  fi
  if (($(id -u) != 0)); then
    printf 'Install them, then run the same command again:\n  sudo %s\n' "$line" >&2
    return 1
  fi
  printf 'Installing: %s\n' "$*"
  export DEBIAN_FRONTEND=noninteractive
  persist fetch_and_install $line
}
