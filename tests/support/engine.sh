#!/usr/bin/env bash
# A Docker Engine to work with, and its end.
#
#   engine.sh up [DIR]      use the Engine that answers, else start a private one; prints its DOCKER_HOST
#   engine.sh start [DIR]   start the private Engine of DIR, whatever else runs; prints its DOCKER_HOST
#   engine.sh down [DIR]    stop the private Engine of DIR in order; what `up` merely found is left alone
#   engine.sh cut [DIR]     end it and its containers as a power cut would; images and containers stay on disk
#   engine.sh remove [DIR]  the same, and its images and containers go too
#   engine.sh term [DIR]    SIGTERM for its dockerd alone, which stops the containers
#   engine.sh kill [DIR]    SIGKILL for its dockerd alone; the containers run on
#   engine.sh need PROGRAM:PACKAGE...   install what is missing, on Debian and its kin
#
# DIR (default target/engine) keeps the data and the log. Sockets and pids live under /run: their paths stay short
# enough for a Unix socket, and a reboot clears them. Every command may be repeated, after a kill -9 too.
set -euo pipefail

command=${1:-}
if [ "$command" = need ]; then wanted=("${@:2}"); set -- need; fi
dir=$(realpath -m "${2:-$(dirname "$0")/../../target/engine}")
run=/run/longshore-$(printf %s "$dir" | cksum | cut -d' ' -f1)
socket=$run/docker.sock

fail() { echo "engine: $*" >&2; exit 1; }

# Whether an Engine answers at a DOCKER_HOST value.
answers() {
  local url=http://${1#tcp://} curl=(curl -sf -m 3 -o /dev/null)
  case $1 in
    unix://*) url=http://engine curl+=(--unix-socket "${1#unix://}") ;;
    tcp://*)
      [ -z "${DOCKER_TLS_VERIFY:-}" ] || url=https://${1#tcp://}
      [ -z "${DOCKER_CERT_PATH:-}" ] || curl+=(--cacert "$DOCKER_CERT_PATH/ca.pem" --cert "$DOCKER_CERT_PATH/cert.pem" --key "$DOCKER_CERT_PATH/key.pem") ;;
    *) return 1 ;;
  esac
  "${curl[@]}" "$url/_ping" 2>/dev/null
}

# Runs the script again as root, or says that it cannot.
as_root() {
  [ "$(id -u)" -eq 0 ] && return
  sudo -n true 2>/dev/null || fail "no Docker Engine answers, and starting one takes root: start Docker, or run as root or with sudo without a password"
  exec sudo -n env PATH="$PATH:/usr/sbin:/sbin" ENGINE_GROUP="$(id -gn)" "$0" "$command" "$dir"
}

# need PROGRAM:PACKAGE... installs what is missing.
need() {
  local item missing=()
  PATH=$PATH:/usr/sbin:/sbin
  # A path stands for a file, such as a header, and a word for a program.
  for item in "$@"; do command -v "${item%%:*}" >/dev/null || [ -e "${item%%:*}" ] || missing+=("${item#*:}"); done
  [ ${#missing[@]} -eq 0 ] && return
  command -v apt-get >/dev/null || fail "please install ${missing[*]} (the names are Debian's) and try again"
  [ "$command" != need ] || [ "$(id -u)" -eq 0 ] || fail "${missing[*]} must be installed, which takes root"
  as_root
  echo "engine: installing ${missing[*]}" >&2
  # The package would start a service of its own; a policy of 101 forbids that for the length of the installation.
  local policy=/usr/sbin/policy-rc.d made=
  if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; made=1; fi
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"; } \
    </dev/null >"$dir/apt.log" 2>&1 || { [ -z $made ] || rm -f $policy; fail "apt-get could not install ${missing[*]}: see $dir/apt.log"; }
  [ -z $made ] || rm -f $policy
}

# The processes of this Engine: dockerd, its containerd and the shims all carry its run directory in their arguments.
# (The pattern comes from a file, else grep would find itself.)
processes() { grep -lsFf <(echo "$run/") /proc/[0-9]*/cmdline | cut -d/ -f3 || true; }

# The containers' own processes, children of the shims, which outlive a killed shim.
contained() {
  local pid
  for pid in $(processes); do
    if grep -qsF containerd-shim "/proc/$pid/cmdline"; then cat /proc/"$pid"/task/*/children 2>/dev/null || true; fi
  done
}

# Sends a signal to dockerd and waits up to $2 seconds for its end. The pid counts only while it is this dockerd's:
# after a kill -9 the number may be anybody's.
signal() {
  local pid
  pid=$(cat "$run/docker.pid" 2>/dev/null || true)
  if [ -n "$pid" ] && processes | grep -qx "$pid"; then
    kill "-$1" "$pid"
    gone "$2" "$pid" || true
  fi
}

# Waits up to $1 seconds for process $2 to end. A zombie has ended: whoever inherited it may reap it late.
gone() {
  for _ in $(seq $(($1 * 50))); do
    grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$2/status" || return 0
    sleep 0.02
  done
  return 1
}

# Removes what a dead Engine leaves in the kernel and under /run.
sweep() {
  local mount pid pids
  pids="$(contained) $(processes)"
  for pid in $pids; do kill -9 "$pid" 2>/dev/null || true; done
  for pid in $pids; do gone 5 "$pid" || true; done
  for mount in $(cut -d' ' -f2 /proc/mounts | grep -F -e "$run/" -e "$dir/" | sort -r); do umount -l "$mount" || true; done
  if [ -s "$run/bridge" ]; then ip link delete "$(cat "$run/bridge")" 2>/dev/null || true; fi
  rm -rf "$run/exec" "$run/bridge" "$run"/docker*
}

# The network flags. With no other Engine in sight it gets Docker's usual docker0. Beside another one it gets a bridge
# of its own and writes no firewall rule, since two Engines overwrite each other's: ports are then published by
# Docker's proxy alone, and containers have no way out of the machine.
network() {
  local n bridge
  bridge=$(cat "$run/bridge" 2>/dev/null || true)
  if [ -z "$bridge" ] && [ ! -e /sys/class/net/docker0 ]; then bridge=docker0; fi
  for n in $([ -n "$bridge" ] || seq 0 255); do
    # Creating the link is what claims the number, so two starts at once cannot take the same.
    ip link add "longshore$n" type bridge 2>/dev/null || continue
    bridge=longshore$n
    ip address add "10.213.$n.1/24" dev "$bridge"
    ip link set "$bridge" up
    break
  done
  [ -n "$bridge" ] || fail "no bridge could be made"
  echo "$bridge" >"$run/bridge"
  if [ "$bridge" != docker0 ]; then echo "--bridge $bridge --iptables=false --ip6tables=false"; fi
}

start() {
  local flags id=${run##*-} pid
  # Made before root takes over, so that it belongs to the caller.
  mkdir -p "$dir"
  as_root
  mkdir -p "$dir/data" "$run"
  chmod 755 "$run"
  need curl:curl dockerd:docker.io ip:iproute2
  exec 9>"$run/lock"
  flock -w 120 9 || fail "another start of $dir does not end"
  answers "unix://$socket" && return
  # What a killed dockerd left running is not swept: it finds its containerd and its containers again by itself.
  rm -f "$run/docker.pid"
  echo '{}' >"$run/docker.json"
  flags=$(network)
  # A session of its own, so that a Ctrl-C meant for the caller does not reach it. The lock is not handed down.
  # shellcheck disable=SC2086 # the flags are words
  setsid dockerd --config-file "$run/docker.json" --data-root "$dir/data" --exec-root "$run/exec" \
    --pidfile "$run/docker.pid" --host "unix://$socket" --group "${ENGINE_GROUP:-root}" \
    --containerd-namespace "longshore-$id" --containerd-plugins-namespace "longshore-$id-plugins" \
    $flags </dev/null >"$dir/dockerd.log" 2>&1 9>&- &
  pid=$!
  for _ in $(seq 600); do
    answers "unix://$socket" && return
    [ -d /proc/$pid ] || break
    sleep 0.1
  done
  sweep
  fail "dockerd did not start: $(grep -v level=info "$dir/dockerd.log" | tail -1)"
}

stop() {
  [ -d "$run" ] || { [ "$1" = remove ] && [ -d "$dir/data" ]; } || return 0
  as_root
  mkdir -p "$run"
  PATH=$PATH:/usr/sbin:/sbin
  exec 9>"$run/lock"
  flock -w 120 9 || fail "a start of $dir does not end"
  case $1 in
    down) signal TERM 30 ;;
    term) signal TERM 60; return ;;
    kill) signal KILL 10; return ;;
  esac
  sweep
  rm -rf "$run"
  [ "$1" != remove ] || rm -rf "$dir/data" "$dir/dockerd.log" "$dir/apt.log"
}

case $command in
  up)
    need curl:curl
    for host in "${DOCKER_HOST:-}" unix:///var/run/docker.sock "unix://$socket"; do
      if [ -n "$host" ] && answers "$host"; then echo "$host"; exit; fi
    done
    [ -z "${DOCKER_HOST:-}" ] || echo "engine: nothing answers at $DOCKER_HOST" >&2
    start
    echo "unix://$socket" ;;
  start) start; echo "unix://$socket" ;;
  down | cut | remove | term | kill) stop "$command" ;;
  need) mkdir -p "$dir"; need "${wanted[@]}" ;;
  *) sed -n 's/^# \?//; 2,14p' "$0" >&2; exit 2 ;;
esac
