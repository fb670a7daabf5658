// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The arithmetic that host verbs rely on: that of IEEE 754, in its default environment. Neither is
// a matter of course: a plug-in that was linked with -ffast-math makes a whole program flush
// subnormals, and flags that no macro tells of let a compiler reorder sums.
#pragma once

#include "actpack/config.hpp"
#include "actpack/detail/float_bits.hpp"
#include "actpack/detail/require.hpp"

#if defined(__GNUC__) && (defined(__SSE2_MATH__) || defined(__aarch64__))
#include <cstdint>
#else
#include <cfenv>
#endif

namespace actpack::detail::inline ACTPACK_TARGET {

/// While it lives, this thread rounds to nearest, keeps subnormals and does not trap. Afterwards
/// the thread has its own environment again, exception flags included.
class DefaultFloatEnvironment {
 public:
  DefaultFloatEnvironment() {
    callers_.read();
    State::set_default();
  }
  ~DefaultFloatEnvironment() { callers_.write(); }
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

 private:
  // The clobbered memory keeps loads and stores on their side of a change.
#if defined(__GNUC__) && defined(__SSE2_MATH__)
  struct State {
    std::uint32_t control_and_status = 0x1F80;  // exceptions masked, none raised

    void read() { __asm__ volatile("stmxcsr %0" : "=m"(control_and_status) : : "memory"); }
    void write() const { __asm__ volatile("ldmxcsr %0" : : "m"(control_and_status) : "memory"); }
    static void set_default() { State{}.write(); }
  };
#elif defined(__GNUC__) && defined(__aarch64__)
  struct State {
    std::uint64_t control = 0, status = 0;

    void read() {
      __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(control), "=r"(status) : : "memory");
    }
    void write() const {
      __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(control), "r"(status) : "memory");
    }
    static void set_default() { State{}.write(); }
  };
#else
  struct State {
    std::fenv_t environment;

    void read() { std::fegetenv(&environment); }
    void write() const { std::fesetenv(&environment); }
    static void set_default() { std::fesetenv(FE_DFL_ENV); }
  };
#endif

  State callers_;
};

/// Returns f(). Compiled apart, so that no arithmetic moves out of it.
template <class F>
ACTPACK_NOINLINE auto call_apart(F& f) {
  return f();
}

/// Returns f(), computed in the default floating-point environment.
template <class F>
auto in_default_float_environment(F&& f) {
  const DefaultFloatEnvironment environment;
  return call_apart(f);
}

/// Whether sums keep their order and zeros their sign, quotients are none by reciprocals, and
/// constants keep their precision.
inline bool has_ieee_arithmetic() {
  return in_default_float_environment([] {
    volatile float large = 0x1p24f, one = 1, minus_zero = -0.0f;
    volatile double five = 5;
    const float augend = large;
    const float sum = augend + one;  // rounds to even
    return sum - augend == 0 && bits_of(minus_zero + 0.0f) == 0 && five / 3 == 5.0 / 3 &&
           0.1 != static_cast<double>(0.1f);
  });
}

/// Refuses to compute without. (actpack::host is compiled with flags of its own.)
inline void require_ieee_arithmetic() {
#if !ACTPACK_EXTERN_KERNELS
  static const bool has_it = has_ieee_arithmetic();
  refuse_unless(has_it,
                "this program was compiled with flags that break IEEE arithmetic, such as "
                "-funsafe-math-optimizations");
#endif
}

}  // namespace actpack::detail
