// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The library's version, and the macros for what differs between compilers. Headers that spell an
// operation twice, for the host and for a device, choose by ACTPACK_DEVICE_ARCH.
#pragma once

#if __cplusplus <= 201703L && !(defined(_MSVC_LANG) && _MSVC_LANG > 201703L)
#error "actpack needs C++20: compile with -std=c++20 or later (/std:c++20)"
#endif

/// 10000 · major + 100 · minor + patch; the build system reads the version from this line.
#define ACTPACK_VERSION 100

/// Marks a function that host code and CUDA device code may both call.
#if defined(__CUDACC__)
#define ACTPACK_HD __host__ __device__
#else
#define ACTPACK_HD
#endif

/// In front of an ACTPACK_HD template that calls its argument: callable wherever its argument is.
#if defined(__CUDACC__)
#define ACTPACK_AS_CALLABLE _Pragma("nv_exec_check_disable")
#else
#define ACTPACK_AS_CALLABLE
#endif

/// Ten times the compute capability (900 for 9.0) while a function is compiled for a CUDA device; 0
/// on the host.
#if defined(__CUDA_ARCH__)
#define ACTPACK_DEVICE_ARCH __CUDA_ARCH__
#else
#define ACTPACK_DEVICE_ARCH 0
#endif

/// Whether the processor may have vector instructions of x86-64, which the program finds out when
/// it runs.
#if defined(__x86_64__) && defined(__GNUC__)
#define ACTPACK_X86 1
#else
#define ACTPACK_X86 0
#endif

/// Whether a program links the host verbs' loops, bit allocation, AutoPrecision, frames and the
/// refusal of arguments instead of compiling them where they are called. The target actpack::host
/// sets it.
#ifndef ACTPACK_EXTERN_KERNELS
#define ACTPACK_EXTERN_KERNELS 0
#endif

/// Whether a wrong argument ends the program, after its sentence on the standard error, instead of
/// throwing std::invalid_argument: for files compiled with -fno-exceptions, which have to ask for
/// it. Programs that link actpack::host give it to that library.
#ifndef ACTPACK_NO_EXCEPTIONS
#define ACTPACK_NO_EXCEPTIONS 0
#endif

/// Whether this file has the loops for those instructions; 0, defined for a whole program, leaves
/// them out. nvcc cannot compile them; files that it compiles take the portable path, with the same
/// results.
#ifndef ACTPACK_X86_KERNELS
#if ACTPACK_X86 && !defined(__CUDACC__)
#define ACTPACK_X86_KERNELS 1
#else
#define ACTPACK_X86_KERNELS 0
#endif
#endif

/// An inline namespace of every function, named by what its file is compiled for. So files of one
/// program that are compiled for different processors, or by nvcc, share no code: a linker would
/// keep one copy of it, whose instructions another processor may lack. Types have one name.
#if defined(__CUDACC__)
#define ACTPACK_TARGET for_nvcc
#elif !ACTPACK_X86_KERNELS
#define ACTPACK_TARGET for_portable
#elif defined(__AVX512VBMI2__)
#define ACTPACK_TARGET for_avx512_vbmi2
#elif defined(__AVX512F__)
#define ACTPACK_TARGET for_avx512
#elif defined(__AVX2__)
#define ACTPACK_TARGET for_avx2
#elif defined(__AVX__)
#define ACTPACK_TARGET for_avx
#elif defined(__SSE4_2__)
#define ACTPACK_TARGET for_sse4
#else
#define ACTPACK_TARGET for_x86
#endif

/// In front of a function that actpack::host defines, and that is inline without it; and the inline
/// namespace of all that it defines, which has one name in a program that links it.
#if defined(ACTPACK_COMPILED_ONCE) || ACTPACK_EXTERN_KERNELS
#define ACTPACK_ONCE compiled_once
#else
#define ACTPACK_ONCE ACTPACK_TARGET
#endif
#ifndef ACTPACK_COMPILED_ONCE
#define ACTPACK_COMPILED_ONCE inline
#endif

/// The instructions that the compiler may use where the processor has them.
#define ACTPACK_AVX2 "avx2,fma,f16c"
#define ACTPACK_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"

/// Functions between the two may use the named instructions, whatever the rest of the file is
/// compiled for.
#if defined(__clang__)
#define ACTPACK_PRAGMA(text) _Pragma(#text)
#define ACTPACK_BEGIN_TARGET(features) \
  ACTPACK_PRAGMA(clang attribute push(__attribute__((__target__(features))), apply_to = function))
#define ACTPACK_END_TARGET _Pragma("clang attribute pop")
#elif ACTPACK_X86
#define ACTPACK_PRAGMA(text) _Pragma(#text)
#define ACTPACK_BEGIN_TARGET(features)                                                            \
  _Pragma("GCC push_options") ACTPACK_PRAGMA(GCC target(features)) _Pragma("GCC diagnostic push") \
      _Pragma("GCC diagnostic ignored \"-Wuninitialized\"")                                       \
          _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"") /* by its AVX-512 header */
#define ACTPACK_END_TARGET _Pragma("GCC diagnostic pop") _Pragma("GCC pop_options")
#endif

/// Returns a · b + c of floats, rounded once, and whether that is one instruction. The compiler's
/// own function spares every file <cmath>.
#if defined(__GNUC__)
#define ACTPACK_FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#include <cmath>
#define ACTPACK_FMA(a, b, c) std::fma(a, b, c)
#endif
#if defined(__FP_FAST_FMAF)
#define ACTPACK_FAST_FMA 1
#else
#define ACTPACK_FAST_FMA 0
#endif

/// INLINE: a function or lambda whose loops are fast only once it knows its caller's constants.
/// NOINLINE: one that its callers share.
#if defined(__GNUC__)
#define ACTPACK_INLINE __attribute__((__always_inline__))
#define ACTPACK_NOINLINE __attribute__((__noinline__))
#else
#define ACTPACK_INLINE
#define ACTPACK_NOINLINE
#endif

/// An ACTPACK_HD function of the numeric core, or a member of a type. Types have one name in the
/// whole program, so what they do on the host must not be code that files share: see
/// ACTPACK_TARGET.
#if defined(__CUDACC__)
#define ACTPACK_CORE ACTPACK_HD
#else
#define ACTPACK_CORE ACTPACK_INLINE
#endif

/// A condition that always holds: silences warnings about cases that it excludes.
#if defined(__GNUC__)
#define ACTPACK_ASSUME(condition) ((condition) ? void() : __builtin_unreachable())
#else
#define ACTPACK_ASSUME(condition) void()
#endif

// The stored bits are a promise about IEEE arithmetic: NaN compared as NaN, every operation rounded
// to its own type, in the order that is written. These are the macros by which compilers tell.
// Where clang has none, for -funsafe-math-optimizations, verbs find out
// (detail/float_environment.hpp); nvcc has none for --use_fast_math.
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "actpack: the packed format needs IEEE arithmetic; compile without -ffast-math"
#endif
#if defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__)
#error \
    "actpack: the packed format needs IEEE arithmetic; compile without -funsafe-math-optimizations, -fassociative-math and -freciprocal-math"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0 && __FLT_EVAL_METHOD__ != 16
#error "actpack: floats must be rounded to float; for 32-bit x86, compile with -msse2 -mfpmath=sse"
#endif
