# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# cmake -D FAULT=name -D COMPILER=c++ -D LAUNCHER=ccache -D SOURCE_DIR=actpack -D WORK_DIR=folder
#       -D DOCTEST_DIRS=… -D PREBUILT="test_main.o;libactpack_host.a" -P faults.cmake
# breaks a copy of the sources in one place and compiles the one test that runs the broken kernel,
# which must fail for that reason. The rest of the program is prebuilt: doctest's main() and the
# host's verbs, which need no sanitizer.

cmake_minimum_required(VERSION 3.24)

# Replaces a text that a file of the copy holds once.
function(replace_once file from to)
  file(READ ${WORK_DIR}/${file} text)
  string(FIND "${text}" "${from}" first)
  string(FIND "${text}" "${from}" last REVERSE)
  if(first EQUAL -1 OR NOT first EQUAL last)
    message(FATAL_ERROR "${file} does not hold this text exactly once:\n${from}")
  endif()
  string(REPLACE "${from}" "${to}" text "${text}")
  file(WRITE ${WORK_DIR}/${file} "${text}")
endfunction()

if(NOT COMPILER)
  message("fault_${FAULT} is skipped: there is no clang++")
  return()
endif()
file(REMOVE_RECURSE ${WORK_DIR})
file(COPY ${SOURCE_DIR}/include ${SOURCE_DIR}/cuda DESTINATION ${WORK_DIR})

if(FAULT STREQUAL "missing_barrier")
  replace_once(cuda/device_thread_block.hpp "of_warp);\n    sync();\n" "of_warp);\n")
  # ThreadSanitizer tells 255 threads apart, not a block of 512: that is no part of the fault.
  replace_once(cuda/statistics_kernels.hpp "statistics_threads = 512;" "statistics_threads = 128;")
  set(flags -fsanitize=thread)
  set(test statistics_kernels_test)
  set(test_case "simt: statistics<float>")
  set(evidence "ThreadSanitizer: data race")
elseif(FAULT STREQUAL "missing_scan_barrier")
  replace_once(cuda/device_thread_block.hpp "of_warp);\n      sync();\n" "of_warp);\n")
  set(flags -fsanitize=thread)
  set(test allocation_kernels_test)
  set(test_case "simt: bit allocation")
  set(evidence "ThreadSanitizer: data race")
elseif(FAULT STREQUAL "wrong_lane_mask")
  replace_once(include/actpack/cuda/warp_tile.hpp
               "std::uint32_t active = 0xFFFFFFFFu)" "std::uint32_t active = 0x0000FFFFu)")
  set(flags "")
  set(test group_kernels_test)
  set(test_case "simt: affine rows<float>")
  set(evidence "simt: block 0, thread [0-9]+: [^\n]*0x0000ffff: lane [0-9]+ is not in its own mask")
elseif(FAULT STREQUAL "tail_overrun")
  replace_once(include/actpack/detail/cuda/slice_memory.hpp
               "} else if (word < num_words) {\n      store_to(" "} else {\n      store_to(")
  set(flags -fsanitize=address)
  set(test group_kernels_test)
  set(test_case "simt: affine rows<float>")
  set(evidence "heap-buffer-overflow|CHECK\\( guards_intact \\) is NOT correct")
else()
  message(FATAL_ERROR "There is no fault named ${FAULT}")
endif()

set(tests ${SOURCE_DIR}/tests)
set(include_dirs ${tests}/cuda ${tests}/cuda/simt_include ${WORK_DIR}/include ${WORK_DIR}/cuda
                 ${tests} ${DOCTEST_DIRS})
list(TRANSFORM include_dirs PREPEND -I)
execute_process( # without optimisation, which takes longest
  COMMAND ${LAUNCHER} ${COMPILER} -std=c++20 -O0 -g1 ${flags} -DACTPACK_EXTERN_KERNELS=1
          ${include_dirs} -c ${tests}/cuda/simt/${test}.cpp -o ${WORK_DIR}/${test}.o
  COMMAND_ERROR_IS_FATAL ANY)
execute_process( # its own object first, so that functions they all have come with the sanitizer
  COMMAND ${COMPILER} -pthread ${flags} ${WORK_DIR}/${test}.o ${PREBUILT} -o ${WORK_DIR}/${test}
  COMMAND_ERROR_IS_FATAL ANY)

set(ENV{TSAN_OPTIONS} halt_on_error=1)
execute_process(COMMAND ${WORK_DIR}/${test} --test-case=${test_case} TIMEOUT 60
                RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(result EQUAL 0)
  message(FATAL_ERROR "${test} passes in spite of the fault:\n${output}")
elseif(NOT output MATCHES "${evidence}")
  message(FATAL_ERROR "${test} ends with ${result}, but not for this fault:\n${output}")
endif()
message("${test} finds the fault: ${CMAKE_MATCH_0}")
