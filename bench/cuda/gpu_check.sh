#!/bin/sh
# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Everything that only a machine with a GPU can check: builds, runs the gpu tests, runs them again
# under every tool of compute-sanitizer, and measures. Fails if anything does; exits with 77 where
# there is no device.
#
#   [ARCH=90] bench/cuda/gpu_check.sh [BUILD_DIRECTORY]     default: build/gpu
set -u

build=build/gpu
if [ $# -gt 0 ]; then
  build=$(realpath -m --relative-to="$(dirname "$0")/../.." "$1")
fi
cd "$(dirname "$0")/../.." || exit 1

if [ -z "${ARCH:-}" ]; then # that of the first device
  ARCH=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
  ARCH=${ARCH:-90}
fi

. bench/steps.sh

echo "== Build for architecture $ARCH in $build"
cmake --preset release -B "$build" \
  -DACTPACK_BUILD_CUDA=ON "-DCMAKE_CUDA_ARCHITECTURES=$ARCH-real" &&
  cmake --build "$build" -j "$(nproc)" || exit 1

bench=$build/bench/cuda/cuda_bench
if [ ! -x "$bench" ]; then
  echo "$bench was not built: it needs Google Benchmark" >&2
  exit 1
fi
"$bench" --benchmark_list_tests >/dev/null
status=$?
if [ $status -ne 0 ]; then
  "$bench" --benchmark_list_tests
  exit $status
fi

step "ctest" ctest --test-dir "$build" -L gpu --output-on-failure --no-tests=error

sanitizer=$(command -v compute-sanitizer)
if [ -z "$sanitizer" ]; then # it often is beside nvcc only
  compiler=$(sed -n 's/^CMAKE_CUDA_COMPILER:[^=]*=//p' "$build/CMakeCache.txt")
  sanitizer=$(dirname "$compiler")/compute-sanitizer
fi
tests=0
for test in "$build"/tests/cuda/*_gpu_test; do
  [ -x "$test" ] || continue
  tests=$((tests + 1))
  for tool in memcheck racecheck initcheck synccheck; do
    # A tool makes kernels slower by orders of magnitude: fewer random elements.
    step "$tool $(basename "$test")" env "ACTPACK_TEST_ELEMENTS=${ACTPACK_TEST_ELEMENTS:-1000000}" \
      "$sanitizer" --tool "$tool" --error-exitcode 1 "$test"
  done
done
if [ $tests -eq 0 ]; then
  echo "-- no $build/tests/cuda/*_gpu_test to run under compute-sanitizer: FAILED"
  failures=$((failures + 1))
fi

step "benchmarks" bench/cuda/run.sh "$build"

echo "== $failures failures"
[ $failures -eq 0 ]
