#!/usr/bin/env bash
# Run a command on a Ray cluster that lasts as long as the Slurm job. Set the resources, then from the checkout:
#
#   make setup EXTRA=cuda13          # once; the checkout and your home lie on a file system that the nodes share
#   sbatch launcher/cluster/slurm.sh .venv/bin/python -m launcher.sweep ALG=mappo ADDRESS=auto STORAGE=/scratch/me/sweeps
#
# The command runs on the first node, which is the head and also has workers. The job's token is in a file that only you
# can read, ~/.ray/slurm-<job>.token; it is deleted when the command ends, fails or is cancelled.
#SBATCH --job-name=jax_party
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=slurm-%j.log
set -euo pipefail

fail() { echo "slurm.sh: $*" >&2; exit 2; }

[ -n "${SLURM_JOB_ID:-}" ] || fail "run it by sbatch: sbatch launcher/cluster/slurm.sh COMMAND"
[ $# -gt 0 ] || fail "name the command: sbatch launcher/cluster/slurm.sh .venv/bin/python -m launcher.sweep ALG=…"
cd "$SLURM_SUBMIT_DIR" # Slurm runs a copy of this file elsewhere
node=$PWD/launcher/cluster/node.sh
[ -f "$node" ] || fail "$PWD: no checkout of JaxParty; submit from there"
export RAY=${RAY:-$PWD/.venv/bin/ray}
[ -x "$RAY" ] || fail "$RAY: not there; run \`make setup\` on a login node first"

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ray/slurm-$SLURM_JOB_ID.token
unset RAY_AUTH_TOKEN
head_log=$HOME/.ray/slurm-$SLURM_JOB_ID-head.log
command=
steps=()

# Stop the command first, so that a sweep can requeue its trials, then the nodes.
end() {
  trap '' TERM INT
  local pid
  for pid in $command "${steps[@]}"; do
    kill -TERM "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  rm -f "$RAY_AUTH_TOKEN_PATH" "$head_log"
}
trap end EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

mkdir -p "$HOME/.ray"
: >"$head_log"
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH")

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export RAY_ADDRESS
RAY_ADDRESS=$(bash "$node" address):$((20000 + SLURM_JOB_ID % 10000))
cpus=${SLURM_CPUS_PER_TASK:-1}
each=("--ntasks-per-node=1" "--cpus-per-task=$cpus" ${SLURM_GPUS_PER_TASK:+"--gpus-per-task=$SLURM_GPUS_PER_TASK"})

srun --nodes=1 --nodelist="${hosts[0]}" "${each[@]}" \
  bash "$node" head "${RAY_ADDRESS##*:}" --num-cpus="$cpus" >"$head_log" 2>&1 &
steps=($!)
until grep -q 'Ray runtime started' "$head_log"; do
  kill -0 "${steps[0]}" 2>/dev/null || { cat "$head_log" >&2; fail "the head has not started"; }
  sleep 0.5
done
if [ ${#hosts[@]} -gt 1 ]; then
  srun --nodes=$((${#hosts[@]} - 1)) --exclude="${hosts[0]}" "${each[@]}" \
    bash "$node" worker "$RAY_ADDRESS" --num-cpus="$cpus" &
  steps=($! "${steps[@]}")
fi

# Nodes get work as they join, so the command need not wait for them.
"$@" &
command=$!
wait "$command"
