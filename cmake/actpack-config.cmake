# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# What find_package(actpack) reads. The component cuda is there if it was installed.

include(CMakeFindDependencyMacro)
include(${CMAKE_CURRENT_LIST_DIR}/actpack-targets.cmake)

foreach(component ${actpack_FIND_COMPONENTS})
  set(targets ${CMAKE_CURRENT_LIST_DIR}/actpack-${component}-targets.cmake)
  if(component STREQUAL "cuda" AND EXISTS ${targets})
    find_dependency(CUDAToolkit)
    include(${targets})
    set(actpack_cuda_FOUND TRUE)
  elseif(actpack_FIND_REQUIRED_${component})
    set(actpack_FOUND FALSE)
    set(actpack_NOT_FOUND_MESSAGE "actpack was installed without the component ${component}")
  endif()
endforeach()
