# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Configures the project SOURCE_DIR in WORK_DIR with OPTIONS, without a build type and with one that
# has no flags. Fails unless the loops of actpack::host are to be compiled with -O2, and the
# project's own files with no such flag.

# A list of configurations means nothing to a generator that knows one.
foreach(type -DCMAKE_CONFIGURATION_TYPES=Debug -DCMAKE_BUILD_TYPE=None)
  set(loops "")
  execute_process(COMMAND ${CMAKE_COMMAND} --fresh -S ${SOURCE_DIR} -B ${WORK_DIR} ${OPTIONS} ${type}
                  COMMAND_ERROR_IS_FATAL ANY)
  file(READ ${WORK_DIR}/compile_commands.json commands)
  string(JSON count LENGTH ${commands})
  math(EXPR last "${count} - 1")
  foreach(index RANGE ${last})
    string(JSON file GET ${commands} ${index} file)
    string(JSON command GET ${commands} ${index} command)
    string(REGEX MATCHALL " -O[^ ]*" optimisation "${command}")
    set(expected "")
    if(file MATCHES "/host/[a-z_]+[.]cpp$")
      set(expected " -O2")
      list(APPEND loops ${file})
    endif()
    if(NOT "${optimisation}" STREQUAL "${expected}")
      message(SEND_ERROR "${file} is compiled with \"${optimisation}\", not \"${expected}\"")
    endif()
  endforeach()
  list(LENGTH loops count)
  if(count LESS 2)
    message(FATAL_ERROR "${WORK_DIR} does not compile the loops")
  endif()
endforeach()
