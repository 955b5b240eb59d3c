#!/usr/bin/env bash
# sbatch --wait ends with status 0 if the job was cancelled before it ran.
#
# Package: slurm-wlm 22.05.8, Debian's, as a private cluster of one node. Nothing is installed.
# Guess: --wait gives the job's exit code, and 1 where it was killed: `sbatch --wait train.sh && sbatch eval.sh` goes on
#   after a success only.
# Behaviour: a job that never started has the exit code 0. If it is cancelled while it is in the queue, by hand or
#   because the job that it needs has failed (--kill-on-invalid-dep=yes), sbatch --wait reports a success. In a job
#   array the elements that ran decide. A cancelled running job and one at its time limit give a failure.
# Here: the course does not use --wait. `sacct` or `scontrol show job` have the state, CANCELLED.
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
MinJobAge=300
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
printf '#!/bin/sh\nsleep 60\n' >sleeps.sh

# Start `sbatch --wait` in the background; its job's number goes to a file, and its status to another.
begin() {
  local name=$1
  shift
  (
    status=0
    sbatch --wait --parsable --output=/dev/null "$@" >"$name.job" || status=$?
    echo "$status" >"$name.status"
  ) &
  until_true 100 test -s "$name.job" || could_not_run "sbatch gave no number"
}
state() { scontrol show job -o "$(cat "$1.job")" | tr ' ' '\n' | sed -n "s/^JobState=//p"; }
running() { [ "$(state "$1")" = RUNNING ]; }
report() {
  until_true 600 test -s "$1.status" || could_not_run "sbatch --wait did not end"
  echo "$2: the job is $(state "$1"), the status of sbatch --wait $(cat "$1.status")"
}

begin failed fails.sh
report failed "a job that fails"
begin killed sleeps.sh
until_true 200 running killed || could_not_run "the job did not start"
scancel "$(cat killed.job)"
report killed "a job cancelled while it runs"
begin held --hold sleeps.sh
scancel "$(cat held.job)"
report held "a job cancelled in the queue"
begin needy --dependency=afterok:"$(cat failed.job)" --kill-on-invalid-dep=yes sleeps.sh
report needy "a job whose predecessor has failed"
[ "$(cat failed.status)" = 1 ] && [ "$(cat killed.status)" != 0 ] || could_not_run "failures are not reported"
if [ "$(state held) $(state needy) $(cat held.status) $(cat needy.status)" = "CANCELLED CANCELLED 0 0" ]; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
