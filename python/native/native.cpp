// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The functions of native.h. Each checks its arguments, then calls a verb on the host or a device.
#include "native.h"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <new>
#include <type_traits>

#include "actpack/codes.hpp"
#include "actpack/config.hpp"
#include "actpack/float16.hpp"
#include "arguments.hpp"
#include "context.hpp"
#include "host_verbs.hpp"

#ifdef ACTPACK_PYTHON_CUDA
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "device_verbs.hpp"
#endif

using namespace actpack_python;

namespace {

thread_local char sentence[1024];  // what went wrong; an allocation could fail as well

// Runs call(). Returns null, or what went wrong.
template <class Call>
const char* guard(const Call& call) noexcept {
  try {
    call();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return "actpack: out of memory";
  } catch (const std::exception& failure) {
    std::snprintf(sentence, sizeof sentence, "%s", failure.what());
    return sentence;
  } catch (...) {
    return "actpack: an unknown exception";
  }
}

template <template <class> class Verbs, class Float16, class Bfloat16, class Call>
void with_type(const actpack_execution& execution, const Call& call) {
  switch (execution.type) {
    case ACTPACK_TYPE_FLOAT32: return call(Verbs<float>{execution});
    case ACTPACK_TYPE_FLOAT16: return call(Verbs<Float16>{execution});
    case ACTPACK_TYPE_BFLOAT16: return call(Verbs<Bfloat16>{execution});
    default:
      refuse_unless(false, "execution.type = ", execution.type,
                    " is neither float32, 0, nor float16, 1, nor bfloat16, 2");
  }
}

// Runs call(verbs) for the execution's type and device.
template <class Call>
const char* run(const actpack_execution* pointer, const Call& call) {
  return guard([&] {
    const actpack_execution& execution = require_struct("execution", pointer);
    require_flag("execution.is_cuda", execution.is_cuda);
    refuse_unless(execution.threads > 0, "execution.threads = ", execution.threads,
                  " is not positive");
    if (execution.is_cuda == 0) {
      with_type<HostVerbs, actpack::float16, actpack::bfloat16>(execution, call);
    } else {
#ifdef ACTPACK_PYTHON_CUDA
      with_type<DeviceVerbs, __half, __nv_bfloat16>(execution, call);
#else
      refuse_unless(false, "execution.is_cuda = 1, but this build has no device code");
#endif
    }
  });
}

// Refuses an array of the verbs' element type that is missing or misaligned.
template <class Verbs>
void require_values(const Verbs&, const char* name, const void* values, std::int64_t numel) {
  require_array(name, values, numel, alignof(typename Verbs::Value));
}

void require_mask(const std::uint32_t* mask, std::int64_t numel) {
  require_array("mask", mask, actpack::words_for(numel, 1), alignof(std::uint32_t));
}

void require_floats(const char* name, const float* array, const Operation& operation) {
  require_array(name, array, operation.channels.count, alignof(float));
}

void require_by_channel(const Operation& operation) {
  require_array("operation.by_channel", operation.by_channel, operation.channels.count,
                alignof(batch_norm::Channel));
}

}  // namespace

extern "C" {

std::int32_t actpack_version() { return ACTPACK_VERSION; }

std::int32_t actpack_has_cuda() {
#ifdef ACTPACK_PYTHON_CUDA
  return 1;
#else
  return 0;
#endif
}

const char* actpack_check_sizes(std::int64_t execution, std::int64_t context,
                                std::int64_t normalization) {
  return guard([&] {
    const auto check = [](const char* name, std::int64_t of_caller, std::size_t own) {
      refuse_unless(of_caller == static_cast<std::int64_t>(own), name, " = ", of_caller,
                    " bytes for the caller's struct, but this library's takes ", own);
    };
    check("execution", execution, sizeof(actpack_execution));
    check("context", context, sizeof(actpack_context));
    check("normalization", normalization, sizeof(actpack_normalization));
  });
}

const char* actpack_size_bytes(const actpack_context* context, std::int64_t* size) {
  return guard([&] {
    const Planes planes(context);
    require_array("size", size, 1, alignof(std::int64_t));
    *size = planes.size_bytes();
  });
}

const char* actpack_encode(const actpack_execution* execution, const void* x,
                           const actpack_context* to) {
  return run(execution, [&](const auto& verbs) {
    const Planes planes = Planes::in_memory(to);
    require_values(verbs, "x", x, planes.numel());
    verbs.encode(x, planes);
  });
}

const char* actpack_decode(const actpack_execution* execution, const actpack_context* from,
                           std::int64_t first, std::int64_t count, void* x, std::int32_t decode_as,
                           std::int32_t is_subtractive) {
  return run(execution, [&](const auto& verbs) {
    const Planes planes = Planes::in_memory(from);
    refuse_unless(
        first >= 0 && first <= planes.numel() && count >= 0 && count <= planes.numel() - first,
        "first = ", first, " and count = ", count, " exceed context.numel = ", planes.numel());
    require_values(verbs, "x", x, count);
    refuse_unless(decode_as == ACTPACK_DECODE_VALUES || decode_as == ACTPACK_DECODE_RELU,
                  "decode_as = ", decode_as, " is neither values, 0, nor max(values, 0), 1");
    refuse_unless(decode_as == ACTPACK_DECODE_VALUES || planes.has_signs(),
                  "decode_as = ", decode_as,
                  " is max(values, 0), which an affine context does not decode to");
    require_flag("is_subtractive", is_subtractive);
    verbs.decode(planes, first, count, x, decode_as, is_subtractive != 0);
  });
}

const char* actpack_decode_keeping_signs(const actpack_execution* execution,
                                         const actpack_context* from, void* x) {
  return run(execution, [&](const auto& verbs) {
    const Planes planes = Planes::with_signs(from);
    require_values(verbs, "x", x, planes.numel());
    verbs.decode_keeping_signs(planes, x);
  });
}

const char* actpack_apply_signs(const actpack_execution* execution, const void* dy,
                                const actpack_context* signs, void* dx) {
  return run(execution, [&](const auto& verbs) {
    const Planes planes = Planes::with_signs(signs);
    require_values(verbs, "dy", dy, planes.numel());
    require_values(verbs, "dx", dx, planes.numel());
    verbs.apply_signs(dy, planes, dx);
  });
}

const char* actpack_relu(const actpack_execution* execution, const void* x, std::int64_t numel,
                         void* y, std::uint32_t* mask) {
  return run(execution, [&](const auto& verbs) {
    require_numel("numel", numel);
    require_values(verbs, "x", x, numel);
    require_values(verbs, "y", y, numel);
    require_mask(mask, numel);
    verbs.relu(x, numel, y, mask);
  });
}

const char* actpack_dropout(const actpack_execution* execution, const void* x, std::int64_t numel,
                            void* y, std::uint32_t* mask, double drop_probability,
                            std::uint64_t seed, std::uint64_t offset) {
  return run(execution, [&](const auto& verbs) {
    require_numel("numel", numel);
    require_values(verbs, "x", x, numel);
    require_values(verbs, "y", y, numel);
    require_mask(mask, numel);
    verbs.dropout(x, numel, y, mask, drop_probability, actpack::Rounding::stochastic(seed, offset));
  });
}

const char* actpack_apply_mask(const actpack_execution* execution, const void* dy,
                               const std::uint32_t* mask, std::int64_t numel,
                               double drop_probability, void* dx) {
  return run(execution, [&](const auto& verbs) {
    require_numel("numel", numel);
    require_values(verbs, "dy", dy, numel);
    require_values(verbs, "dx", dx, numel);
    require_mask(mask, numel);
    verbs.apply_mask(dy, mask, numel, drop_probability, dx);
  });
}

const char* actpack_batch_norm(const actpack_execution* execution,
                               const actpack_normalization* operation, const void* x,
                               const actpack_context* to, void* y) {
  return run(execution, [&](const auto& verbs) {
    const Planes planes = Planes::in_memory(to);
    const Operation normalization = make_operation(operation, *to);
    require_floats("operation.mean", normalization.mean, normalization);
    require_floats("operation.variance", normalization.variance, normalization);
    require_aligned("operation.gamma", normalization.gamma, alignof(float));
    require_aligned("operation.beta", normalization.beta, alignof(float));
    require_by_channel(normalization);
    require_values(verbs, "x", x, planes.numel());
    require_values(verbs, "y", y, planes.numel());
    verbs.batch_norm(normalization, x, planes, y);
  });
}

const char* actpack_batch_norm_workspace(const actpack_execution* execution,
                                         const actpack_normalization* operation,
                                         const actpack_context* from, std::int64_t* numel) {
  return run(execution, [&](const auto& verbs) {
    const Planes planes(from);
    const Operation normalization = make_operation(operation, *from);
    require_array("numel", numel, 1, alignof(std::int64_t));
    *numel = verbs.batch_norm_workspace(normalization, planes);
  });
}

const char* actpack_batch_norm_backward(const actpack_execution* execution,
                                        const actpack_normalization* operation, const void* dz,
                                        const actpack_context* from, std::int32_t is_subtractive,
                                        std::int64_t elements, float* workspace,
                                        float* gamma_gradient, float* beta_gradient, void* dx) {
  return run(execution, [&](const auto& verbs) {
    const Planes planes = Planes::in_memory(from);
    const Operation normalization = make_operation(operation, *from);
    const std::int64_t in_a_channel = planes.numel() / normalization.channels.count;
    require_by_channel(normalization);
    require_values(verbs, "dz", dz, planes.numel());
    require_flag("is_subtractive", is_subtractive);
    refuse_unless(elements == 0 || elements == in_a_channel, "elements = ", elements,
                  " is neither 0 nor a channel's ", in_a_channel);
    require_array("workspace", workspace, verbs.batch_norm_workspace(normalization, planes),
                  Planes::alignment);
    require_floats("gamma_gradient", gamma_gradient, normalization);
    require_floats("beta_gradient", beta_gradient, normalization);
    require_aligned("dx", dx, alignof(typename std::decay_t<decltype(verbs)>::Value));
    verbs.batch_norm_backward(normalization, dz, planes, planes.decoding(is_subtractive != 0),
                              elements, workspace, gamma_gradient, beta_gradient, dx);
  });
}

}  // extern "C"
