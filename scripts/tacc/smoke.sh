#!/bin/bash
# The pipeline at its smallest on a development queue: account, modules, paths, precision and memory are tried in minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
profile=${PROFILE:-tacc_a100}
case $profile in
  tacc_a100 | tacc_h100_lonestar6) queue=gpu-a100-dev ;;
  tacc_gh200) queue=gh-dev ;;
  *) queue= ;;  # Stampede3 has no development queue with GPUs
esac
course profile check "$profile"
course submit --profile "$profile" ${queue:+--partition "$queue"} --nodes 1 --time 00:30:00 --name smoke \
  ${ACCOUNT:+--account "$ACCOUNT"} "$@" -- pipeline run --profile smoke --set device=cuda --output "${SCRATCH:-runs}/course/smoke"
