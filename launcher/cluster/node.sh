#!/usr/bin/env bash
# Run one Ray node of a cluster on this host's address, with a token.
#
#   node.sh head PORT [ray start's options]      start the head here
#   node.sh worker HOST:PORT [options]           start a node here that joins it
#   node.sh stop                                 stop the node that --background started here
#   node.sh address                              print the address that a node here uses
#
# It stays in the foreground until Ctrl-C or SIGTERM. With --background as the first argument it stops the node that it
# started before, and returns once the new one is up; the output goes to ~/.ray/jax_party-node.log.
#
#   NODE_NETWORK         prefix of the address to use (10.1.) if a host has several; default: a private address
#   RAY_AUTH_TOKEN_PATH  the file with the cluster's token, readable by its owner only (default: ~/.ray/auth_token)
#   RAY                  the ray command (default: this checkout's .venv/bin/ray)
set -euo pipefail

fail() { echo "node.sh: $*" >&2; exit 2; }

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
ray=${RAY:-$checkout/.venv/bin/ray}
state=$HOME/.ray
pid_file=$state/jax_party-node.pid
log_file=$state/jax_party-node.log

# Stop only the process that --background started: pids are reused, so its start time must match, too.
stop() {
  [ -f "$pid_file" ] || return 0
  local pid started
  read -r pid started <"$pid_file"
  if [ "$(ps -o lstart= -p "$pid" 2>/dev/null | tr -s ' ')" = "$started" ]; then
    kill -TERM "$pid"
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
    kill -0 "$pid" 2>/dev/null && fail "process $pid ignores SIGTERM; end it: kill -9 $pid"
  fi
  rm -f "$pid_file"
}

address() {
  local network='^(10\.|192\.168\.|172\.(1[6-9]|2[0-9]|3[01])\.)'
  [ -z "${NODE_NETWORK:-}" ] || network="^${NODE_NETWORK//./\\.}"
  hostname -I | tr ' ' '\n' | grep -m1 -E "$network" || fail "no address of this host matches $network; set NODE_NETWORK"
}

background=
if [ "${1:-}" = --background ]; then background=1; shift; fi
role=${1:-}
case $role in
  stop | address) "$role"; exit ;;
esac
[ $# -ge 2 ] || fail "say what to start: node.sh head PORT, or node.sh worker HOST:PORT"
where=$2
shift 2

[ -x "$ray" ] || fail "$ray: no such command; run \`make setup\` in $checkout, or set RAY"
token=${RAY_AUTH_TOKEN_PATH:-$state/auth_token}
[ -s "$token" ] || fail "$token: no token; make one on one machine (ray get-auth-token --generate) and put it on all"
[ "$(stat -Lc %a "$token")" = 600 ] || fail "$token: others can read it; chmod 600 $token"
node_address=$(address)

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token RAY_USAGE_STATS_ENABLED=0
export RAY_worker_niceness=${RAY_worker_niceness:-0}
unset RAY_AUTH_TOKEN RAY_ADDRESS
case $role in
  head) node=(--head "--port=$where" --include-dashboard=false) ;;
  worker) node=("--address=$where") ;;
  *) fail "$role: unknown; head, worker or stop" ;;
esac
command=("$ray" start "${node[@]}" "--node-ip-address=$node_address" --block "$@")
[ -n "$background" ] || exec "${command[@]}"

stop
mkdir -p "$state"
setsid "${command[@]}" >"$log_file" 2>&1 </dev/null &
pid=$!
echo "$pid $(ps -o lstart= -p "$pid" | tr -s ' ')" >"$pid_file"
for _ in $(seq 300); do
  kill -0 "$pid" 2>/dev/null || { tail -n 20 "$log_file" >&2; fail "Ray did not start; $log_file says why"; }
  if grep -q 'Ray runtime started' "$log_file"; then
    echo "Ray $role on $node_address"
    exit 0
  fi
  sleep 0.2
done
stop
fail "Ray did not start within a minute; $log_file says more"
