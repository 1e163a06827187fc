#!/bin/bash
# Two jobs on Hugging Face's machines (https://huggingface.co/docs/huggingface_hub/guides/jobs), each with its part of the
# list. The disk of a job is gone with it: --push sends each model to the repos of ORG as soon as it is done.
set -euo pipefail
for PART in 0 1; do
  hf jobs run --detach --flavor cpu-upgrade --timeout 4h --secrets HF_TOKEN --env ORG="$ORG" --env LIST_URL="$LIST_URL" \
    --env PART="$PART" --env COUNT=2 node:20 bash -c '
      npm install --global vit-prisma
      curl --fail --silent --show-error --location "$LIST_URL" --output /tmp/list.txt
      vit-prisma convert --from /tmp/list.txt --out /tmp/out --shard "$PART/$COUNT" --push "$ORG"
    '
done
