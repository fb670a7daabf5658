#!/bin/sh
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Builds and runs every benchmark of the host, and writes bench/results/<machine>.json, and beside
# it .md and .svg.
#
#   bench/run.sh [--quick] [--instruction-set portable|avx2|avx512] [--rounds N]
#                [--build DIRECTORY]
#
# --quick: smallest sizes, once, into DIRECTORY/bench/quick: to see that all of it works.
# Defaults: the best instruction set of this processor, build/release.
# Real activations are those of the data that ACTPACK_DATA_DIR names, else of generated data.
set -eu
command=bench/run.sh # as a reader would repeat it: without the place of the build
cd "$(dirname "$0")/.."

usage() {
  sed -n '5,14s/^# \{0,1\}//p' bench/run.sh >&2
  exit 1
}

build=build/release
results=bench/results
instruction_set=
rounds=
is_quick=
while [ $# -gt 0 ]; do
  case $1 in
    --quick) is_quick=yes command="$command $1" ;;
    --instruction-set) [ $# -gt 1 ] || usage; instruction_set=$2 command="$command $1 $2"; shift ;;
    --rounds) [ $# -gt 1 ] || usage; rounds=$2 command="$command $1 $2"; shift ;;
    --build) [ $# -gt 1 ] || usage; build=$2; shift ;;
    *) usage ;;
  esac
  shift
done

cmake --preset release -B "$build" > /dev/null
cmake --build "$build" --parallel "$(nproc)" --target host_benches

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
if [ -n "$(git status --porcelain --untracked-files=no 2>/dev/null)" ]; then
  commit="$commit with changes"
fi

set -- # the options of every benchmark
if [ -n "$instruction_set" ]; then
  set -- "$@" "--instruction_set=$instruction_set"
fi
if [ -n "$rounds" ]; then
  set -- "$@" "--rounds=$rounds"
fi
if [ -n "$is_quick" ]; then
  results=$build/bench/quick
  set -- "$@" --quick
fi
mkdir -p "$results"
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

"$build/bench/quality" "$parts/quality.json"
python3 -B bench/quality_check.py "$parts/quality.json"
count=$(find "$build/bench" -maxdepth 1 -name '*_bench' | wc -l)
number=0
for bench in "$build"/bench/*_bench; do
  name=$(basename "$bench")
  number=$((number + 1))
  echo "== $name ($number of $count)"
  "$bench" --benchmark_out="$parts/$name.json" --benchmark_out_format=json "$@"
done

json=$(python3 -B bench/collect_results.py "$results" \
  "commit=$commit" "command=$command" "$parts"/*.json)
for file in table.md picture.svg; do # not under their final names until they are whole
  python3 -B "bench/results_${file%.*}.py" "$json" > "$json.partial"
  mv "$json.partial" "${json%.json}.${file#*.}"
done
echo "Wrote $json, .md and .svg"
if [ -z "$is_quick" ]; then
  python3 -B bench/readme_table.py
fi
