#!/usr/bin/env bash
# Run a sweep on another machine over ssh: copy the checkout there, install it, start the run so that it outlives the
# connection, and follow its output. Given again, the same command continues a stopped run.
#     launch/ssh/run.sh me@box em -m dataset=insecure,secure seed=0,1,2
#     launch/ssh/run.sh me@box em stop       # the run saves and ends
#     launch/ssh/run.sh me@box em fetch      # copy the sweep folders (no adapters) to ./outputs
# EM_SSH: the ssh command, e.g. EM_SSH="ssh -p 2222 -J gateway". Set keys (OPENAI_API_KEY, WANDB_API_KEY) in the
# environment of the other machine; none are sent from here.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
host=$1 folder=$2
shift 2
ssh=${EM_SSH:-ssh}
here=$(cd "$(dirname "$0")/../.." && pwd)
there=$(printf %q "$folder")

case $1 in
  stop)
    exec $ssh "$host" "kill -TERM \$(cat $there/em.pid)"
    ;;
  fetch)
    mkdir -p outputs/sweeps
    $ssh "$host" "tar -C $there/outputs/sweeps -cf - ." | tar -C outputs/sweeps -xf -
    exit
    ;;
esac

tar -C "$here" --exclude=./.venv --exclude=./outputs --exclude=./.git -cf - . |
  $ssh "$host" "mkdir -p $there && tar -C $there -xf -"
$ssh "$host" "cd $there && make --silent install"
command=$(printf '%q ' "$@")
# setsid keeps the run from getting a hang-up. The loop shows the log until the run has ended, and returns its exit code.
exec $ssh "$host" "cd $there && : > em.log && rm -f em.exit
setsid bash -c '.venv/bin/python -m em.run \"\$@\" & echo \$! > em.pid; wait \$!; echo \$? > em.exit' em $command > em.log 2>&1 < /dev/null &
tail -n +1 -F em.log 2> /dev/null & shown=\$!
while [ ! -s em.exit ]; do sleep 1; done; sleep 1; kill \$shown; exit \$(cat em.exit)"
