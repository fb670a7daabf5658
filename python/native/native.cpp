// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// What the Python package calls: actpack's verbs behind plain C functions. It knows pointers and
// streams but no framework, so one build of it serves every version of PyTorch.

#include <algorithm>
#include <cstdint>
#include <exception>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "actpack/actpack.hpp"
#include "actpack/batch_norm.hpp"
#include "actpack/sign_keeping.hpp"

#ifdef ACTPACK_PYTHON_CUDA
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "actpack/cuda/batch_norm.hpp"
#include "actpack/cuda/mask.hpp"
#include "actpack/cuda/quantize.hpp"
#include "actpack/cuda/sign_keeping.hpp"
#include "actpack/cuda/sign_magnitude.hpp"
#endif

namespace {

namespace batch_norm = actpack::batch_norm;
using batch_norm::Operation;

// Values that share parameters: as many as batch_norm.hpp takes on a device.
constexpr std::int32_t group_size = 256;

enum class Form : std::int32_t { affine, sign_magnitude };
enum class Type : std::int32_t { float32, float16, bfloat16 };
enum class Part : std::int32_t { all, relu };

// One packed tensor, as _native.py declares it. `bytes` holds the planes one after the other:
// codes, then the signs (if the form has them), then the parameters of the groups.
struct Context {
  std::int64_t numel;
  Form form;
  std::int32_t bits;
  std::int32_t is_stochastic;
  std::uint64_t seed;
  std::uint64_t offset;
  std::uint8_t* bytes;
};

// Where the tensors of a call are, and who does the work: a stream, or so many threads.
struct Place {
  Type type;
  std::int32_t is_cuda;
  void* stream;
  std::int32_t threads;
};

class Planes {
 public:
  explicit Planes(const Context& context)
      : context_(context), layout_{.row_size = context.numel,
                                   .group_size = group_size,
                                   .bits = context.bits} {
    layout_.validate();
  }

  const actpack::Layout& layout() const { return layout_; }
  std::int64_t size_bytes() const { return params_at() + 4 * layout_.num_groups(); }
  bool has_signs() const { return context_.form == Form::sign_magnitude; }
  actpack::PackedView affine() const {
    return {layout_, words_at(0), reinterpret_cast<actpack::GroupParams*>(words_at(params_at()))};
  }
  actpack::SignMagnitudeView sign_magnitude() const {
    return {layout_, words_at(signs_at()), words_at(0),
            reinterpret_cast<actpack::SignMagnitudeParams*>(words_at(params_at()))};
  }
  // Calls call(view) with the view of the context's form.
  template <class Call>
  void with_view(const Call& call) const {
    if (has_signs()) {
      call(sign_magnitude());
    } else {
      call(affine());
    }
  }
  actpack::Rounding rounding() const {
    return context_.is_stochastic != 0
               ? actpack::Rounding::stochastic(context_.seed, context_.offset)
               : actpack::Rounding::nearest();
  }
  actpack::Decoding decoding(bool is_subtractive) const {
    return is_subtractive ? actpack::Decoding::subtractive(rounding()) : actpack::Decoding::plain();
  }

 private:
  // Each plane starts where the kernels' widest accesses may.
  static std::int64_t aligned(std::int64_t words) { return (4 * words + 15) / 16 * 16; }
  std::int64_t signs_at() const { return aligned(layout_.num_words()); }
  std::int64_t params_at() const {
    return signs_at() + (has_signs() ? aligned(layout_.with_bits(1).num_words()) : 0);
  }
  std::uint32_t* words_at(std::int64_t byte) const {
    return reinterpret_cast<std::uint32_t*>(context_.bytes + byte);
  }

  const Context& context_;
  actpack::Layout layout_;
};

// The caller's number of threads, for the host's verbs.
struct OpenMp {
  int threads;

  template <class Body>
  void operator()(std::int64_t count, const Body& body) const {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (std::int64_t i = 0; i < count; ++i) body(i);
  }
};

template <class T, class Bytes>
std::span<T> span_of(Bytes* x, std::int64_t numel) {
  return {static_cast<T*>(x), static_cast<std::size_t>(numel)};
}

template <class T>
struct HostVerbs {
  const Place& place;

  OpenMp loop() const { return {place.threads}; }

  void encode(const void* x, const Planes& to, std::int64_t numel) const {
    const std::span<const T> values = span_of<const T>(x, numel);
    if (to.has_signs()) {
      actpack::encode(values, to.sign_magnitude(), to.rounding(), loop());
    } else {
      actpack::quantize(values, to.affine(), to.rounding(), loop());
    }
  }
  void decode(const Planes& from, std::int64_t first, std::int64_t count, void* x, Part part,
              bool is_subtractive) const {
    const std::span<T> values = span_of<T>(x, count);
    const actpack::Decoding decoding = from.decoding(is_subtractive);
    if (!from.has_signs()) {
      actpack::dequantize(from.affine(), first, values, decoding, loop());
    } else if (part == Part::relu) {
      actpack::decode_relu(from.sign_magnitude(), first, values, decoding, loop());
    } else {
      actpack::decode(from.sign_magnitude(), first, values, decoding, loop());
    }
  }
  void decode_keeping_signs(const Planes& from, std::int64_t numel, void* x) const {
    actpack::decode_keeping_signs(from.sign_magnitude(), span_of<T>(x, numel), loop());
  }
  void apply_signs(const void* dy, const Planes& signs, std::int64_t numel, void* dx) const {
    actpack::relu_backward(span_of<const T>(dy, numel), signs.sign_magnitude(),
                           span_of<T>(dx, numel), loop());
  }
  void relu(const void* x, std::int64_t numel, void* y, std::uint32_t* mask) const {
    actpack::relu(span_of<const T>(x, numel), span_of<T>(y, numel), mask_of(mask, numel), loop());
  }
  void dropout(const void* x, std::int64_t numel, void* y, std::uint32_t* mask, double p,
               const actpack::Rounding& rounding) const {
    actpack::dropout(span_of<const T>(x, numel), span_of<T>(y, numel), mask_of(mask, numel), p,
                     rounding, 0, loop());
  }
  void apply_mask(const void* dy, const std::uint32_t* mask, std::int64_t numel, double p,
                  void* dx) const {
    actpack::dropout_backward(span_of<const T>(dy, numel), mask_of(mask, numel),
                              span_of<T>(dx, numel), p, loop());
  }
  void batch_norm(const Operation& operation, const void* x, const Planes& to, std::int64_t numel,
                  void* y) const {
    to.with_view([&](const auto& view) {
      batch_norm::forward(operation, span_of<const T>(x, numel), view, to.rounding(),
                          span_of<T>(y, numel), loop());
    });
  }
  void batch_norm_backward(const Operation& operation, const void* dz, const Planes& from,
                           std::int64_t numel, const actpack::Decoding& decoding,
                           std::int64_t elements, float*, float* gamma_gradient,
                           float* beta_gradient, void* dx) const {
    const auto read = [&](const auto& saved) {
      batch_norm::backward(operation, span_of<const T>(dz, numel), saved, elements, gamma_gradient,
                           beta_gradient, span_of<T>(dx, dx == nullptr ? 0 : numel), loop());
    };
    if (from.has_signs()) {
      read(batch_norm::SavedSigns{from.sign_magnitude(), decoding});
    } else {
      read(batch_norm::SavedCodes{from.affine(), decoding});
    }
  }
  static std::int64_t batch_norm_workspace(const Operation&, const Planes&) { return 0; }

 private:
  template <class Word>
  static std::span<Word> mask_of(Word* mask, std::int64_t numel) {
    return {mask, static_cast<std::size_t>(actpack::words_for(numel, 1))};
  }
};

#ifdef ACTPACK_PYTHON_CUDA
template <class T>
struct DeviceVerbs {
  const Place& place;

  cudaStream_t stream() const { return static_cast<cudaStream_t>(place.stream); }

  void encode(const void* x, const Planes& to, std::int64_t) const {
    if (to.has_signs()) {
      actpack::encode(static_cast<const T*>(x), to.sign_magnitude(), to.rounding(), stream());
    } else {
      actpack::quantize(static_cast<const T*>(x), to.affine(), to.rounding(), stream());
    }
  }
  void decode(const Planes& from, std::int64_t first, std::int64_t count, void* x, Part part,
              bool is_subtractive) const {
    T* const values = static_cast<T*>(x);
    const actpack::Decoding decoding = from.decoding(is_subtractive);
    if (!from.has_signs()) {
      actpack::dequantize(from.affine(), first, count, values, decoding, stream());
    } else if (part == Part::relu) {
      actpack::decode_relu(from.sign_magnitude(), first, count, values, decoding, stream());
    } else {
      actpack::decode(from.sign_magnitude(), first, count, values, decoding, stream());
    }
  }
  void decode_keeping_signs(const Planes& from, std::int64_t, void* x) const {
    actpack::decode_keeping_signs(from.sign_magnitude(), static_cast<T*>(x), stream());
  }
  void apply_signs(const void* dy, const Planes& signs, std::int64_t, void* dx) const {
    actpack::relu_backward(static_cast<const T*>(dy), signs.sign_magnitude(), static_cast<T*>(dx),
                           stream());
  }
  void relu(const void* x, std::int64_t numel, void* y, std::uint32_t* mask) const {
    actpack::relu(static_cast<const T*>(x), static_cast<T*>(y), mask, numel, stream());
  }
  void dropout(const void* x, std::int64_t numel, void* y, std::uint32_t* mask, double p,
               const actpack::Rounding& rounding) const {
    actpack::dropout(static_cast<const T*>(x), static_cast<T*>(y), mask, numel, p, rounding, 0,
                     stream());
  }
  void apply_mask(const void* dy, const std::uint32_t* mask, std::int64_t numel, double p,
                  void* dx) const {
    actpack::dropout_backward(static_cast<const T*>(dy), mask, static_cast<T*>(dx), numel, p,
                              stream());
  }
  void batch_norm(const Operation& operation, const void* x, const Planes& to, std::int64_t,
                  void* y) const {
    to.with_view([&](const auto& view) {
      batch_norm::forward(operation, static_cast<const T*>(x), view, to.rounding(),
                          static_cast<T*>(y), stream());
    });
  }
  void batch_norm_backward(const Operation& operation, const void* dz, const Planes& from,
                           std::int64_t, const actpack::Decoding& decoding, std::int64_t elements,
                           float* workspace, float* gamma_gradient, float* beta_gradient,
                           void* dx) const {
    from.with_view([&](const auto& view) {
      batch_norm::backward(operation, static_cast<const T*>(dz), view, decoding, elements,
                           workspace, gamma_gradient, beta_gradient, static_cast<T*>(dx), stream());
    });
  }
  static std::int64_t batch_norm_workspace(const Operation& operation, const Planes& planes) {
    return batch_norm::workspace_numel(operation, planes.layout());
  }
};
#endif

template <template <class> class Verbs, class Float16, class Bfloat16, class Call>
void with_type(const Place& place, const Call& call) {
  switch (place.type) {
    case Type::float32: return call(Verbs<float>{place});
    case Type::float16: return call(Verbs<Float16>{place});
    case Type::bfloat16: return call(Verbs<Bfloat16>{place});
  }
}

// Runs call(verbs) for the place's type and device. What it returns stays valid until the thread's
// next call: null, or what went wrong.
template <class Call>
const char* run(const Place& place, const Call& call) {
  thread_local std::string error;
  try {
    if (place.is_cuda == 0) {
      with_type<HostVerbs, actpack::float16, actpack::bfloat16>(place, call);
    } else {
#ifdef ACTPACK_PYTHON_CUDA
      with_type<DeviceVerbs, __half, __nv_bfloat16>(place, call);
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

// Bytes that a context takes, or -1 if there is none of that shape.
std::int64_t actpack_size_bytes(const Context* context) {
  try {
    return Planes(*context).size_bytes();
  } catch (const std::exception&) {
    return -1;
  }
}

const char* actpack_encode(const Place* place, const void* x, const Context* to) {
  return run(*place, [&](const auto& verbs) { verbs.encode(x, Planes(*to), to->numel); });
}

const char* actpack_decode(const Place* place, const Context* from, std::int64_t first,
                           std::int64_t count, void* x, std::int32_t part,
                           std::int32_t is_subtractive) {
  return run(*place, [&](const auto& verbs) {
    verbs.decode(Planes(*from), first, count, x, static_cast<Part>(part), is_subtractive != 0);
  });
}

// The whole of a sign-magnitude context, keeping signs.
const char* actpack_decode_keeping_signs(const Place* place, const Context* from, void* x) {
  return run(*place,
             [&](const auto& verbs) { verbs.decode_keeping_signs(Planes(*from), from->numel, x); });
}

const char* actpack_apply_signs(const Place* place, const void* dy, const Context* signs,
                                void* dx) {
  return run(*place,
             [&](const auto& verbs) { verbs.apply_signs(dy, Planes(*signs), signs->numel, dx); });
}

const char* actpack_relu(const Place* place, const void* x, std::int64_t numel, void* y,
                         std::uint32_t* mask) {
  return run(*place, [&](const auto& verbs) { verbs.relu(x, numel, y, mask); });
}

const char* actpack_dropout(const Place* place, const void* x, std::int64_t numel, void* y,
                            std::uint32_t* mask, double p, std::uint64_t seed,
                            std::uint64_t offset) {
  return run(*place, [&](const auto& verbs) {
    verbs.dropout(x, numel, y, mask, p, actpack::Rounding::stochastic(seed, offset));
  });
}

// dx = dy / (1 - p) where the mask is set, else 0.
const char* actpack_apply_mask(const Place* place, const void* dy, const std::uint32_t* mask,
                               std::int64_t numel, double p, void* dx) {
  return run(*place, [&](const auto& verbs) { verbs.apply_mask(dy, mask, numel, p, dx); });
}

// Batch normalisation: packs what operation->saved says, in sign-magnitude form if a ReLU stands
// behind it, and writes y, or max(y, 0). `y` may be `x`.
const char* actpack_batch_norm(const Place* place, const Operation* operation, const void* x,
                               const Context* to, void* y) {
  return run(*place, [&](const auto& verbs) {
    verbs.batch_norm(*operation, x, Planes(*to), to->numel, y);
  });
}

// The floats of memory that its backward pass needs.
const char* actpack_batch_norm_workspace(const Place* place, const Operation* operation,
                                         const Context* from, std::int64_t* numel) {
  return run(*place, [&](const auto& verbs) {
    *numel = verbs.batch_norm_workspace(*operation, Planes(*from));
  });
}

// `elements`: of a channel, or 0 where statistics do not depend on x. `dx` may be null.
const char* actpack_batch_norm_backward(const Place* place, const Operation* operation,
                                        const void* dz, const Context* from,
                                        std::int32_t is_subtractive, std::int64_t elements,
                                        float* workspace, float* gamma_gradient,
                                        float* beta_gradient, void* dx) {
  return run(*place, [&](const auto& verbs) {
    const Planes planes(*from);
    verbs.batch_norm_backward(*operation, dz, planes, from->numel,
                              planes.decoding(is_subtractive != 0), elements, workspace,
                              gamma_gradient, beta_gradient, dx);
  });
}

}  // extern "C"
