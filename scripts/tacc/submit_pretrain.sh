#!/bin/bash
# Pretraining alone as a job on TACC, with checkpoints on $SCRATCH. PROFILE chooses the machine, ACCOUNT the project.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
profile=${PROFILE:-tacc_h100}
out=${SCRATCH:?SCRATCH is not set: are you on a login node of TACC?}/course/pretrain/$profile
course submit --profile "$profile" ${ACCOUNT:+--account "$ACCOUNT"} "$@" -- pretrain --profile "$profile" --out "$out"
