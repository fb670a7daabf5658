# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# ACTPACK_BUILD_CUDA, unless it was given: ON where this machine has a GPU that its driver lists and
# a CUDA compiler. Then the kernels are compiled for that GPU alone, which takes a fifth of the time
# of a build for all; ON by hand compiles for all.

find_package(CUDAToolkit QUIET)
if(NOT DEFINED ACTPACK_BUILD_CUDA)
  find_program(ACTPACK_NVIDIA_SMI nvidia-smi)
  mark_as_advanced(ACTPACK_NVIDIA_SMI)
  set(gpus "")
  if(ACTPACK_NVIDIA_SMI)
    execute_process(COMMAND ${ACTPACK_NVIDIA_SMI} -L OUTPUT_VARIABLE gpus ERROR_QUIET)
  endif()
  set(ACTPACK_BUILD_CUDA OFF)
  if(gpus MATCHES "GPU 0" AND CUDAToolkit_NVCC_EXECUTABLE)
    set(ACTPACK_BUILD_CUDA ON)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES native)
    endif()
  endif()
  message(STATUS "CUDA: ${ACTPACK_BUILD_CUDA}, as -DACTPACK_BUILD_CUDA was not given")
endif()
if(ACTPACK_BUILD_CUDA AND NOT DEFINED CMAKE_CUDA_COMPILER AND CUDAToolkit_NVCC_EXECUTABLE)
  set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE}) # PATH need not have it
endif()
