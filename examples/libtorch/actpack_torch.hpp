// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// libtorch with its saved activations in about three bits. A scope packs whatever autograd saves
// for an unmodified model:
//
//   const CompressSavedTensors scope(*model);    // for this thread, until the scope ends
//   loss_of(model->forward(x)).backward();
//
// A chain of convolution – batch norm – ReLU blocks keeps one context for all three, half of that:
//
//   CompressedChain chain(std::vector{ConvBatchNormReLU(conv2d_options, /*is_pooled=*/true), …});
//
// From top to bottom: options, packed tensors, the scope, the chain.
#pragma once

#include <torch/torch.h>

#include <ATen/Parallel.h>
#include <ATen/SequenceNumber.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/saved_variable_hooks.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

#include "actpack/batch_norm.hpp"
#include "actpack/bit_pack.hpp"
#include "actpack/mask.hpp"
#include "actpack/quantize.hpp"
#include "actpack/sign_keeping.hpp"
#include "actpack/sign_magnitude.hpp"

namespace actpack_torch {

struct Options {
  int bits = 2;                   // of a magnitude: 1, 2, 4 or 8; its sign takes one more
  std::int32_t group_size = 256;  // values that share two scales, a multiple of 32
  std::uint64_t seed = 0;         // of the noise
  std::uint64_t step = 0;         // the first one: of a resumed run, or of a scope for one step
  std::int64_t min_numel = 1024;  // of the scope: smaller tensors stay as they are
};

// ---- Tensors as actpack sees them ---------------------------------------------------------------

// What an error calls a tensor: "Float [8, 16, 4, 4], output of ReluBackward0".
inline std::string describe(const at::Tensor& tensor) {
  const auto& node = tensor.grad_fn();
  return c10::str(tensor.scalar_type(), " ", tensor.sizes(), ", ",
                  node ? "output of " + node->name() : "a leaf");
}

// The host verbs' loop, on torch's own threads.
inline constexpr auto torch_threads = [](std::int64_t count, const auto& body) {
  at::parallel_for(0, count, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      body(i);
    }
  });
};

// A dense tensor's values in the order of memory, whatever its strides.
template <class T>
std::span<T> values_of(const at::Tensor& tensor) {
  return {static_cast<T*>(tensor.data_ptr()), static_cast<std::size_t>(tensor.numel())};
}

inline bool is_element(at::ScalarType type) {
  return type == at::kFloat || type == at::kHalf || type == at::kBFloat16;
}

// Calls f(value of the library's element type), where is_element().
template <class F>
void dispatch_element(at::ScalarType type, F f) {
  switch (type) {
    case at::kHalf: return f(actpack::float16{});
    case at::kBFloat16: return f(actpack::bfloat16{});
    default: return f(float{});
  }
}

// Calls f(unsigned integer of `size` bytes).
template <class F>
void dispatch_pattern(std::size_t size, F f) {
  switch (size) {
    case 1: return f(std::uint8_t{});
    case 2: return f(std::uint16_t{});
    case 4: return f(std::uint32_t{});
    default: return f(std::uint64_t{});
  }
}

inline actpack::Layout flat_layout(std::int64_t numel, const Options& options) {
  actpack::Layout layout{.row_size = numel};
  layout.group_size = options.group_size;
  layout.bits = options.bits;
  layout.validate();
  return layout;
}

// Who draws noise: no two draw the same, whatever the seed.
enum class Origin : std::uint64_t { chain, scope, hand };

inline actpack::Rounding noise(const Options& options, Origin origin, std::uint64_t step,
                               std::uint64_t number) {
  return actpack::Rounding::stochastic(
      options.seed, static_cast<std::uint64_t>(origin) << 62 | step << 32 | number);
}

// The words of a packed tensor: a bit for each value, its code, and the parameters of every group.
// They live in a tensor of bytes, so that torch's allocator owns and counts them.
struct Words {
  std::uint32_t* signs;
  std::uint32_t* codes;
  std::uint32_t* params;

  Words(const actpack::Layout& layout, const at::Tensor& bytes)
      : signs(static_cast<std::uint32_t*>(bytes.data_ptr())),
        codes(signs + layout.with_bits(1).num_words()), params(codes + layout.num_words()) {}

  static at::Tensor make(const actpack::Layout& layout) {
    const std::int64_t words =
        layout.with_bits(1).num_words() + layout.num_words() + layout.num_groups();
    return at::empty({4 * words}, at::kByte);
  }
};

inline actpack::SignMagnitudeView sign_magnitude_view(const actpack::Layout& layout,
                                                      const at::Tensor& bytes) {
  const Words words(layout, bytes);
  return {layout, words.signs, words.codes,
          reinterpret_cast<actpack::SignMagnitudeParams*>(words.params)};
}

// ---- Packed tensors -----------------------------------------------------------------------------

// The values of a dense tensor in the order of memory, packed.
class PackedValues {
 public:
  virtual ~PackedValues() = default;
  virtual at::Tensor unpack() const = 0;  // flat
};

// Floating-point values as exact signs and rounded magnitudes.
class SignMagnitudeValues final : public PackedValues {
 public:
  SignMagnitudeValues(const at::Tensor& dense, const actpack::Layout& layout,
                      actpack::Rounding rounding)
      : type_(dense.scalar_type()), layout_(layout), bytes_(Words::make(layout)) {
    dispatch_element(type_, [&](auto element) {
      const std::span<const decltype(element)> values = values_of<decltype(element)>(dense);
      actpack::encode(values, sign_magnitude_view(layout_, bytes_), rounding, torch_threads);
    });
  }

  at::Tensor unpack() const override {
    at::Tensor flat = at::empty({layout_.numel()}, type_);
    dispatch_element(type_, [&](auto element) {
      const std::span<decltype(element)> values = values_of<decltype(element)>(flat);
      actpack::decode_keeping_signs(sign_magnitude_view(layout_, bytes_), values, torch_threads);
    });
    return flat;
  }

 private:
  at::ScalarType type_;
  actpack::Layout layout_;
  at::Tensor bytes_;
};

// Values that are all of the form base + step · code, as bit patterns, with a small code: integers
// of a narrow range (pooling indices), booleans, and floating-point tensors of at most two values
// (dropout's mask). Exact.
class ExactValues final : public PackedValues {
 public:
  // Null where this does not take fewer bits than the tensor itself.
  static std::shared_ptr<const PackedValues> pack(const at::Tensor& dense) {
    std::shared_ptr<ExactValues> packed;
    dispatch_pattern(dense.element_size(), [&](auto pattern) {
      using Pattern = decltype(pattern);
      const std::span<const Pattern> patterns = values_of<Pattern>(dense);
      const std::optional<Code> code =
          dense.is_floating_point() ? two_values(patterns) : integer_range(patterns);
      if (code && code->width < 8 * static_cast<int>(sizeof(Pattern))) {
        packed.reset(new ExactValues(dense.scalar_type(), dense.numel(), *code));
        packed->write(patterns);
      }
    });
    return packed;
  }

  at::Tensor unpack() const override {
    at::Tensor flat = at::empty({numel_}, type_);
    dispatch_pattern(flat.element_size(), [&](auto pattern) {
      auto* const patterns = values_of<decltype(pattern)>(flat).data();
      const std::uint64_t* const words = words64();
      const std::uint64_t mask = (std::uint64_t{1} << code_.width) - 1;
      for (std::int64_t e = 0; e < numel_; ++e) {
        const Place place = place_of(e);
        std::uint64_t code = words[place.word] >> place.shift;
        if (place.shift + code_.width > 64) {
          code |= words[place.word + 1] << (64 - place.shift);
        }
        patterns[e] = static_cast<decltype(pattern)>(code_.base + code_.step * (code & mask));
      }
    });
    return flat;
  }

 private:
  struct Code {
    std::uint64_t base;  // like step, modulo the pattern's size
    std::uint64_t step;
    int width;  // less than the pattern's: 0 to 63 bits
  };
  struct Place {
    std::int64_t word;
    int shift;
  };

  template <class Pattern>
  static std::optional<Code> integer_range(std::span<const Pattern> patterns) {
    const auto as_signed = [](Pattern value) {
      return static_cast<std::make_signed_t<Pattern>>(value);
    };
    const auto [least, most] = std::ranges::minmax(patterns, {}, as_signed);
    const Pattern range = static_cast<Pattern>(most - least);
    return Code{least, 1, static_cast<int>(std::bit_width(range))};
  }

  template <class Pattern>
  static std::optional<Code> two_values(std::span<const Pattern> patterns) {
    const Pattern base = patterns[0];
    const auto is_other = [&](Pattern value) { return value != base; };
    const auto other = std::ranges::find_if(patterns, is_other);
    if (other == patterns.end()) {
      return Code{base, 0, 0};
    }
    const bool are_two = std::all_of(
        other, patterns.end(), [&](Pattern value) { return value == base || value == *other; });
    return are_two ? std::optional(Code{base, std::uint64_t{*other} - base, 1}) : std::nullopt;
  }

  ExactValues(at::ScalarType type, std::int64_t numel, Code code)
      : type_(type), numel_(numel), code_(code),
        words_(at::zeros({(numel * code.width + 63) / 64 + 1}, at::kLong)) {}

  template <class Pattern>
  void write(std::span<const Pattern> patterns) {
    std::uint64_t* const words = words64();
    for (std::int64_t e = 0; e < numel_; ++e) {
      const Pattern distance = static_cast<Pattern>(patterns.data()[e] - code_.base);
      const std::uint64_t code = code_.width == 1 ? distance != 0 : distance;
      const Place place = place_of(e);
      words[place.word] |= code << place.shift;
      if (place.shift + code_.width > 64) {
        words[place.word + 1] |= code >> (64 - place.shift);
      }
    }
  }

  std::uint64_t* words64() const { return static_cast<std::uint64_t*>(words_.data_ptr()); }
  Place place_of(std::int64_t element) const {
    const std::int64_t bit = element * code_.width;
    return {bit / 64, static_cast<int>(bit % 64)};
  }

  at::ScalarType type_;
  std::int64_t numel_;
  Code code_;
  at::Tensor words_;
};

// A packed tensor with its shape back on.
class PackedTensor {
 public:
  PackedTensor() = default;
  PackedTensor(std::shared_ptr<const PackedValues> values, const at::Tensor& dense)
      : values_(std::move(values)), sizes_(dense.sizes().vec()), strides_(dense.strides().vec()) {}

  explicit operator bool() const { return values_ != nullptr; }
  at::Tensor unpack() const {
    const at::NoGradGuard no_grad;
    return values_->unpack().as_strided(sizes_, strides_);
  }

 private:
  std::shared_ptr<const PackedValues> values_;
  std::vector<std::int64_t> sizes_;
  std::vector<std::int64_t> strides_;
};

// Packs an activation by hand, for an autograd function of one's own. `number` must differ for
// every tensor of every step. Throws c10::Error, naming the tensor, for what cannot or must not be
// packed.
inline PackedTensor pack(const at::Tensor& tensor, const Options& options, std::uint64_t number) {
  TORCH_CHECK(!tensor.is_leaf() || !tensor.requires_grad(), "actpack: ", describe(tensor),
              ", is a parameter: parameters stay in full precision");
  TORCH_CHECK(tensor.device().is_cpu() && tensor.layout() == at::kStrided,
              "actpack: ", describe(tensor), ", is ", tensor.layout(), " on ", tensor.device(),
              ": only strided tensors of the CPU can be packed");
  TORCH_CHECK(is_element(tensor.scalar_type()), "actpack: ", describe(tensor),
              ": only Float, Half and BFloat16 can be packed");
  const at::NoGradGuard no_grad;
  const at::Tensor dense =
      tensor.is_non_overlapping_and_dense() ? tensor.detach() : tensor.contiguous();
  return {std::make_shared<SignMagnitudeValues>(dense, flat_layout(dense.numel(), options),
                                                noise(options, Origin::hand, options.step, number)),
          dense};
}

// ---- The scope: every tensor that autograd saves ------------------------------------------------

// Packs what one thread's autograd saves, each part of a storage once.
class Packer {
 public:
  Packer(const std::vector<at::Tensor>& kept, const Options& options) : options_(options) {
    flat_layout(0, options);  // refuses wrong widths and group sizes here, not in a forward pass
    for (const at::Tensor& tensor : kept) {
      kept_.insert(tensor.storage().unsafeGetStorageImpl());
    }
  }

  // Empty if the tensor is to be kept as it is.
  PackedTensor pack(const at::Tensor& tensor) {
    if (!may_be_packed(tensor)) {
      return {};
    }
    const at::Tensor dense =
        tensor.is_non_overlapping_and_dense() ? tensor.detach() : tensor.contiguous();
    const Region region{dense.storage().unsafeGetStorageImpl(), dense.storage_offset(),
                        dense.numel(), dense.scalar_type(), dense._version()};
    std::erase_if(entries_, [](const Entry& entry) {
      return entry.storage.expired() || entry.values.expired();
    });
    const auto known = std::ranges::find(entries_, region, &Entry::region);
    if (known != entries_.end()) {
      return {known->values.lock(), dense};
    }
    std::shared_ptr<const PackedValues> values = ExactValues::pack(dense);
    if (values == nullptr && is_element(dense.scalar_type()) && !is_callers_own(tensor)) {
      values = std::make_shared<SignMagnitudeValues>(
          dense, flat_layout(dense.numel(), options_),
          noise(options_, Origin::scope, options_.step, number_++));
    }
    if (values == nullptr) {
      return {};
    }
    entries_.push_back({dense.storage().getWeakStorageImpl(), region, values});
    return {std::move(values), dense};
  }

 private:
  // What two tensors that are equal in memory agree in.
  struct Region {
    const c10::StorageImpl* storage;
    std::int64_t offset;
    std::int64_t numel;
    at::ScalarType type;
    std::int64_t version;
    bool operator==(const Region&) const = default;
  };
  // While an entry has its weak pointer, no other storage can have that address.
  struct Entry {
    c10::weak_intrusive_ptr<c10::StorageImpl> storage;
    Region region;
    std::weak_ptr<const PackedValues> values;
  };

  bool may_be_packed(const at::Tensor& tensor) const {
    const at::ScalarType type = tensor.scalar_type();
    if (tensor.numel() < options_.min_numel || !tensor.device().is_cpu() ||
        tensor.layout() != at::kStrided || tensor.is_neg() || at::isComplexType(type) ||
        at::isQIntType(type) || type == at::kByte || type == at::kChar) {
      return false;
    }
    const bool is_expanded = static_cast<std::size_t>(tensor.numel()) * tensor.element_size() >
                             tensor.storage().nbytes();
    return !is_expanded && !kept_.contains(tensor.storage().unsafeGetStorageImpl()) &&
           !(is_callers_own(tensor) && base_of(tensor).requires_grad()) &&
           !is_result_to_keep(tensor);
  }

  // A node that saves its own result (exp, sigmoid, softmax) computes from it what is not linear in
  // it, and noise would bias that; only of a ReLU's result the signs are all that counts. The node
  // that saves a tensor is the newest one: if that also made the tensor, it is its result.
  static bool is_result_to_keep(const at::Tensor& tensor) {
    const auto& node = tensor.grad_fn();
    return node && node->sequence_nr() + 1 == at::sequence_number::peek() &&
           node->name().rfind("ReluBackward", 0) != 0;
  }

  // Leaves are the caller's: parameters and data, which somebody else holds anyway. But so is what
  // an operation made without a gradient, such as dropout's mask: whatever ExactValues takes is
  // packed.
  static bool is_callers_own(const at::Tensor& tensor) { return base_of(tensor).is_leaf(); }
  static const at::TensorBase& base_of(const at::Tensor& tensor) {
    return tensor.is_view() ? tensor._base() : tensor;
  }

  Options options_;
  std::unordered_set<const c10::StorageImpl*> kept_;
  std::vector<Entry> entries_;
  std::uint64_t number_ = 0;
};

// One tensor that autograd saved.
class SavedTensor final : public torch::autograd::SavedVariableHooks {
 public:
  explicit SavedTensor(std::shared_ptr<Packer> packer) : packer_(std::move(packer)) {}

  void call_pack_hook(const at::Tensor& tensor) override {
    name_ = describe(tensor);
    counter_ = torch::autograd::impl::version_counter(tensor);
    version_ = counter_.current_version();
    packed_ = packer_->pack(tensor);
    if (!packed_) {
      kept_ = tensor.detach();  // without the graph, which would hold itself
    }
    packer_ = nullptr;
  }

  // Where there are hooks, autograd leaves it to them to see that nobody changed the tensor.
  at::Tensor call_unpack_hook() override {
    TORCH_CHECK(counter_.current_version() == version_, "actpack: ", name_,
                ", was changed in place after autograd had saved it: it is at version ",
                counter_.current_version(), ", saved was version ", version_);
    return packed_ ? packed_.unpack() : kept_;
  }

 private:
  std::shared_ptr<Packer> packer_;  // until the tensor is packed
  std::string name_;
  c10::VariableVersion counter_;
  std::uint32_t version_ = 0;
  PackedTensor packed_;
  at::Tensor kept_;
};

// While one lives, what autograd saves in this thread is packed: activations as SignMagnitudeValues
// (at 2 bits 3.125 a value), pooling indices, booleans and dropout's masks exactly; parameters,
// buffers, the caller's data, small tensors and the results that others than a ReLU save of their
// own (exp, sigmoid, softmax) stay. Gradients are unbiased where a backward pass is linear in the
// input it saved: convolution, linear, ReLU, max pooling, dropout, products, and batch norm but for
// a term that vanishes with the batch. One that is not, such as GELU's, division's or that of a
// clamp at other bounds than 0, has a bias that falls with the width. The backward pass may come
// after the scope's end. Scopes nest: the innermost counts. One per thread, and a seed for each; in
// C++ programs only, for it replaces autograd's engine by one that differs in nothing else.
class CompressSavedTensors {
 public:
  explicit CompressSavedTensors(const torch::nn::Module& model, const Options& options = {})
      : CompressSavedTensors(tensors_of(model), options) {}
  // `kept`: tensors that stay as they are, with all their views.
  explicit CompressSavedTensors(const std::vector<at::Tensor>& kept, const Options& options = {})
      : outer_(current()) {
    static const bool is_installed =
        (torch::autograd::set_default_engine_stub(&HookedEngine::instance), true);
    static_cast<void>(is_installed);
    current() = std::make_shared<Packer>(kept, options);
  }
  ~CompressSavedTensors() { current() = std::move(outer_); }
  CompressSavedTensors(const CompressSavedTensors&) = delete;
  CompressSavedTensors& operator=(const CompressSavedTensors&) = delete;

 private:
  class HookedEngine final : public torch::autograd::Engine {
   public:
    ~HookedEngine() override { stop(); }
    static Engine& instance() {
      static HookedEngine engine;
      return engine;
    }
    std::unique_ptr<torch::autograd::SavedVariableHooks> get_default_saved_variable_hooks()
        override {
      return current() ? std::make_unique<SavedTensor>(current()) : nullptr;
    }
  };

  static std::vector<at::Tensor> tensors_of(const torch::nn::Module& model) {
    std::vector<at::Tensor> tensors = model.parameters();
    const std::vector<at::Tensor> buffers = model.buffers();
    tensors.insert(tensors.end(), buffers.begin(), buffers.end());
    return tensors;
  }
  static std::shared_ptr<Packer>& current() {
    static thread_local std::shared_ptr<Packer> packer;
    return packer;
  }

  std::shared_ptr<Packer> outer_;
};

// ---- Convolution – batch norm – ReLU with one context -------------------------------------------

// Some samples of a batch. Passes go through a batch piece by piece: then no decoded tensor is ever
// larger than a piece.
struct Samples {
  std::int64_t first;
  std::int64_t count;
};

inline at::Tensor slice(const at::Tensor& tensor, Samples samples) {
  return tensor.narrow(0, samples.first, samples.count);
}

// In pieces of an eighth of a batch: larger ones would show at the peak, and oneDNN's calls cost
// the same for smaller ones.
template <class Body>
void for_each_piece_of(std::int64_t samples, const Body& body) {
  const std::int64_t piece = (samples + 7) / 8;
  for (std::int64_t first = 0; first < samples; first += piece) {
    body(Samples{first, std::min(piece, samples - first)});
  }
}

// 2×2 maximum pooling of planes; an odd last row or column is left out, as torch does.
struct Pooling {
  std::int64_t height;  // of what goes in
  std::int64_t width;

  std::int64_t plane() const { return height * width; }
  std::int64_t pooled_plane() const { return height / 2 * (width / 2); }

  // Where a maximum was, given its window's first element and its code: 0 to 3, row by row.
  std::int64_t place(std::int64_t corner, std::uint32_t code) const {
    return corner + static_cast<std::int64_t>(code >> 1) * width + (code & 1);
  }

  // Calls visit(pooled element, its window's first element) for all windows of some planes.
  template <class Visit>
  void for_each_window(std::int64_t planes, const Visit& visit) const {
    at::parallel_for(0, planes, 8, [&](std::int64_t first, std::int64_t last) {
      std::int64_t pooled = first * pooled_plane();
      for (std::int64_t i = first; i < last; ++i) {
        for (std::int64_t row = 0; row < height / 2; ++row) {
          for (std::int64_t column = 0; column < width / 2; ++column, ++pooled) {
            visit(pooled, i * plane() + 2 * (row * width + column));
          }
        }
      }
    });
  }
};

// How one block's context is to be read.
struct ContextFormat {
  std::vector<std::int64_t> sizes;  // of y: samples, channels, height, width
  actpack::Layout layout;           // of y
  actpack::Rounding rounding;
  actpack::batch_norm::SavedValue kept;  // see BlockContext
  bool is_pooled;

  bool is_affine() const { return kept == actpack::batch_norm::SavedValue::input; }

  std::int64_t samples() const { return sizes[0]; }
  std::int64_t sample_numel() const { return sizes[1] * sizes[2] * sizes[3]; }
  Pooling pooling() const { return {sizes[2], sizes[3]}; }
  actpack::batch_norm::Channels channels() const { return {sizes[1], pooling().plane()}; }

  at::Tensor make_values(std::int64_t samples) const {
    return at::empty({samples, sizes[1], sizes[2], sizes[3]});
  }
  at::Tensor make_outputs(std::int64_t samples) const {
    return at::empty({samples, sizes[1], sizes[2] / 2, sizes[3] / 2});
  }
};

// What one block keeps of a step: y, the ReLU's input, as exact signs and rounded magnitudes. They
// serve three: batch norm's backward pass as x̂ = (y − β) / γ, the ReLU's by the signs, and as
// max(y, 0) the convolution of the next block, which keeps no input of its own. Where x̂ cannot be
// had back from y, because some γ is nearly 0, it is an affine copy of batch norm's input z beside
// the signs: as small.
class BlockContext {
 public:
  struct Tensors {
    at::Tensor bytes;     // as Words
    at::Tensor argmax;    // where maxima were, 2 bits each; undefined without pooling
    at::Tensor channels;  // batch norm's, [channels, 4]: a Channel each
  };

  BlockContext(ContextFormat format, Tensors tensors)
      : format_(std::move(format)), tensors_(std::move(tensors)) {}

  const ContextFormat& format() const { return format_; }
  const Tensors& tensors() const { return tensors_; }
  const actpack::batch_norm::Channel* channels() const {
    return static_cast<const actpack::batch_norm::Channel*>(tensors_.channels.data_ptr());
  }

  // In the forward pass, given nothing but channels: keeps what `z` says and returns the block's
  // output. Overwrites z.
  at::Tensor keep(const at::Tensor& z) {
    const actpack::Layout& layout = format_.layout;
    tensors_.bytes = Words::make(layout);
    if (format_.is_affine()) {
      actpack::quantize(values_of<const float>(z), affine(), format_.rounding, torch_threads);
    }
    normalize(z);
    if (format_.is_affine()) {
      const std::size_t words = static_cast<std::size_t>(layout.with_bits(1).num_words());
      actpack::make_mask(
          values_of<const float>(z), {signs(), words}, [](float value) { return value > 0; },
          torch_threads);
    } else {
      actpack::encode(values_of<const float>(z), sign_magnitude(), format_.rounding, torch_threads);
    }
    return format_.is_pooled ? pool(z) : z.relu_();
  }

  // The block's output.
  at::Tensor output(Samples samples) const {
    at::Tensor values = format_.make_values(samples.count);
    const std::span<float> span = values_of<float>(values);
    if (format_.is_affine()) {
      actpack::dequantize(affine(), first(samples), span, decoding(), torch_threads);
      normalize(values);
      rectify(first(samples), std::span<const float>(span), span);
    } else {
      actpack::decode_relu(sign_magnitude(), first(samples), span, decoding(), torch_threads);
    }
    return format_.is_pooled ? gather(samples, values) : values;
  }

  // The gradient with respect to the ReLU's output, given that with respect to the block's.
  at::Tensor relu_output_gradient(Samples samples, const at::Tensor& output_gradient) const {
    return format_.is_pooled ? scatter(samples, output_gradient) : output_gradient;
  }
  std::int64_t first(Samples samples) const { return samples.first * format_.sample_numel(); }

  // What actpack::batch_norm reads: y or z, and gradients behind the ReLU's mask.
  void decode(std::int64_t first, std::span<float> values) const {
    if (format_.is_affine()) {
      actpack::dequantize(affine(), first, values, decoding());
    } else {
      actpack::decode(sign_magnitude(), first, values, decoding());
    }
  }
  std::span<const float> rectify(std::int64_t first, std::span<const float> from,
                                 std::span<float> to) const {
    if (format_.is_affine()) {
      const std::uint32_t* const is_positive = signs();
      for (std::size_t e = 0; e < from.size(); ++e) {
        const bool is_kept =
            actpack::extract(is_positive, first + static_cast<std::int64_t>(e), 1) != 0;
        to.data()[e] = is_kept ? from.data()[e] : 0.0f;
      }
    } else {
      actpack::relu_backward(from, sign_magnitude(), first, to);
    }
    return to;
  }

 private:
  std::uint32_t* signs() const { return Words(format_.layout, tensors_.bytes).signs; }
  actpack::SignMagnitudeView sign_magnitude() const {
    return sign_magnitude_view(format_.layout, tensors_.bytes);
  }
  actpack::PackedView affine() const {
    const Words words(format_.layout, tensors_.bytes);
    return {format_.layout, words.codes, reinterpret_cast<actpack::GroupParams*>(words.params)};
  }
  actpack::Decoding decoding() const { return actpack::Decoding::subtractive(format_.rounding); }

  // In place: z -> y.
  void normalize(const at::Tensor& z) const {
    actpack::batch_norm::normalize(values_of<const float>(z), format_.channels(), channels(),
                                   values_of<float>(z), torch_threads);
  }

  // The ReLU's output, pooled; keeps where the maxima were.
  at::Tensor pool(const at::Tensor& y) {
    at::Tensor pooled = format_.make_outputs(format_.samples());
    at::Tensor codes = at::empty({pooled.numel()}, at::kByte);
    const Pooling pooling = format_.pooling();
    const float* const values = y.data_ptr<float>();
    float* const outputs = pooled.data_ptr<float>();
    std::uint8_t* const places = codes.data_ptr<std::uint8_t>();
    pooling.for_each_window(planes(format_.samples()), [&](std::int64_t i, std::int64_t corner) {
      std::uint8_t code = 0;
      float largest = values[corner];
      for (std::uint8_t other = 1; other < 4; ++other) {
        const float value = values[pooling.place(corner, other)];
        code = value > largest ? other : code;
        largest = std::max(largest, value);
      }
      outputs[i] = std::max(largest, 0.0f);
      places[i] = code;
    });
    const std::int64_t words = actpack::words_for(pooled.numel(), 2);
    tensors_.argmax = at::empty({4 * words}, at::kByte);
    actpack::pack(values_of<const std::uint8_t>(codes), 2,
                  {argmax(), static_cast<std::size_t>(words)}, torch_threads);
    return pooled;
  }

  at::Tensor gather(Samples samples, const at::Tensor& values) const {
    at::Tensor pooled = format_.make_outputs(samples.count);
    const float* const from = values.data_ptr<float>();
    float* const to = pooled.data_ptr<float>();
    for_each_maximum(samples, [&](std::int64_t i, std::int64_t place) { to[i] = from[place]; });
    return pooled;
  }

  at::Tensor scatter(Samples samples, const at::Tensor& pooled) const {
    at::Tensor values = format_.make_values(samples.count).zero_();
    const float* const from = pooled.data_ptr<float>();
    float* const to = values.data_ptr<float>();
    for_each_maximum(samples, [&](std::int64_t i, std::int64_t place) { to[place] = from[i]; });
    return values;
  }

  // Calls visit(pooled element, the element it is the maximum by).
  template <class Visit>
  void for_each_maximum(Samples samples, const Visit& visit) const {
    const Pooling pooling = format_.pooling();
    const std::int64_t start = planes(samples.first) * pooling.pooled_plane();
    const std::uint32_t* const codes = argmax();
    pooling.for_each_window(planes(samples.count), [&](std::int64_t i, std::int64_t corner) {
      visit(i, pooling.place(corner, actpack::extract(codes, start + i, 2)));
    });
  }

  std::int64_t planes(std::int64_t samples) const { return samples * format_.sizes[1]; }
  std::uint32_t* argmax() const { return static_cast<std::uint32_t*>(tensors_.argmax.data_ptr()); }

  ContextFormat format_;
  Tensors tensors_;
};

// A block's convolution: without a bias, padded with zeros.
struct Convolution {
  torch::nn::Conv2dOptions options;

  // Piece by piece, for oneDNN makes a copy of its output.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& weight) const {
    at::Tensor output;
    for_each_piece_of(x.size(0), [&](Samples piece) {
      const at::Tensor part = at::conv2d(slice(x, piece), weight, {}, options.stride(), padding(),
                                         options.dilation(), options.groups());
      if (!output.defined()) {
        output = at::empty({x.size(0), part.size(1), part.size(2), part.size(3)});
      }
      slice(output, piece).copy_(part);
    });
    return output;
  }

  // With respect to x (undefined unless wanted) and to the weight.
  std::pair<at::Tensor, at::Tensor> gradients(const at::Tensor& output_gradient,
                                              const at::Tensor& x, const at::Tensor& weight,
                                              bool wants_x) const {
    auto [of_x, of_weight, of_bias] = at::convolution_backward(
        output_gradient, x, weight, at::OptionalIntArrayRef(), options.stride(), padding(),
        options.dilation(), /*transposed=*/false, /*output_padding=*/{0, 0}, options.groups(),
        {wants_x, true, false});
    return {std::move(of_x), std::move(of_weight)};
  }

 private:
  at::IntArrayRef padding() const { return c10::get<torch::ExpandingArray<2>>(options.padding()); }
};

// What goes from one block to the next: values, and the context that can give them back.
struct BlockOutput {
  at::Tensor values;
  std::shared_ptr<const BlockContext> context;  // null where no block made the values
  std::int64_t version = 0;                     // of the values that the context is about
};

// The block's node in autograd's graph.
class ConvBatchNormReLUFunction : public torch::autograd::Function<ConvBatchNormReLUFunction> {
 public:
  struct Call {
    Convolution convolution;
    torch::nn::BatchNorm2dImpl& batch_norm;
    bool is_pooled;
    const Options& options;
    actpack::Rounding rounding;
    std::shared_ptr<const BlockContext> of_input;   // null: x itself is kept
    std::shared_ptr<const BlockContext> of_output;  // set by forward
  };

  static at::Tensor forward(torch::autograd::AutogradContext* graph, const at::Tensor& x,
                            const at::Tensor& weight, const at::Tensor& gamma,
                            const at::Tensor& beta, Call* call) {
    const at::Tensor z = call->convolution.forward(x, weight);
    TORCH_CHECK(z.numel() > z.size(1), "actpack: batch norm needs more than one value a channel, ",
                "but the convolution's output is ", describe(z));
    const auto [mean, variance] = update_statistics(call->batch_norm, z);
    const actpack::batch_norm::SavedValue kept = is_invertible(gamma)
                                                     ? actpack::batch_norm::SavedValue::output
                                                     : actpack::batch_norm::SavedValue::input;
    BlockContext context(
        {z.sizes().vec(), flat_layout(z.numel(), call->options), call->rounding, kept,
         call->is_pooled},
        {{}, {}, make_channels(mean, variance, call->batch_norm.options.eps(), gamma, beta, kept)});
    at::Tensor output = context.keep(z);
    save(graph, x, weight, context, *call);
    call->of_output = std::make_shared<const BlockContext>(std::move(context));
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* graph,
                                                 torch::autograd::variable_list gradients) {
    const Saved saved = load(graph);
    TORCH_CHECK(!at::GradMode::is_enabled(), "actpack: ", saved.name,
                ", can be differentiated once only, without create_graph");
    const BlockContext& context = saved.context;
    const at::Tensor output_gradient = gradients[0].contiguous();
    const std::int64_t samples = context.format().samples();
    const actpack::batch_norm::Channels channels = context.format().channels();

    std::vector<double> sums(2 * static_cast<std::size_t>(channels.count));
    for_each_piece_of(samples, [&](Samples piece) {
      const at::Tensor gradient =
          context.relu_output_gradient(piece, slice(output_gradient, piece));
      actpack::batch_norm::add_gradient_sums(values_of<const float>(gradient), context.first(piece),
                                             context, channels, std::span(sums), torch_threads);
    });
    at::Tensor gamma_gradient = at::empty({channels.count});
    at::Tensor beta_gradient = at::empty({channels.count});
    const std::vector<actpack::batch_norm::InputGradient> input_gradients =
        actpack::batch_norm::finish_gradients(
            context.channels(), context.format().kept, sums, samples * channels.inner,
            gamma_gradient.data_ptr<float>(), beta_gradient.data_ptr<float>());

    const bool wants_x = graph->needs_input_grad(0);
    at::Tensor x_gradient = wants_x ? at::empty(saved.input_sizes) : at::Tensor();
    at::Tensor weight_gradient = at::zeros_like(saved.weight);
    for_each_piece_of(samples, [&](Samples piece) {
      const at::Tensor gradient =
          context.relu_output_gradient(piece, slice(output_gradient, piece));
      const at::Tensor dz = context.format().make_values(piece.count);
      actpack::batch_norm::input_gradient(values_of<const float>(gradient), context.first(piece),
                                          context, channels, input_gradients.data(),
                                          values_of<float>(dz), torch_threads);
      const at::Tensor x =
          saved.of_input ? saved.of_input->output(piece) : slice(saved.input, piece);
      const auto [of_x, of_weight] = saved.convolution.gradients(dz, x, saved.weight, wants_x);
      weight_gradient.add_(of_weight);
      if (wants_x) {
        slice(x_gradient, piece).copy_(of_x);
      }
    });
    return {x_gradient, weight_gradient, gamma_gradient, beta_gradient, at::Tensor()};
  }

 private:
  // What a node keeps beside its tensors.
  struct Record : torch::CustomClassHolder {
    Convolution convolution;
    ContextFormat format;
    std::optional<ContextFormat> input_format;
    std::vector<std::int64_t> input_sizes;

    Record(const Convolution& of_block, ContextFormat of_context)
        : convolution(of_block), format(std::move(of_context)) {}
  };
  struct Saved {
    Convolution convolution;
    BlockContext context;
    std::optional<BlockContext> of_input;
    at::Tensor input;  // undefined where of_input has it
    std::vector<std::int64_t> input_sizes;
    at::Tensor weight;
    std::string name;
  };

  // Mean and variance of the batch; the running ones move as torch's do.
  static std::tuple<at::Tensor, at::Tensor> update_statistics(
      torch::nn::BatchNorm2dImpl& batch_norm, const at::Tensor& z) {
    batch_norm.num_batches_tracked += 1;
    const auto momentum = batch_norm.options.momentum();
    return at::batch_norm_update_stats(
        z, batch_norm.running_mean, batch_norm.running_var,
        momentum ? *momentum : 1 / batch_norm.num_batches_tracked.item<double>());
  }

  static at::Tensor make_channels(const at::Tensor& mean, const at::Tensor& variance,
                                  double epsilon, const at::Tensor& gamma, const at::Tensor& beta,
                                  actpack::batch_norm::SavedValue kept) {
    at::Tensor channels = at::empty({mean.numel(), 4});
    actpack::batch_norm::write_channels(
        {.channels = {.count = mean.numel(), .inner = 1},
         .saved = kept,
         .epsilon = static_cast<float>(epsilon),
         .smallest_gamma = 0,
         .mean = mean.data_ptr<float>(),
         .variance = variance.data_ptr<float>(),
         .gamma = gamma.data_ptr<float>(),
         .beta = beta.data_ptr<float>(),
         .by_channel = static_cast<actpack::batch_norm::Channel*>(channels.data_ptr())});
    return channels;
  }

  // Whether x̂ can be had back from a rounded y in every channel: where |γ| is far below the
  // others', the rounding of y is far larger than x̂ itself, and with γ = 0 nothing of x̂ is left.
  static bool is_invertible(const at::Tensor& gamma) {
    const at::Tensor magnitudes = gamma.abs();
    const float smallest = magnitudes.min().item<float>();
    return smallest > 0 && smallest >= 0x1p-6f * magnitudes.max().item<float>();
  }

  static void save(torch::autograd::AutogradContext* graph, const at::Tensor& x,
                   const at::Tensor& weight, const BlockContext& context, const Call& call) {
    auto record = c10::make_intrusive<Record>(call.convolution, context.format());
    record->input_sizes = x.sizes().vec();
    torch::autograd::variable_list tensors{weight};
    const auto add = [&](const BlockContext::Tensors& of) {
      tensors.insert(tensors.end(), {of.bytes, of.argmax, of.channels});
    };
    add(context.tensors());
    if (call.of_input) {
      record->input_format = call.of_input->format();
      add(call.of_input->tensors());
    } else {
      tensors.push_back(x);
    }
    graph->saved_data["record"] = at::IValue::make_capsule(std::move(record));
    graph->save_for_backward(std::move(tensors));
  }

  static Saved load(torch::autograd::AutogradContext* graph) {
    const auto capsule = graph->saved_data["record"].toCapsule();
    const Record& record = static_cast<const Record&>(*capsule);
    const std::string name =
        c10::str("the ConvBatchNormReLU block of input ", at::IntArrayRef(record.input_sizes));
    torch::autograd::variable_list tensors;
    try {
      tensors = graph->get_saved_variables();
    } catch (c10::Error& error) {  // changed in place, or a second backward pass
      error.add_context("actpack: in the backward pass of " + name);
      throw;
    }
    const auto context_at = [&](std::size_t i, const ContextFormat& format) {
      return BlockContext(format, {tensors[i], tensors[i + 1], tensors[i + 2]});
    };
    Saved saved{record.convolution,
                context_at(1, record.format),
                std::nullopt,
                {},
                record.input_sizes,
                tensors[0],
                name};
    if (record.input_format) {
      saved.of_input = context_at(4, *record.input_format);
    } else {
      saved.input = tensors[4];
    }
    return saved;
  }
};

// Convolution, batch norm and ReLU, and behind them 2×2 maximum pooling if so asked, with one
// context in training and as torch's own in evaluation and without gradients. Weights, statistics
// and their names are those of its Conv2d `convolution` and BatchNorm2d `batch_norm`.
class ConvBatchNormReLUImpl : public torch::nn::Module {
 public:
  explicit ConvBatchNormReLUImpl(const torch::nn::Conv2dOptions& options, bool is_pooled = false)
      : convolution(register_module("convolution", torch::nn::Conv2d(options))),
        batch_norm(register_module("batch_norm", torch::nn::BatchNorm2d(options.out_channels()))),
        geometry_{options}, is_pooled_(is_pooled) {
    TORCH_CHECK(!options.bias(), "actpack: a ConvBatchNormReLU's convolution has no bias, for ",
                "batch norm would take it out again: set bias(false)");
    TORCH_CHECK(c10::get_if<torch::ExpandingArray<2>>(&options.padding()) &&
                    c10::get_if<torch::enumtype::kZeros>(&options.padding_mode()),
                "actpack: a ConvBatchNormReLU's convolution pads with zeros, by a number");
  }

  // `number`, with options' seed and the step, names the noise.
  BlockOutput forward(const BlockOutput& input, const Options& options, std::uint64_t step,
                      std::uint64_t number) {
    const at::Tensor& x = input.values;
    const at::Tensor& weight = convolution->weight;
    TORCH_CHECK(x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat &&
                    x.device().is_cpu() && weight.device().is_cpu() && x.dim() == 4 &&
                    x.size(0) > 0,
                "actpack: a ConvBatchNormReLU takes a batch of Float on the CPU; its input is ",
                describe(x), ", on ", x.device(), ", its weight ", describe(weight), ", on ",
                weight.device());
    TORCH_CHECK(!input.context || input.version == x._version(), "actpack: ", describe(x),
                ", was changed in place after the block that made it had kept its context: it is ",
                "at version ", x._version(), ", kept was version ", input.version);
    if (!batch_norm->is_training() || !at::GradMode::is_enabled()) {
      const at::Tensor y = at::relu(batch_norm->forward(convolution->forward(x)));
      return {is_pooled_ ? at::max_pool2d(y, 2) : y, nullptr};
    }
    ConvBatchNormReLUFunction::Call call{.convolution = geometry_,
                                         .batch_norm = *batch_norm,
                                         .is_pooled = is_pooled_,
                                         .options = options,
                                         .rounding = noise(options, Origin::chain, step, number),
                                         .of_input = input.context,
                                         .of_output = nullptr};
    at::Tensor output =
        ConvBatchNormReLUFunction::apply(x, weight, batch_norm->weight, batch_norm->bias, &call);
    const std::int64_t version = output._version();
    return {std::move(output), std::move(call.of_output), version};
  }

  torch::nn::Conv2d convolution;
  torch::nn::BatchNorm2d batch_norm;

 private:
  Convolution geometry_;
  bool is_pooled_;
};
TORCH_MODULE(ConvBatchNormReLU);

// Blocks one behind the other, each with the context of the one before it as its input.
class CompressedChainImpl : public torch::nn::Module {
 public:
  CompressedChainImpl(std::vector<ConvBatchNormReLU> blocks, const Options& options = {})
      : blocks_(std::move(blocks)), options_(options), step_(options.step) {
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      register_module(std::to_string(i), blocks_[i]);
    }
  }

  at::Tensor forward(const at::Tensor& x) {
    BlockOutput output{x, nullptr};
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      output = blocks_[i]->forward(output, options_, step_, i);
    }
    step_ += is_training() ? 1 : 0;
    return output.values;
  }

 private:
  std::vector<ConvBatchNormReLU> blocks_;
  Options options_;
  std::uint64_t step_;
};
TORCH_MODULE(CompressedChain);

}  // namespace actpack_torch
