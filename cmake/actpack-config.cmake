# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Read by find_package(actpack). A component is there if it was installed.

include(CMakeFindDependencyMacro)
include(${CMAKE_CURRENT_LIST_DIR}/actpack-targets.cmake)

foreach(component ${actpack_FIND_COMPONENTS})
  set(targets ${CMAKE_CURRENT_LIST_DIR}/actpack-${component}-targets.cmake)
  if(component MATCHES "^(host|cuda)$" AND EXISTS ${targets})
    if(component STREQUAL "cuda")
      find_dependency(CUDAToolkit)
    endif()
    include(${targets})
    set(actpack_${component}_FOUND TRUE)
  elseif(actpack_FIND_REQUIRED_${component})
    set(actpack_FOUND FALSE)
    set(actpack_NOT_FOUND_MESSAGE "actpack was installed without the component ${component}")
  endif()
endforeach()
