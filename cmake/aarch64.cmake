# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Toolchain file: compiles for 64-bit Arm with Debian's cross compiler and runs there by emulation.

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)
