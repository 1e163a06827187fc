#!/bin/bash
# An array of 2 tasks, each with its part of the list: LIST=list.txt OUT=out sbatch docs/manifests/slurm-array.sh
# (https://slurm.schedmd.com/job_array.html). Slurm sends SIGTERM 60 s before the time is up: what runs may finish, and the
# same command later goes on.
#SBATCH --job-name=vit-prisma
#SBATCH --array=0-1
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
set -euo pipefail
exec vit-prisma convert --from "$LIST" --out "$OUT" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --memory 7G
