#!/usr/bin/env bash
# Trains with torchrun: one process a GPU, on this machine or on several.
#
#   scripts/train_torchrun.sh experiment=ovi_11b_stage3 strategy=zero3 data.shards=…
#   NNODES=8 MASTER_ADDR=node0 scripts/train_torchrun.sh experiment=…       # the same command on each machine
#
# What it reads from the environment:
#   NPROC_PER_NODE   processes on this machine   (default: its GPUs; without one, 1)
#   NNODES           machines                    (1)
#   MASTER_ADDR, MASTER_PORT   where they meet   (127.0.0.1, 29500)
#   JOB_ID           equal on all machines, another for each run that shares a meeting place   (ovi)
#   SHUTDOWN_TIMEOUT seconds that a SIGTERM leaves for saving before processes are killed      (600)
#   PYTHON           the interpreter             (python)
#
# It goes on with the run where there is one (resume=auto); all arguments are ovi-train's, and the last one counts.
set -euo pipefail

python=${PYTHON:-python}
nodes=${NNODES:-1}
processes=${NPROC_PER_NODE:-$("$python" -c 'import torch; print(max(1, torch.cuda.device_count()))')}

if [[ $nodes == 1 ]]; then
  meeting=(--standalone)
else
  meeting=(
    --rdzv-backend=c10d
    --rdzv-endpoint="${MASTER_ADDR:?name the first machine, which all can reach}:${MASTER_PORT:-29500}"
    --rdzv-id="${JOB_ID:-ovi}"
  )
fi

threads=$(($(getconf _NPROCESSORS_ONLN) / processes))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
# torchrun passes these on, and waits for the run to save
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGUSR1
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${SHUTDOWN_TIMEOUT:-600}

exec "$python" -m torch.distributed.run \
  --nnodes="$nodes" --nproc-per-node="$processes" "${meeting[@]}" \
  -m ovi_lab.train trainer.num_nodes="$nodes" trainer.devices="$processes" resume=auto "$@"
