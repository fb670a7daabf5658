# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# cmake -D SOURCE_DIR=tests/package -D WORK_DIR=folder -D "OPTIONS=-G…;-D…" -D WITH_CUDA=ON|OFF
#       -P embedded.cmake
# builds and installs the trainer that fetches actpack; links a program with what was installed;
# installs the trainer without actpack; and installs actpack of which nothing was built.

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()
function(configure project build)
  run(${CMAKE_COMMAND} --fresh -S ${project} -B ${WORK_DIR}/${build} ${OPTIONS} ${ARGN})
endfunction()
function(install build)
  file(REMOVE_RECURSE ${WORK_DIR}/prefix_${build})
  run(${CMAKE_COMMAND} --install ${WORK_DIR}/${build} --prefix ${WORK_DIR}/prefix_${build})
endfunction()

configure(${SOURCE_DIR}/embedded trainer)
run(${CMAKE_COMMAND} --build ${WORK_DIR}/trainer)
install(trainer)
configure(${SOURCE_DIR}/embedded_user user -DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix_trainer)
run(${CMAKE_COMMAND} --build ${WORK_DIR}/user)
run(${WORK_DIR}/user/consumer)
if(WITH_CUDA) # exporting needs no kernel to be built
  configure(${SOURCE_DIR}/embedded trainer_cuda -DACTPACK_BUILD_CUDA=ON)
endif()

configure(${SOURCE_DIR}/embedded trainer -DACTPACK_INSTALL=OFF)
install(trainer)
file(GLOB_RECURSE files ${WORK_DIR}/prefix_trainer/*)
if(NOT files MATCHES "^[^;]*libtrainer[^;]*$")
  message(FATAL_ERROR "ACTPACK_INSTALL=OFF installs ${files}")
endif()

configure(${SOURCE_DIR}/../.. actpack -DACTPACK_BUILD_CUDA=${WITH_CUDA}
          -DACTPACK_BUILD_TESTS=OFF -DACTPACK_BUILD_EXAMPLES=OFF -DACTPACK_BUILD_BENCH=OFF)
install(actpack)
configure(${SOURCE_DIR}/find_package headers -DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix_actpack
          -DEXPECTED_VERSION=${VERSION} -DCMAKE_CXX_STANDARD=17 -DCMAKE_BUILD_TYPE=Debug)
foreach(component host cuda)
  execute_process(
    COMMAND ${CMAKE_COMMAND} --fresh -S ${SOURCE_DIR}/find_${component} -B ${WORK_DIR}/missing
            ${OPTIONS} -DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix_actpack -DEXPECTED_VERSION=${VERSION}
    OUTPUT_QUIET ERROR_VARIABLE errors)
  if(NOT errors MATCHES "installed without[ \n]+the[ \n]+component[ \n]+${component}")
    message(FATAL_ERROR "A component ${component} that is not there:\n${errors}")
  endif()
endforeach()
