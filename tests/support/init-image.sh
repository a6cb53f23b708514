#!/usr/bin/env bash
# Makes the image longshore/init:latest in the Engine at DOCKER_HOST when it does not hold it yet: a small Debian with every
# init system that Debian has, built by mmdebstrap and kept under target/init.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() { echo "init-image: $*" >&2; exit 1; }
packages=systemd,openrc,runit,s6,busybox-static
suite=bookworm

mkdir -p target/init
exec 9>target/init/.lock
flock 9
key=$(echo "$suite $packages" | cksum | cut -d' ' -f1)
root=target/init/$key.tar
engine() { curl -sS -m 300 --unix-socket "${DOCKER_HOST#unix://}" "$@"; }
case $DOCKER_HOST in unix://*) ;; *) fail "the Engine is expected at a socket, not at $DOCKER_HOST" ;; esac
if engine http://engine/images/longshore/init:latest/json | grep -q "\"longshore.init\":\"$key\""; then exit; fi
if [ ! -f "$root" ]; then
  tests/support/engine.sh need mmdebstrap:mmdebstrap
  # Its name alone would have a directory made.
  rm -rf "$root.new"
  mmdebstrap --quiet --format=tar --variant=minbase --include=$packages --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' $suite "$root.new" \
    >target/init/log 2>&1 9>&- || fail "mmdebstrap failed: $(tail -1 target/init/log)"
  mv "$root.new" "$root"
fi
answer=$(engine "http://engine/images/create?fromSrc=-&repo=longshore/init&tag=latest&changes=LABEL%20longshore.init%3D$key" \
  -X POST -H 'Content-Type: application/x-tar' -T "$root")
case $answer in *'"status":"sha256:'*) ;; *) fail "the Engine did not take the image: $answer" ;; esac
