# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# cmake -D WORK_DIR=folder -D SOURCE_DIR=actpack -D "OPTIONS=-G…;-D…" -D "INSTALLED=OpenMP;…"
#       -P optional_packages.cmake
# configures the project with optional packages absent, and again with the same ones in place but
# for their headers: both must succeed, leave out the same, and offer the same targets.

cmake_minimum_required(VERSION 3.24)

# Packages that programs need together would hide each other: two groups.
set(groups basic further)
set(packages_basic OpenMP Eigen3 ZLIB benchmark)
set(headers_basic omp.h Eigen/Core zlib.h benchmark/benchmark.h)
set(packages_further MPI Torch zfp blosc)
set(headers_further mpi.h c10/macros/Macros.h zfp.h blosc.h)

foreach(group ${groups})
  set(flags_absent "")
  foreach(package ${packages_${group}}) # found by find_package, or by find_library
    list(APPEND flags_absent -DCMAKE_DISABLE_FIND_PACKAGE_${package}=ON -D${package}_LIBRARY=)
  endforeach()
  foreach(header ${headers_${group}})
    file(WRITE ${WORK_DIR}/${group}/${header} "#error this header is not installed\n")
  endforeach()
  set(flags_headerless -DCMAKE_CXX_FLAGS=-I${WORK_DIR}/${group})

  foreach(state absent headerless)
    set(build ${WORK_DIR}/${group}_${state})
    execute_process(
      COMMAND ${CMAKE_COMMAND} --fresh -S ${SOURCE_DIR} -B ${build} ${OPTIONS} ${flags_${state}}
      OUTPUT_VARIABLE output ERROR_VARIABLE errors RESULT_VARIABLE failure)
    if(failure OR errors MATCHES "CMake Error")
      message(FATAL_ERROR "With ${packages_${group}} ${state}:\n${output}${errors}")
    endif()
    string(REGEX MATCHALL "Left out: [^\n]*" left_out_${state} "${output}")
    execute_process(COMMAND ${CMAKE_COMMAND} --build ${build} --target help
                    OUTPUT_VARIABLE targets_${state} COMMAND_ERROR_IS_FATAL ANY)
  endforeach()

  foreach(package ${packages_${group}})
    if(package IN_LIST INSTALLED AND NOT left_out_absent MATCHES "needs ${package} ")
      message(FATAL_ERROR "Nothing is left out for want of ${package}: ${left_out_absent}")
    endif()
  endforeach()
  foreach(result left_out targets)
    if(NOT ${result}_absent STREQUAL ${result}_headerless)
      message(FATAL_ERROR "${result} differ; absent:\n${${result}_absent}\n"
                          "without headers:\n${${result}_headerless}")
    endif()
  endforeach()
endforeach()
