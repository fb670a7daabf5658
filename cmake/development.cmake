# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# For our own programs only: warnings, sanitizers, optimisation, and the targets format-check and
# tidy.

option(ACTPACK_WERROR "Make warnings in our own programs errors" OFF)
option(ACTPACK_NIGHTLY "Build and run the tests that .ci/nightly has time for" OFF)
option(ACTPACK_FUZZ "Link the fuzz targets with libFuzzer, which comes with clang" OFF)
set(ACTPACK_SANITIZE "" CACHE STRING "Sanitizers for our own programs, as after -fsanitize=")

add_library(actpack_warnings INTERFACE)
target_compile_options(actpack_warnings INTERFACE
  -Wall -Wextra -Wconversion -Wshadow $<$<BOOL:${ACTPACK_WERROR}>:-Werror>
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>) # GCC 12 warns of its own std::string

add_library(actpack_sanitizers INTERFACE)
if(ACTPACK_SANITIZE)
  target_compile_options(actpack_sanitizers INTERFACE
    -fsanitize=${ACTPACK_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(actpack_sanitizers INTERFACE -fsanitize=${ACTPACK_SANITIZE})
endif()

# Host code in .cu files only launches kernels, which this does not touch.
string(REGEX REPLACE "-O[23]" "-O1" CMAKE_CUDA_FLAGS_RELEASE "${CMAKE_CUDA_FLAGS_RELEASE}")

# Both pinned to version 14: another one formats and warns differently.
find_program(ACTPACK_CLANG_FORMAT NAMES clang-format-14 clang-format)
find_program(ACTPACK_CLANG_TIDY NAMES run-clang-tidy-14 run-clang-tidy)
mark_as_advanced(ACTPACK_CLANG_FORMAT ACTPACK_CLANG_TIDY)

set(patterns "")
foreach(folder include host cuda python libtorch examples bench tests)
  foreach(extension h hpp cpp inl cu cuh)
    list(APPEND patterns ${folder}/*.${extension})
  endforeach()
endforeach()
file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${patterns})
add_custom_target(format-check VERBATIM
  COMMAND ${ACTPACK_CLANG_FORMAT} --dry-run -Werror ${sources})
add_custom_target(tidy VERBATIM WORKING_DIRECTORY ${PROJECT_BINARY_DIR}
  COMMAND ${ACTPACK_CLANG_TIDY} -quiet -extra-arg=-Wno-unknown-warning-option
          "tests/headers/.*[.]cpp$" "examples/.*[.]cpp$")
