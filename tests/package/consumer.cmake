# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Shared by the consumers: they use actpack::actpack, and check that it leaves their settings alone.

add_executable(consumer ../main.cpp ../round_trip.cpp)
target_link_libraries(consumer PRIVATE actpack::actpack)

get_property(languages GLOBAL PROPERTY ENABLED_LANGUAGES)
if(NOT languages STREQUAL "CXX")
  message(FATAL_ERROR "actpack enabled a language: ${languages}")
endif()
if(NOT CMAKE_CXX_STANDARD EQUAL 17 OR NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
  message(FATAL_ERROR "actpack changed the consumer's standard or build type")
endif()
if(TARGET actpack_warnings)
  message(FATAL_ERROR "actpack brought its own development along")
endif()
