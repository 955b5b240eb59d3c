#!/bin/bash
# Pretraining alone as a job on TACC, with checkpoints on $SCRATCH. PROFILE chooses the machine, ACCOUNT the project.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
: "${SCRATCH:?is not set: are you on a login node of TACC?}"
course submit pretrain --profile "${PROFILE:-tacc_h100}" ${ACCOUNT:+--account "$ACCOUNT"} "$@"
