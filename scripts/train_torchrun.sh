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
#   MAX_RESTARTS     starts after a process has died; the run ends them where it sees no progress   (3)
#   FLIGHT           folder of what is recorded of NCCL where it hangs                    (runs/flight)
#   SHUTDOWN_TIMEOUT seconds that a SIGTERM leaves for saving before processes are killed      (600)
#   PYTHON           the interpreter             (python)
#
# It resumes the run where there is one (resume=auto); all arguments are ovi-train's, and the last one counts.
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
# a new store for each start: in one that is kept, processes of a restarted run find the addresses of those that died
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=${TORCH_DISABLE_SHARE_RDZV_TCP_STORE:-1}
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${SHUTDOWN_TIMEOUT:-600}

flight=${FLIGHT:-runs/flight}/${JOB_ID:-ovi}
# A collective that hangs until NCCL's timeout ends the process, and each process writes its last ones below FLIGHT,
# for `torchfrtrace --prefix rank_ FOLDER`
mkdir -p "$flight"
export TORCH_NCCL_ASYNC_ERROR_HANDLING=${TORCH_NCCL_ASYNC_ERROR_HANDLING:-3}
export TORCH_NCCL_DUMP_ON_TIMEOUT=${TORCH_NCCL_DUMP_ON_TIMEOUT:-1}
export TORCH_FR_BUFFER_SIZE=${TORCH_FR_BUFFER_SIZE:-2000}
export TORCH_FR_DUMP_TEMP_FILE=${TORCH_FR_DUMP_TEMP_FILE:-$flight/rank_}
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}

exec "$python" -m torch.distributed.run \
  --nnodes="$nodes" --nproc-per-node="$processes" --max-restarts="${MAX_RESTARTS:-3}" "${meeting[@]}" \
  -m ovi_lab.train trainer.num_nodes="$nodes" trainer.devices="$processes" resume=auto "$@"
