#!/usr/bin/env bash
# Shows Longshore on this machine: a Panel, an Agent and one demo server, in the Engine at DOCKER_HOST.
#
# Everything it keeps is under target/run or RUN_DIR. SIGINT or SIGTERM ends the Agent, then the Panel, then takes the node's
# containers away; the servers' files stay, so the next run goes on where this one ended.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit

http=${HTTP_ADDR:-127.0.0.1:3000}
agents=${AGENT_ADDR:-127.0.0.1:8080}
health=${HEALTH_ADDR:-127.0.0.1:8081}
bin=$(realpath -m "${CARGO_TARGET_DIR:-target}")/debug
# Tests have a directory, a node and binaries of their own.
run=$(realpath -m "${RUN_DIR:-target/run}")
node=${NODE_ID:-local}

fail() { echo "run: $*" >&2; exit 1; }
say() { echo "run: $*"; }

mkdir -p "$run"
exec 7>"$run/lock"
if ! flock -n 7; then
  http=$(cat "$run/address")
  link=$(HTTP_ADDR=$http DATA_DIR=$run/panel "${RUN_BIN:-$bin}/longshore-panel" user link admin) || link=http://$http
  say "Longshore runs already in this directory: $link"
  exit 0
fi
echo "$http" >"$run/address"

agent='' panel=''

# Ends process $1, called $2: asked first, made to after 30 s.
end() {
  [ -n "$1" ] || return
  kill -TERM "$1" 2>/dev/null
  for _ in $(seq 300); do kill -0 "$1" 2>/dev/null || break; sleep 0.1; done
  if kill -KILL "$1" 2>/dev/null; then say "the $2 did not end by itself"; fi
  wait "$1" 2>/dev/null
}

engine() {
  case $DOCKER_HOST in
    unix://*) curl -s -m 30 --unix-socket "${DOCKER_HOST#unix://}" -X "$1" "http://engine$2" ;;
    *) curl -s -m 30 -X "$1" "http://${DOCKER_HOST#tcp://}$2" ;;
  esac
}

# Takes a container away when it is this checkout's: another Agent on this Engine may have a node of the same name.
take_away() {
  if engine GET "/containers/$1/json" | grep -qF "$run/agent/servers/"; then
    engine POST "/containers/$1/stop?t=10"
    engine DELETE "/containers/$1?force=1&v=1"
  fi
}

leave() {
  local server
  trap '' INT TERM HUP
  [ -z "$agent$panel" ] || say "ending"
  end "$agent" Agent
  end "$panel" Panel
  for server in "$run"/agent/servers/*/; do
    [ ! -d "$server" ] || take_away "longshore-$node-$(basename "$server")" >/dev/null &
  done
  wait
}
trap leave EXIT
trap 'exit 0' INT TERM HUP

# Waits up to $1 seconds until a command succeeds, as long as both processes live.
until_true() {
  local turns=$(($1 * 10))
  shift
  for _ in $(seq $turns); do
    "$@" && return
    for process in "panel:$panel" "agent:$agent"; do
      [ -z "${process#*:}" ] || kill -0 "${process#*:}" 2>/dev/null ||
        fail "the ${process%:*} ended: $(tail -1 "$run/${process%:*}.log")"
    done
    sleep 0.1
  done
  return 1
}

# The token goes in by a file: an argument would be seen in the list of processes.
api() {
  curl -s -m 30 -H 'Content-Type: application/json' -H 'Prefer: wait=25' -H "@$run/token" "http://$http/api/v1$1" "${@:2}"
}
panel_cli() { HTTP_ADDR=$http DATA_DIR=$run/panel "$bin/longshore-panel" "$@" 7>&-; }

if [ -n "${RUN_BIN:-}" ]; then
  bin=$RUN_BIN
else
  say "building"
  cargo build --locked --quiet --bins 7>&- || fail "it does not build"
fi

# A session of its own for each: a Ctrl-C in the terminal comes here alone, and the order is kept.
if [ ! -s "$run/secret" ]; then
  panel_cli node add $node --secret-file "$run/secret" ||
    fail "the Panel did not make the node; if target/run is half gone, remove it whole"
fi
if [ ! -s "$run/token" ]; then
  if ! panel_cli user list | grep -q '^admin\s'; then
    panel_cli user add admin --admin >/dev/null || fail "the Panel did not make the user admin"
    # Nobody knows it: the link below is the way in, and leads to the servers instead of asking for a password first.
    head -c 24 /dev/urandom | base64 | panel_cli user password admin >/dev/null || fail "the user admin got no password"
  fi
  token=$(panel_cli token add admin make-run --scopes read,power,settings,admin) || fail "the Panel did not make a token"
  (umask 077 && echo "Authorization: Bearer $token" >"$run/token")
fi
HTTP_ADDR=$http AGENT_ADDR=$agents DATA_DIR=$run/panel setsid "$bin/longshore-panel" </dev/null >"$run/panel.log" 2>&1 7>&- &
panel=$!
until_true 20 curl -sf -m 2 -o "$run/answer" "http://$http/health" || fail "the Panel does not answer: see $run/panel.log"
PANEL_URL=ws://$agents/agent NODE_ID=$node AGENT_SECRET_FILE=$run/secret HEALTH_ADDR=$health DATA_DIR=$run/agent \
  setsid "$bin/longshore-agent" </dev/null >"$run/agent.log" 2>&1 7>&- &
agent=$!
online() { api "/nodes/$node" | grep -q '"online":true'; }
until_true 20 online || fail "the Agent does not reach the Panel: see $run/agent.log"

demo='{"node":"'$node'","id":"demo","name":"Demo server","template":"demo","start":true}'
answer=$(api /servers -d "$demo")
# An earlier run made it.
case $answer in *SERVER_EXISTS*) answer=$(api /servers/$node/demo/start -d '{}') ;; esac
case $answer in *'"error"'*) fail "the demo server does not start: $answer" ;; esac
running() { api /servers/$node/demo | grep -q '"status":"running"'; }
until_true 30 running || fail "the demo server does not run: $(api /servers/$node/demo)"
link=$(panel_cli user link admin) || fail "the Panel did not make a login link"

cat <<END

  Longshore runs. Open  $link
  The link logs you in as admin, once, within 15 minutes; another: make run again in a second terminal.
  One node, one demo server. Logs: $run/agent.log, $run/panel.log
  Stop it all with Ctrl-C.

END
# One that has ended while the words above were printed is not waited for any more by bash.
kill -0 "$panel" 2>/dev/null && kill -0 "$agent" 2>/dev/null && wait -n "$panel" "$agent"
for process in agent panel; do
  kill -0 "${!process}" 2>/dev/null || fail "the $process ended: $(tail -1 "$run/$process.log")"
done
