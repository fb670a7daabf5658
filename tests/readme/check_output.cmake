# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Runs PROGRAM and fails unless it succeeds and prints the text of the file EXPECTED.

execute_process(COMMAND ${PROGRAM} OUTPUT_VARIABLE output RESULT_VARIABLE status)
file(READ ${EXPECTED} expected)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${PROGRAM} ends with ${status} after printing\n${output}")
endif()
if(NOT output STREQUAL expected)
  message(FATAL_ERROR "${PROGRAM} prints\n${output}\nbut the page shows\n${expected}")
endif()
