#!/bin/bash
# Two jobs of minutes on a development queue, where the machine has one. They try what would kill a long run:
#   smoke         account, modules, paths: all stages of the pipeline at their smallest
#   smoke-train   precision, memory, corpora and rendezvous: some steps of the profile's own pretraining, on two nodes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
profile=${PROFILE:-tacc_a100}
nodes=2
case $profile in
  tacc_a100) queue=gpu-a100-dev ;;
  tacc_gh200) queue=gh-dev ;;
  tacc_h100_lonestar6) queue= nodes=1 ;;  # no development queue has an H100, and a job may take one node
  *) queue= ;;  # Stampede3 has no development queue with GPUs
esac
out=${SCRATCH:-$PWD/runs}
options=(--profile "$profile" ${queue:+--partition "$queue"} --time 00:30:00 ${ACCOUNT:+--account "$ACCOUNT"} "$@")
course profile check "$profile"
course submit "${options[@]}" --nodes 1 --name smoke -- \
  pipeline run --profile smoke --set device=cuda --output "$out/course/smoke"
# Its checkpoint goes to a folder of its own: the real run must not go on from it.
SCRATCH=$out/course/smoke-train course submit "${options[@]}" --nodes "$nodes" --name smoke-train \
  --set data_config.tokens_target=2000000 pretrain
