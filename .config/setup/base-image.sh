#!/usr/bin/env bash
# base-image.sh [NAME]: sees to it that the engine has the image streamops/NAME:<hash> (`base` when none is named), a
# minimal system of the same release as this machine, so that the Python there is the one here. Nothing is pulled: the
# packages come from where this machine's own apt gets them. Progress goes to stderr; stdout is the image's name.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"
exec 3>&1 1>&2

name=${1:-base}
name=${name#streamops/}
# Tests give a folder to stand for the whole machine.
machine=${STREAMOPS_IMAGE_MACHINE:-}
cache=${STREAMOPS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/streamops}/images
packages=python3,ca-certificates,iproute2,procps

fail() {
  printf 'base image: found %s.\nNext: %s\n' "$1" "$2" >&2
  exit 1
}

lines_of_release() {
  # The one-line entries of this release; another vendor's repository has a suite or a component of another name.
  awk -v suite="^$1(-updates|-security)?\$" '
    $1 == "deb" {
      at = 2
      if ($at ~ /^\[/) { while ($at !~ /\]$/ && at < NF) at++; at++ }
      if ($(at + 1) ~ suite && / main( |$)/) print
    }' "${@:2}"
}

stanzas_of_release() {
  # The same of the newer form, where a field may go on in the lines after it.
  awk -v RS= -v ORS='\n\n' -v suites="\nSuites:([^\n]|\n[ \t])*[ \t]$1(-updates|-security)?([ \t\n]|\$)" '
    "\n" $0 ~ suites && "\n" $0 ~ /\nTypes:[^\n]*deb([ \t\n]|$)/ && "\n" $0 ~ /\nComponents:[^\n]*[ \t]main([ \t\n]|$)/ &&
      "\n" $0 !~ /\nEnabled:[ \t]*no/ ' "${@:2}"
}

if ! command -v apt-config >/dev/null; then
  fail "no apt-config" "build the images on Debian or Ubuntu"
fi
codename=$(. "$machine/etc/os-release" && printf '%s' "${VERSION_CODENAME:-}")

shopt -s nullglob
lists=("$machine"/etc/apt/sources.list "$machine"/etc/apt/sources.list.d/*.list)
stanzas=("$machine"/etc/apt/sources.list.d/*.sources)
[[ -e ${lists[0]} ]] || lists=("${lists[@]:1}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
lines_of_release "$codename" "${lists[@]}" </dev/null >"$work/machine.list"
stanzas_of_release "$codename" "${stanzas[@]}" </dev/null >"$work/machine.sources"
# How this machine reaches them: proxies, checks. It stays in the image, which stays on this machine.
apt-config dump --format '%F "%v";%n' |
  sed -nE '/^Acquire::(https?::|ftp::|Check-|ForceIPv|Languages)/p' >"$work/apt.conf"
# In there as well, where images are built from it.
printf 'Acquire::Retries "5";\n' >>"$work/apt.conf"
sources=()
for file in "$work"/machine.*; do
  [[ ! -s $file ]] || sources+=("$file")
done
if ((${#sources[@]} == 0)); then
  fail "no source of '$codename' with the component main below $machine/etc/apt" "name one there"
fi
# A keyring that a source names must be at the same place inside.
mapfile -t keyrings < <(sed -nE 's/^Signed-By:[ \t]*(\/[^ ]+).*/\1/p; s/.*signed-by=(\/[^] ,]+).*/\1/p' "${sources[@]}" | sort -u)

hash=$({
  uname -m
  cat "$here/base-image.sh" "${sources[@]}" "$work/apt.conf"
} | sha256sum | cut -c1-16)
image=streamops/$name:$hash

end_if_there() {
  if docker image inspect "$image" >/dev/null 2>&1; then
    printf '%s\n' "$image" >&3
    exit 0
  fi
}

"$here/docker-engine.sh"
end_if_there

mkdir -p -m 0700 "$cache"
exec 9<"$cache"
if ! flock --nonblock 9; then
  say "waiting for another build"
  flock --timeout 1200 9 || fail "another build that takes more than 1200 s" "look for a mmdebstrap that hangs"
fi
end_if_there
archive=$cache/base-$hash.tar
if [[ ! -e $archive ]]; then
  if ! command -v mmdebstrap >/dev/null; then
    step "installing mmdebstrap" install_packages mmdebstrap ||
      fail "no mmdebstrap, which builds it" "do what is said above, and run this again"
  fi
  options=(--variant=minbase "--include=$packages" "--aptopt=$work/apt.conf")
  # Nobody reads manuals in there; their folders stay, since packages put links into them.
  options+=('--dpkgopt=path-exclude=/usr/share/man/*/*' '--dpkgopt=path-exclude=/usr/share/locale/*/*')
  options+=('--dpkgopt=path-exclude=/usr/share/doc/*/*' '--dpkgopt=path-include=/usr/share/doc/*/copyright')
  for keyring in "${keyrings[@]}"; do
    options+=("--customize-hook=test -e \"\$1$keyring\" || install -D --mode=0644 '$keyring' \"\$1$keyring\"")
  done
  step "building $codename with ${packages//,/, }" \
    persist mmdebstrap --quiet "${options[@]}" "$codename" "$archive.part.tar" "${sources[@]}" ||
    fail "mmdebstrap unable to build $codename" "mend what it says above, and run this again"
  mv "$archive.part.tar" "$archive"
fi
step "importing it as $image" docker import --change 'ENV LANG=C.UTF-8' --change 'CMD ["/bin/bash"]' \
  --change 'LABEL streamops.image=base' "$archive" "$image"
printf '%s\n' "$image" >&3
