#!/usr/bin/env bash
# Sees to it that a Docker engine answers. Where one does, nothing is done; else, as root on Debian or Ubuntu, what is
# missing is installed and the engine started, with its data where it always keeps them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

# Tests give a folder to stand for the whole machine.
machine=${STREAMOPS_ENGINE_MACHINE:-}
patience=${STREAMOPS_ENGINE_PATIENCE:-60}
log=$machine/var/log/dockerd.log
# Where the daemon and iptables live; not on every user's PATH.
PATH=$PATH:$machine/usr/sbin

fail() {
  printf 'docker engine: found %s.\nNext: %s\n' "$1" "$2" >&2
  exit 1
}

answer() {
  # The version of the engine, or why there is none; a suspended daemon takes the connection and says nothing.
  timeout 10 docker version --format '{{.Server.Version}}' 2>&1
}

look() {
  packages=()
  if ! command -v dockerd >/dev/null; then
    packages+=(docker.io)
  elif ! command -v docker >/dev/null; then
    # Newer releases of Debian have the client in a package of its own.
    packages+=(docker-cli)
  fi
  if ! command -v iptables >/dev/null; then
    packages+=(iptables)
  fi
}

living() {
  # The process id of a dockerd on this machine, or nothing; one inside a container sees other files.
  local folder name
  for folder in "$machine"/proc/[0-9]*; do
    if { read -r name <"$folder/comm"; } 2>/dev/null && [[ $name == dockerd ]] &&
      [[ $folder/ns/mnt -ef $machine/proc/self/ns/mnt ]]; then
      printf '%s' "${folder##*/}"
      return
    fi
  done
}

forget() {
  # Removes a file of a process that is gone: its number may be another program's by now.
  local file=$1 program=$2 pid name=
  if [[ ! -e $file ]]; then
    return
  fi
  pid=$(cat "$file")
  if [[ -n $pid && -e $machine/proc/$pid/comm ]]; then
    name=$(cat "$machine/proc/$pid/comm")
  fi
  if [[ $name != "$program" ]]; then
    say "removing $file: process ${pid:-without a number} is ${name:-gone}, not $program"
    rm "$file"
  fi
}

if answer >/dev/null; then
  exit 0
fi
# The local engine's own address may be spelt out; any other is somebody else's to start.
if [[ -n ${DOCKER_HOST:-} && $DOCKER_HOST != unix:///var/run/docker.sock && $DOCKER_HOST != unix:///run/docker.sock ]]; then
  fail "DOCKER_HOST=$DOCKER_HOST without an engine that answers" "start that engine, or unset DOCKER_HOST and run this again"
fi

look
if (($(id -u) != 0)); then
  if ((${#packages[@]} > 0)); then
    printf 'docker engine: found none that answers, and these packages missing: %s\n' "${packages[*]}" >&2
    install_packages "${packages[@]}"
  fi
  if [[ -n $(living) ]]; then
    fail "process $(living), a dockerd that does not answer $(id -un): $(answer | tail -n 1)" \
      "sudo usermod --append --groups docker $(id -un), log in anew, and run this again"
  fi
  fail "the engine installed but not started" "sudo $here/docker-engine.sh"
fi

# One start at a time on this machine, whichever clone asks.
exec 9>"$machine/run/streamops-docker-engine.lock"
if ! flock --nonblock 9; then
  say "waiting for another start of the engine"
  flock --timeout 600 9 || fail "another start of the engine that takes more than 600 s" "look at $log"
fi
if answer >/dev/null; then
  exit 0
fi

# The daemon's package first, since only then it shows whether the client came with it.
for _ in 1 2; do
  look
  if ((${#packages[@]} > 0)); then
    step "installing ${packages[*]}" install_packages "${packages[@]}" ||
      fail "apt-get unable to install ${packages[*]}" "mend what it says above, and run this again"
  fi
done
look
if ((${#packages[@]} > 0)); then
  fail "${packages[*]} still missing after the installation" "look at what apt-get said above"
fi

started=$SECONDS
if [[ -d $machine/run/systemd/system ]]; then
  # Where systemd runs, the daemon is its service, and a second one of ours would fight it.
  last_words() { journalctl --unit docker --no-pager --lines 15; }
  if ! step "starting docker.service" systemctl enable --now docker; then
    fail "docker.service that does not start:
$(last_words)" "mend what its journal says, and run this again"
  fi
  pid=$(systemctl show --property MainPID --value docker)
else
  last_words() { tail -n 15 "$log"; }
  pid=$(living)
  if [[ -n $pid ]]; then
    say "process $pid is a dockerd already; waiting for it"
  else
    forget "$machine/run/docker.pid" dockerd
    forget "$machine/run/docker/containerd/containerd.pid" containerd
    say "starting dockerd; its log is $log"
    # Its own session, and nothing of ours. With the lock's descriptor no start would ever get the lock again, and
    # with a pipe's whoever reads there would wait for ever.
    (
      cd /
      for file in /proc/self/fd/*; do
        number=${file##*/}
        if ((number > 2)); then
          exec {number}>&-
        fi
      done
      # The mark tells whoever restarts an engine that this one is ours.
      exec env -i PATH="$PATH" HOME=/root STREAMOPS_ENGINE=started setsid dockerd >>"$log" 2>&1 </dev/null
    ) &
    pid=$!
  fi
fi

told=$started
until answer >/dev/null; do
  if ! kill -0 "$pid" 2>/dev/null; then
    fail "dockerd (process $pid) ended before it answered; its last words:
$(last_words)" "mend what they say, and run this again"
  fi
  if ((SECONDS - started >= patience)); then
    fail "dockerd (process $pid) alive but without an answer after $patience s; its last words:
$(last_words)" "mend what they say; end process $pid if it hangs, and run this again"
  fi
  if ((SECONDS - told >= 5)); then
    told=$SECONDS
    say "waiting for dockerd (process $pid), $((SECONDS - started)) s so far"
  fi
  sleep 0.2
done
say "engine $(answer) answers"
