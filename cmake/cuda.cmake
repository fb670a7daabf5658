# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Whether device code is compiled, and the CUDA language and toolkit if so. A consumer has to ask
# for it.

set(compiler_found OFF)
if(PROJECT_IS_TOP_LEVEL AND NOT DEFINED ACTPACK_BUILD_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(compiler_found ON)
  endif()
endif()
option(ACTPACK_BUILD_CUDA "Compile the device code" ${compiler_found})

if(ACTPACK_BUILD_CUDA)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES) # before the language, which would choose the oldest
    set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 90-real 100-real 120)
  endif()
  if("${CMAKE_CUDA_ARCHITECTURES}" MATCHES "^75")
    # Our own programs have the oldest as PTX alone, which a driver compiles for every GPU: more
    # would take longer and show what the library shows.
    set(program_architectures 75-virtual)
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION) # CMake 3.25 believes that nvcc stops at C++17
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
endif()
