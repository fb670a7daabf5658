#!/bin/sh
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Checks the Python package on a machine with a GPU: its tests on the device, the library's kernels
# under compute-sanitizer, and ResNet-50's memory, speed and losses. Fails if a step does; exits
# with 77 where PyTorch or the package finds no device.
#
#   [PYTHON=python3] [TIME_LIMIT=240] python/benchmarks/gpu_check.sh PACKAGE [OUT]
#
# PACKAGE is the folder that has actpack/libactpack.so, as the target actpack_python_modules builds
# it; tables and pictures go to OUT. TIME_LIMIT, in seconds, is for each of the two tables.
set -u

if [ $# -lt 1 ]; then
  sed -n 's/^#   //p' "$0" >&2
  exit 2
fi
package=$(realpath "$1") || exit 1
out=$(realpath -m "${2:-.}")
python=${PYTHON:-python3}
cd "$(dirname "$0")/../.." || exit 1
benchmarks=$PWD/python/benchmarks
export PYTHONPATH="$package:$benchmarks"
mkdir -p "$out"

"$python" -c 'import sys, torch, actpack
sys.exit(0 if torch.cuda.is_available() and actpack.has_cuda else 77)'
status=$?
[ $status -eq 0 ] || exit $status

. bench/steps.sh

for test in tests/python/test_*.py; do
  name=$(basename "$test" .py)
  step "$name" env -C tests/python "$python" -B -m unittest "$name"
done

if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    step "$tool" env -C tests/python PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      compute-sanitizer --tool $tool --kernel-name kns=actpack --error-exitcode 1 \
      "$python" -B -m unittest test_modules.TypesAndLayoutsTest test_convert.OverwritingTest \
      test_hooks.ExactTest
  done
else
  echo "-- no compute-sanitizer on PATH: its steps are left out"
fi

export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
for layout in "" --channels-last; do
  step "resnet50 $layout" "$python" "$benchmarks/memory_table.py" --model resnet50 $layout \
    --methods full,amp,actpack,actpack-amp --batches 64,256 --budget-gib 16 --steps 200 \
    --loss-methods full,actpack --time-limit "${TIME_LIMIT:-240}" --out "$out/resnet50$layout"
done

echo "== $failures failures"
[ $failures -eq 0 ]
