# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# What is installed: find_package(actpack) gives actpack::actpack, and with COMPONENTS host or cuda
# the library of that name, if it had been built.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/actpack)

function(install_headers)
  if(ACTPACK_INSTALL)
    install(TARGETS actpack EXPORT actpack FILE_SET HEADERS)
    install(EXPORT actpack DESTINATION ${package_dir} NAMESPACE actpack::
            FILE actpack-targets.cmake)
    write_basic_package_version_file(actpack-config-version.cmake COMPATIBILITY SameMajorVersion
                                     ARCH_INDEPENDENT)
    install(FILES cmake/actpack-config.cmake ${PROJECT_BINARY_DIR}/actpack-config-version.cmake
            DESTINATION ${package_dir})
  endif()
endfunction()

# Called in the folder of the library actpack_<component>, of which nothing is installed before it
# is built.
function(install_component component)
  if(ACTPACK_INSTALL)
    install(CODE "
      if(NOT EXISTS \"$<TARGET_FILE:actpack_${component}>\")
        message(STATUS \"Left out, because it was not built: actpack::${component}\")
        return() # from this folder
      endif()")
    install(TARGETS actpack_${component} EXPORT actpack-${component})
    install(EXPORT actpack-${component} DESTINATION ${package_dir} NAMESPACE actpack::
            FILE actpack-${component}-targets.cmake)
  endif()
endfunction()
