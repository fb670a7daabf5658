# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Fails if LIBRARY, listed by NM, has inner functions that an optimising compiler expands.

execute_process(COMMAND ${NM} -C ${LIBRARY} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
if(NOT symbols MATCHES "encode_groups<actpack::PackedView, float>")
  message(FATAL_ERROR "${LIBRARY} lacks its loops")
endif()
if(symbols MATCHES "[ \t]actpack::round_code")
  message(FATAL_ERROR "${LIBRARY} is not optimised")
endif()
