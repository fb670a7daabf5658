#!/usr/bin/env bash
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Fuzzes with what the preset `fuzz` has built, two targets at a time:
#
#   tests/fuzz/run.sh [--build FOLDER] [--seconds S] [NAME...]
#
# Each target gets S seconds (20). Without names: all targets. Inputs that reach something new go to
# FOLDER/corpus/NAME, where the next run starts; the checked-in corpus stays as it is. Prints the
# executions of each target, and for a failure the command that repeats it.
set -euo pipefail
cd "$(dirname "$0")/../.."

build=build/fuzz seconds=20 names=()
while (($#)); do
  case $1 in
    --build) build=$2; shift 2 ;;
    --seconds) seconds=$2; shift 2 ;;
    -*) sed -n '7,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    *) names+=("$1"); shift ;;
  esac
done
if ((${#names[@]} == 0)); then
  for program in "$build"/tests/fuzz/fuzz_*; do
    if [ -x "$program" ] && [ -f "$program" ]; then names+=("${program##*/fuzz_}"); fi
  done
fi
mkdir -p "$build/logs" "$build/failures"

fuzz() { # NAME
  local program=$build/tests/fuzz/fuzz_$1 log=$build/logs/$1.log
  mkdir -p "$build/corpus/$1"
  if OMP_WAIT_POLICY=passive "$program" -max_total_time="$seconds" -max_len=1024 -len_control=0 \
      -timeout=20 -print_final_stats=1 -artifact_prefix="$build/failures/$1-" \
      "$build/corpus/$1" "tests/fuzz/corpus/$1" > "$log" 2>&1; then
    awk -v name="$1" '/stat::number_of_executed_units/ {all = $2}
                      /stat::average_exec_per_sec/ {rate = $2}
                      END {printf "%12d  %7d / s  %s\n", all, rate, name}' "$log"
  else
    grep -aE '^claim:|ERROR:|runtime error:|SUMMARY:' "$log" || tail -n 20 "$log"
    sed -n "s|^artifact_prefix=.*Test unit written to \(.*\)|FAILED $1; repeat: $program \1|p" "$log"
    return 1
  fi
}

echo "  executions"
status=0
running=0
for name in "${names[@]}"; do
  if ((running == 2)); then
    wait -n || status=1
    running=$((running - 1))
  fi
  fuzz "$name" &
  running=$((running + 1))
done
while ((running > 0)); do
  wait -n || status=1
  running=$((running - 1))
done
exit $status
