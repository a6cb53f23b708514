#!/usr/bin/env bash
# Makes the image longshore/demo:latest, one static file, in the Engine at DOCKER_HOST when it does not hold it yet.
# Nothing is downloaded: the demo server is built here and imported by the Engine's plain HTTP API.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() { echo "image: $*" >&2; exit 1; }

source=tests/support/demo-server.rs
root=target/demo
engine() {
  local path=$1; shift
  case ${DOCKER_HOST:-unix:///var/run/docker.sock} in
    unix://*) curl -sS -m 60 --unix-socket "${DOCKER_HOST#unix://}" "$@" "http://engine$path" ;;
    *) curl -sS -m 60 "$@" "http://${DOCKER_HOST#tcp://}$path" ;;
  esac
}
export DOCKER_HOST=${DOCKER_HOST:-unix:///var/run/docker.sock}

# Rebuilt only for newer source, and under a lock, since tests run at once.
mkdir -p $root/bin
exec 9>$root/.lock
flock 9
if [ ! $root/demo-server -nt $source ] || [ ! $root/demo-server -nt Cargo.lock ]; then
  # Called from a test, cargo's own variables would make build scripts run again and everything be built twice.
  unset "${!CARGO_PKG_@}" "${!CARGO_BIN_@}" CARGO_MANIFEST_DIR CARGO_MANIFEST_PATH CARGO_CRATE_NAME
  # crt-static for this one crate: no second target to install, and the dependencies that are built anyway serve it.
  cargo rustc --locked --quiet --example demo-server -- -C target-feature=+crt-static -C opt-level=s -C strip=symbols \
    9>&- || fail "the demo server does not build (a static C library is needed: Debian's libc6-dev has it)"
  cp "${CARGO_TARGET_DIR:-target}/debug/examples/demo-server" $root/demo-server.new
  ! ldd $root/demo-server.new 2>/dev/null | grep -q '=>' || fail "the demo server is not linked statically"
  mv $root/demo-server.new $root/demo-server
  ln -f $root/demo-server $root/bin/sh
fi

content=$(sha256sum <$root/demo-server | cut -c1-64)
if engine /images/longshore/demo:latest/json | grep -q "\"longshore.demo\":\"$content\""; then exit; fi
# CMD ["/demo-server"], WORKDIR /home/container and the label, percent-encoded.
changes="changes=CMD%20%5B%22%2Fdemo-server%22%5D&changes=WORKDIR%20%2Fhome%2Fcontainer&changes=LABEL%20longshore.demo%3D$content"
answer=$(tar -C $root --owner=0 --group=0 -c demo-server bin |
  engine "/images/create?fromSrc=-&repo=longshore/demo&tag=latest&$changes" -X POST -H 'Content-Type: application/x-tar' -T -)
case $answer in *'"status":"sha256:'*) ;; *) fail "the Engine did not take the image: $answer" ;; esac
