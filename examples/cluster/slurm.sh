#!/usr/bin/env bash
# Train on SLURM: on as many machines and GPUs as the job has, requeued when its time is up or it is preempted.
#
#   sbatch --nodes 1 --gpus-per-node 8 examples/cluster/slurm.sh deit3_small --data /data/imagenet --out runs/small
#
# Everything after the script's name goes to `ropevit train`. The directories of the data and of the run must be seen by
# all machines. A process that dies is restarted with all others, from the newest checkpoint (three times at most); with
# MIN_NODES=1 the training also goes on while a machine is missing. PROCESSES=N starts N processes a machine.
#SBATCH --job-name=ropevit
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=1
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # or restarted processes may look for each other where the dead ones were
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100 # seconds for the step at hand and the checkpoint; 30 if left out

srun torchrun \
    --nnodes "${MIN_NODES:-$SLURM_NNODES}:$SLURM_NNODES" \
    --nproc-per-node "${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}" \
    --max-restarts 3 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:${PORT:-29500}" \
    -m ropevit train "$@" --resume &
training=$!

requeue() { # the training saves and ends; the job comes back and resumes
    kill -TERM "$training"
    wait "$training" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap requeue TERM
wait "$training"
