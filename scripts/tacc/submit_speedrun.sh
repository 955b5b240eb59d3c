#!/bin/bash
# The whole pipeline as a job on TACC. PROFILE chooses the machine (see `course profile list`), ACCOUNT the project;
# more options are those of `course submit`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
course submit pipeline --profile "${PROFILE:-tacc_h100}" ${ACCOUNT:+--account "$ACCOUNT"} "$@"
