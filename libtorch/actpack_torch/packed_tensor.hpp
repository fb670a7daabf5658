// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Packed tensors: exact signs with rounded magnitudes, or exact codes where a few bits suffice.
#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "actpack/sign_keeping.hpp"
#include "actpack/sign_magnitude.hpp"
#include "actpack_torch/dense_tensor.hpp"
#include "actpack_torch/options.hpp"

namespace actpack_torch {

// Locates the words of a packed tensor: a sign and a code for each value, the parameters of every
// group. They live in a tensor of bytes, so that torch's allocator owns and counts them.
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

// The packed values of a dense tensor, in the order of memory.
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

// Keeps values exactly whose bit patterns are all base + step · code with a small code: integers of
// a narrow range (pooling indices), booleans, and floating-point tensors of at most two values
// (dropout's mask).
class ExactValues final : public PackedValues {
 public:
  // Returns null where this would not take fewer bits than the tensor itself.
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
        const Location location = locate(e);
        std::uint64_t code = words[location.word] >> location.shift;
        if (location.shift + code_.width > 64) {
          code |= words[location.word + 1] << (64 - location.shift);
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
  struct Location {
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
      const Location location = locate(e);
      words[location.word] |= code << location.shift;
      if (location.shift + code_.width > 64) {
        words[location.word + 1] |= code >> (64 - location.shift);
      }
    }
  }

  std::uint64_t* words64() const { return static_cast<std::uint64_t*>(words_.data_ptr()); }
  Location locate(std::int64_t element) const {
    const std::int64_t bit = element * code_.width;
    return {bit / 64, static_cast<int>(bit % 64)};
  }

  at::ScalarType type_;
  std::int64_t numel_;
  Code code_;
  at::Tensor words_;
};

// A packed tensor with its shape and strides.
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

// Packs an activation by hand, for an autograd function of your own. `number` must differ for every
// tensor of every step and be below 2^32. Throws c10::Error, which names the tensor, if `tensor` is
// a parameter, is not a strided tensor on the CPU, or has another element type than Float, Half and
// BFloat16.
inline PackedTensor pack(const at::Tensor& tensor, const Options& options, std::uint64_t number) {
  TORCH_CHECK(!tensor.is_leaf() || !tensor.requires_grad(), "actpack: ", describe(tensor),
              ", is a parameter: parameters stay in full precision");
  TORCH_CHECK(tensor.device().is_cpu() && tensor.layout() == at::kStrided,
              "actpack: ", describe(tensor), ", is ", tensor.layout(), " on ", tensor.device(),
              ": only strided tensors of the CPU can be packed");
  TORCH_CHECK(is_element(tensor.scalar_type()), "actpack: ", describe(tensor),
              ": only Float, Half and BFloat16 can be packed");
  const at::NoGradGuard no_grad;
  const at::Tensor values = tensor.detach().resolve_neg();  // memory has the values' own signs
  const at::Tensor dense = values.is_non_overlapping_and_dense() ? values : values.contiguous();
  return {std::make_shared<SignMagnitudeValues>(dense, flat_layout(dense.numel(), options),
                                                noise(options, Origin::hand, options.step, number)),
          dense};
}

}  // namespace actpack_torch
