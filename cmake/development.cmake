# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# For our own programs only: warnings, sanitizers, and the targets format-check and tidy.

option(ACTPACK_WERROR "Make warnings in our own programs errors" OFF)
set(ACTPACK_SANITIZE "" CACHE STRING "Sanitizers for our own programs, as after -fsanitize=")

add_library(actpack_warnings INTERFACE)
target_compile_options(actpack_warnings INTERFACE
  -Wall -Wextra -Wconversion -Wshadow $<$<BOOL:${ACTPACK_WERROR}>:-Werror>)

add_library(actpack_sanitizers INTERFACE)
if(ACTPACK_SANITIZE)
  target_compile_options(actpack_sanitizers INTERFACE
    -fsanitize=${ACTPACK_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(actpack_sanitizers INTERFACE -fsanitize=${ACTPACK_SANITIZE})
endif()

# Both pinned to version 14: another one formats and warns differently.
find_program(ACTPACK_CLANG_FORMAT NAMES clang-format-14 clang-format)
find_program(ACTPACK_CLANG_TIDY NAMES run-clang-tidy-14 run-clang-tidy)
mark_as_advanced(ACTPACK_CLANG_FORMAT ACTPACK_CLANG_TIDY)

file(GLOB_RECURSE sources CONFIGURE_DEPENDS
     include/*.hpp cuda/*.hpp cuda/*.cu cuda/*.cuh tests/*.[ch]pp tests/*.cu examples/*.[ch]pp
     examples/*.cu bench/*.[ch]pp bench/*.cu bench/*.cuh)
add_custom_target(format-check VERBATIM
  COMMAND ${ACTPACK_CLANG_FORMAT} --dry-run -Werror ${sources})
add_custom_target(tidy VERBATIM WORKING_DIRECTORY ${PROJECT_BINARY_DIR}
  COMMAND ${ACTPACK_CLANG_TIDY} -quiet -extra-arg=-Wno-unknown-warning-option
          "tests/headers/.*[.]cpp$" examples/)
