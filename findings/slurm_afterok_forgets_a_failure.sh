#!/usr/bin/env bash
# A job that must wait for the success of a failed one starts, as soon as Slurm has forgotten the failure.
#
# Package: slurm-wlm 22.05.8, Debian's, as a private cluster of one node. Nothing is installed.
# Guess: with --dependency=afterok:ID a job runs after a success of that job and otherwise never; an ID that does not
#   exist is refused.
# Behaviour: slurmctld drops a dependency on a job that it has no record of, and MinJobAge seconds (300 by default)
#   after its end no job has one, however it ended. Submitted before that, the second job waits; submitted later, it
#   runs at once, with "Dependency=(null)". So does one that names a job that never existed.
# Here: `course submit --after JOB` asks Slurm first, and refuses a job that has failed or is not known.
set -euo pipefail
packages=(slurm-wlm==22.05.8)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }
for program in munged slurmctld slurmd sbatch; do
  command -v "$program" >/dev/null || could_not_run "there is no $program: apt install slurm-wlm munge"
done
[ "$(id -u)" = 0 ] || could_not_run "the daemons of the private cluster have to be started by root"
found=$(slurmd -V)
if [[ ${packages[0]} == *==* && ${packages[0]} != "${found/ /==}" ]]; then could_not_run "this is $found"; fi

daemons=()
stop() {
  kill "${daemons[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$folder"
}
trap stop EXIT
chmod 755 "$folder"
mkdir "$folder/state"
port=$((10000 + RANDOM % 20000))
cat >"$folder/slurm.conf" <<CONFIGURATION
ClusterName=finding
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$port
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmUser=root
MinJobAge=5
SchedulerParameters=bf_interval=1,sched_interval=1
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=n1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=1
PartitionName=all Nodes=n1 Default=YES MaxTime=INFINITE State=UP
CONFIGURATION
export SLURM_CONF="$folder/slurm.conf"
head -c 1024 /dev/urandom >"$folder/munge.key"
chmod 600 "$folder/munge.key"
munged --foreground --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
  --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munged.seed" &>/dev/null &
daemons+=($!)

# Wait until a command succeeds, for at most so many tenths of a second.
until_true() {
  local tenths=$1
  shift
  until "$@" &>/dev/null; do
    [ $((tenths -= 2)) -gt 0 ] || return 1
    sleep 0.2
  done
}
until_true 200 test -S "$folder/munge.socket" || could_not_run "munged did not start"
slurmctld -D &>/dev/null &
daemons+=($!)
slurmd -D -N n1 &>/dev/null &
daemons+=($!)
node_is_idle() { [ "$(sinfo -h -o %T)" = idle ]; }
until_true 400 node_is_idle || could_not_run "the node did not come up: $(tail -n 2 "$folder/slurmctld.log")"
echo "$found"
cd "$folder"

printf '#!/bin/sh\nexit 1\n' >fails.sh
printf '#!/bin/sh\necho "$1" >>ran\n' >needs_it.sh
touch ran
submit() { sbatch --parsable --output=/dev/null "$@"; }
state() { scontrol show job -o "$1" | tr ' ' '\n' | sed -n "s/^JobState=//p"; }
is() { [ "$(state "$1")" = "$2" ]; }
never() { [ "$(squeue -h -j "$1" -o %r)" = DependencyNeverSatisfied ]; }
forgotten() { ! scontrol show job "$1"; }
refused() { echo "sbatch refuses it"; echo "changed"; exit 1; }

first=$(submit fails.sh)
until_true 300 is "$first" FAILED || could_not_run "the first job did not fail"
early=$(submit --dependency=afterok:"$first" needs_it.sh early)
until_true 300 never "$early" || could_not_run "the dependent job is $(state "$early")"
echo "job $first: FAILED; submitted at once after it, job $early is $(state "$early"): $(squeue -h -j "$early" -o %r)"
scancel "$early"
until_true 1800 forgotten "$first" || could_not_run "job $first is still remembered"
late=$(submit --dependency=afterok:"$first" needs_it.sh late) || refused
until_true 600 is "$late" COMPLETED || true
echo "submitted when job $first is forgotten, job $late is $(state "$late")"
never_was=$(submit --dependency=afterok:99999 needs_it.sh never_was) || refused
until_true 600 is "$never_was" COMPLETED || true
echo "submitted to run after job 99999, which never existed, job $never_was is $(state "$never_was")"
if [ "$(tr '\n' ' ' <ran)" = "late never_was " ]; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
