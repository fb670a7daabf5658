# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Tests that nvcc compiles: the stream API with and without a GPU, and the counts of instructions.

foreach(name stream_api_test stream_gpu_test)
  add_executable(${name} ${name}.cu)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/cuda ${PROJECT_SOURCE_DIR}/tests)
  target_compile_options(${name} PRIVATE "SHELL:-Werror all-warnings")
  target_link_libraries(${name} PRIVATE actpack::cuda actpack::host doctest::doctest)
  add_test(NAME ${name} COMMAND ${name})
endforeach()
target_sources(stream_api_test PRIVATE $<TARGET_OBJECTS:test_main>) # the other has a main() of its own
set_property(TEST stream_api_test PROPERTY LABELS unit)
set_tests_properties(stream_gpu_test PROPERTIES LABELS gpu SKIP_RETURN_CODE 77 TIMEOUT 1800)

# Label sass: the cubins of the kernels whose instructions are limited, for one architecture.
if(NOT Python3_FOUND)
  message(STATUS "The instruction counts are left out: they need Python 3")
  return()
endif()
foreach(source quantize dequantize)
  set(cubin ${CMAKE_CURRENT_BINARY_DIR}/${source}.cubin)
  add_custom_command(OUTPUT ${cubin} VERBATIM
    COMMAND ${CMAKE_CUDA_COMPILER} -std=c++20 -O3 -arch=sm_90 -cubin
            -I${PROJECT_SOURCE_DIR}/include -o ${cubin} ${PROJECT_SOURCE_DIR}/cuda/${source}.cu
    DEPENDS ${PROJECT_SOURCE_DIR}/cuda/${source}.cu actpack_cuda)
  list(APPEND cubins ${cubin})
endforeach()
add_custom_target(cubins ALL DEPENDS ${cubins})
if(Python3_FOUND)
  add_test(NAME sass_count COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/sass_count.py
           ${CMAKE_CURRENT_SOURCE_DIR}/sass_limits.txt ${cubins})
  set_property(TEST sass_count PROPERTY LABELS sass)
endif()
