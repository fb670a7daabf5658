#!/bin/sh
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Measures every row of cuda_bench and writes bench/results/<GPU>-<date>.json and, beside it, .md.
#
#   bench/cuda/run.sh [BUILD_DIRECTORY [OPTION_OF_CUDA_BENCH...]]     default: build/release
set -eu

build=build/release
if [ $# -gt 0 ]; then
  build=$(realpath -m --relative-to="$(dirname "$0")/../.." "$1")
  shift
fi
cd "$(dirname "$0")/../.."

bench=$build/bench/cuda/cuda_bench
if [ ! -x "$bench" ]; then
  echo "$bench is not there: build it with cmake --build $build --target cuda_bench" >&2
  exit 1
fi

gpu=unknown
driver=unknown
if command -v nvidia-smi >/dev/null; then
  gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
fi
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
if [ -n "$(git status --porcelain --untracked-files=no 2>/dev/null)" ]; then
  commit="$commit with changes"
fi

mkdir -p bench/results
name=$(echo "$gpu" | tr -cs 'A-Za-z0-9\n' '-')-$(date +%Y-%m-%d)
results=bench/results/$name
# Not under its final name until it is whole.
trap 'rm -f "$results.partial"' EXIT

status=0
"$bench" --benchmark_out="$results.partial" --benchmark_out_format=json "$@" || status=$?
if [ $status -ne 0 ]; then
  exit $status
fi
mv "$results.partial" "$results.json"
python3 bench/results_table.py "$results.json" "Driver=$driver" "Commit=$commit" > "$results.md"
echo "Wrote $results.json and $results.md"
