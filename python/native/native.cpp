// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The Python package's C functions over the library's verbs. They know pointers and streams but no
// framework, so one build serves every version of PyTorch.
#include <cstdint>
#include <exception>
#include <string>

#include "actpack/config.hpp"
#include "actpack/float16.hpp"
#include "context.hpp"
#include "host_verbs.hpp"

#ifdef ACTPACK_PYTHON_CUDA
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "device_verbs.hpp"
#endif

using namespace actpack_python;

namespace {

template <template <class> class Verbs, class Float16, class Bfloat16, class Call>
void with_type(const Execution& execution, const Call& call) {
  switch (execution.type) {
    case Type::float32: return call(Verbs<float>{execution});
    case Type::float16: return call(Verbs<Float16>{execution});
    case Type::bfloat16: return call(Verbs<Bfloat16>{execution});
  }
}

// Runs call(verbs) for the execution's type and device. Returns null, or an error message that
// stays valid until the thread's next call.
template <class Call>
const char* run(const Execution& execution, const Call& call) {
  thread_local std::string error;
  try {
    if (execution.is_cuda == 0) {
      with_type<HostVerbs, actpack::float16, actpack::bfloat16>(execution, call);
    } else {
#ifdef ACTPACK_PYTHON_CUDA
      with_type<DeviceVerbs, __half, __nv_bfloat16>(execution, call);
#else
      error = "actpack: this build has no device code";
      return error.c_str();
#endif
    }
  } catch (const std::exception& failure) {
    error = failure.what();
    return error.c_str();
  }
  return nullptr;
}

}  // namespace

extern "C" {

int actpack_version() { return ACTPACK_VERSION; }

int actpack_has_cuda() {
#ifdef ACTPACK_PYTHON_CUDA
  return 1;
#else
  return 0;
#endif
}

// Returns the bytes that a context takes, or -1 if its shape is not valid.
std::int64_t actpack_size_bytes(const Context* context) {
  try {
    return Planes(*context).size_bytes();
  } catch (const std::exception&) {
    return -1;
  }
}

const char* actpack_encode(const Execution* execution, const void* x, const Context* to) {
  return run(*execution, [&](const auto& verbs) { verbs.encode(x, Planes(*to), to->numel); });
}

const char* actpack_decode(const Execution* execution, const Context* from, std::int64_t first,
                           std::int64_t count, void* x, std::int32_t decode_as,
                           std::int32_t is_subtractive) {
  return run(*execution, [&](const auto& verbs) {
    verbs.decode(Planes(*from), first, count, x, static_cast<DecodeAs>(decode_as),
                 is_subtractive != 0);
  });
}

// Decodes all of a sign-magnitude context; positive values stay positive.
const char* actpack_decode_keeping_signs(const Execution* execution, const Context* from, void* x) {
  return run(*execution,
             [&](const auto& verbs) { verbs.decode_keeping_signs(Planes(*from), from->numel, x); });
}

// dx = dy where the context has y > 0, else 0.
const char* actpack_apply_signs(const Execution* execution, const void* dy, const Context* signs,
                                void* dx) {
  return run(*execution,
             [&](const auto& verbs) { verbs.apply_signs(dy, Planes(*signs), signs->numel, dx); });
}

const char* actpack_relu(const Execution* execution, const void* x, std::int64_t numel, void* y,
                         std::uint32_t* mask) {
  return run(*execution, [&](const auto& verbs) { verbs.relu(x, numel, y, mask); });
}

const char* actpack_dropout(const Execution* execution, const void* x, std::int64_t numel, void* y,
                            std::uint32_t* mask, double p, std::uint64_t seed,
                            std::uint64_t offset) {
  return run(*execution, [&](const auto& verbs) {
    verbs.dropout(x, numel, y, mask, p, actpack::Rounding::stochastic(seed, offset));
  });
}

// dx = dy / (1 - p) where the mask is set, else 0.
const char* actpack_apply_mask(const Execution* execution, const void* dy,
                               const std::uint32_t* mask, std::int64_t numel, double p, void* dx) {
  return run(*execution, [&](const auto& verbs) { verbs.apply_mask(dy, mask, numel, p, dx); });
}

// Normalises and writes y, or max(y, 0) if `to` is a sign-magnitude context, and packs x or y, as
// operation->saved says. `y` may be `x`.
const char* actpack_batch_norm(const Execution* execution, const Operation* operation,
                               const void* x, const Context* to, void* y) {
  return run(*execution, [&](const auto& verbs) {
    verbs.batch_norm(*operation, x, Planes(*to), to->numel, y);
  });
}

// Writes the number of floats that the backward pass needs as its workspace.
const char* actpack_batch_norm_workspace(const Execution* execution, const Operation* operation,
                                         const Context* from, std::int64_t* numel) {
  return run(*execution, [&](const auto& verbs) {
    *numel = verbs.batch_norm_workspace(*operation, Planes(*from));
  });
}

// Writes the gradients of gamma, of beta, and of x unless `dx` is null. `elements`: of a channel,
// or 0 where the statistics do not depend on x.
const char* actpack_batch_norm_backward(const Execution* execution, const Operation* operation,
                                        const void* dz, const Context* from,
                                        std::int32_t is_subtractive, std::int64_t elements,
                                        float* workspace, float* gamma_gradient,
                                        float* beta_gradient, void* dx) {
  return run(*execution, [&](const auto& verbs) {
    const Planes planes(*from);
    verbs.batch_norm_backward(*operation, dz, planes, from->numel,
                              planes.decoding(is_subtractive != 0), elements, workspace,
                              gamma_gradient, beta_gradient, dx);
  });
}

}  // extern "C"
