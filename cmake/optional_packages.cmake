# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Every package that our own programs use where it is installed, found in one place. Sets
# ACTPACK_HAS_<package> to whether a program that includes its header compiles and links: a package
# without its headers, or one that was found in part, counts as absent, and what needs it is left
# out with a message that names the Debian package.

include(CheckCXXSourceCompiles)
set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL ON)

# ACTPACK_HAS_<package>: whether `header` compiles, in our own standard, and `libraries` link.
function(check_package package header libraries)
  set(CMAKE_CXX_STANDARD 20)
  if(NOT ACTPACK_HAS_${package})
    unset(ACTPACK_HAS_${package} CACHE) # it may have been installed since
  endif()
  set(CMAKE_REQUIRED_QUIET TRUE)
  set(CMAKE_REQUIRED_LIBRARIES ${libraries})
  set(CMAKE_REQUIRED_INCLUDES ${ARGN})
  check_cxx_source_compiles("#include <${header}>\nint main() { return 0; }" ACTPACK_HAS_${package})
endfunction()

# A package that CMake finds, with the target it must define; ARGN goes to find_package.
macro(find_optional_package package target header)
  find_package(${package} QUIET ${ARGN})
  if(${package}_FOUND AND TARGET ${target})
    check_package(${package} ${header} ${target})
  else()
    unset(ACTPACK_HAS_${package} CACHE)
  endif()
endmacro()

# A library that CMake does not know, as the target `name`.
macro(find_optional_library name header)
  find_path(${name}_INCLUDE_DIR ${header})
  find_library(${name}_LIBRARY ${name})
  mark_as_advanced(${name}_INCLUDE_DIR ${name}_LIBRARY)
  if(${name}_INCLUDE_DIR AND ${name}_LIBRARY)
    check_package(${name} ${header} ${${name}_LIBRARY} ${${name}_INCLUDE_DIR})
  else()
    unset(ACTPACK_HAS_${name} CACHE)
  endif()
  if(ACTPACK_HAS_${name} AND NOT TARGET ${name})
    add_library(${name} INTERFACE IMPORTED GLOBAL)
    target_include_directories(${name} SYSTEM INTERFACE ${${name}_INCLUDE_DIR})
    target_link_libraries(${name} INTERFACE ${${name}_LIBRARY})
  endif()
endmacro()

# Sets `result` to whether all `packages` are there; says what is left out otherwise.
function(has_packages result what packages)
  set(debian_OpenMP libomp-dev)
  set(debian_Eigen3 libeigen3-dev)
  set(debian_ZLIB zlib1g-dev)
  set(debian_MPI "libopenmpi-dev openmpi-bin")
  set(debian_benchmark libbenchmark-dev)
  set(debian_Torch "libtorch-dev, which clang 14 cannot read")
  set(debian_zfp libzfp-dev)
  set(debian_blosc libblosc-dev)
  set(${result} TRUE PARENT_SCOPE)
  foreach(package ${packages})
    if(NOT ACTPACK_HAS_${package})
      message(STATUS "Left out: ${what}: needs ${package} (Debian's ${debian_${package}})")
      set(${result} FALSE PARENT_SCOPE)
    endif()
  endforeach()
endfunction()

find_package(Threads REQUIRED)
find_package(Python3 QUIET COMPONENTS Interpreter)
find_optional_package(OpenMP OpenMP::OpenMP_CXX omp.h COMPONENTS CXX)
find_optional_package(Eigen3 Eigen3::Eigen Eigen/Core NO_MODULE)
find_optional_package(ZLIB ZLIB::ZLIB zlib.h)
find_optional_package(benchmark benchmark::benchmark benchmark/benchmark.h)
find_optional_library(zfp zfp.h)
find_optional_library(blosc blosc.h)
if(NOT ACTPACK_SANITIZE) # a sanitizer would report on MPI's own code, and libtorch is not built with one
  set(MPI_CXX_SKIP_MPICXX ON) # the bindings that MPI 3 removed
  find_optional_package(MPI MPI::MPI_CXX mpi.h COMPONENTS CXX)
  find_optional_package(Torch torch ATen/core/List.h) # clang 14 cannot read this one as C++20
endif()
