// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The library's version, and the only place that looks at the compiler.
#pragma once

/// 10000 · major + 100 · minor + patch; the build system reads the version from this line.
#define ACTPACK_VERSION 100

/// Marks a function that host code and CUDA device code may both call.
#if defined(__CUDACC__)
#define ACTPACK_HD __host__ __device__
#else
#define ACTPACK_HD
#endif

/// In front of an ACTPACK_HD template that calls its argument: it may be called where that may.
#if defined(__CUDACC__)
#define ACTPACK_AS_CALLABLE _Pragma("nv_exec_check_disable")
#else
#define ACTPACK_AS_CALLABLE
#endif

/// While a function is being compiled for a CUDA device: ten times its compute capability (900 for
/// 9.0). On the host: 0.
#if defined(__CUDA_ARCH__)
#define ACTPACK_DEVICE_ARCH __CUDA_ARCH__
#else
#define ACTPACK_DEVICE_ARCH 0
#endif

// The stored bits are a promise about IEEE arithmetic in the default environment: rounding to
// nearest, subnormals kept, NaN compared as NaN.
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "actpack: the packed format needs IEEE arithmetic; compile without -ffast-math"
#endif
