#!/bin/bash
# One button: set-up, pretraining, SFT, DPO, verifier, evaluation of all stages, report.md.
#   bash speedrun.sh local       the whole pipeline here: on the GPU where there is one, else at the profile cpu
#   bash speedrun.sh tacc        the same as a job on TACC (PROFILE=tacc_h100, ACCOUNT=..., or give options of course submit)
#   bash speedrun.sh tacc-smoke  minutes on a development queue: what would kill a long run shows itself
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() { sed -n '2,5s/^# //p' "$0"; exit 2; }
mode=${1:-}
[ -n "$mode" ] && shift || usage

set_up() {
  if [ ! -x .venv/bin/course ]; then make setup; fi
  # shellcheck disable=SC1091
  source .venv/bin/activate
}

case $mode in
  local)
    set_up
    if [ -n "${PROFILE:-}" ]; then profile=$PROFILE
    elif python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then profile=local_rtx3060
    else profile=cpu; fi
    course pipeline run --profile "$profile" "$@"
    ;;
  tacc) set_up; exec scripts/tacc/submit_speedrun.sh "$@" ;;
  tacc-smoke) set_up; exec scripts/tacc/smoke.sh "$@" ;;
  *) usage ;;
esac
