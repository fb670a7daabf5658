// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Claims: whatever numbers the C functions of the Python package are called with, they return a
// sentence and have written nothing, or stay within arrays of the sizes that their header gives.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <actpack/codes.hpp>

#include "../../python/native/native.h"
#include "fuzz.hpp"

namespace {

using namespace fuzz;

constexpr std::int64_t most_values = 700;

// A number that is mostly one of the first few, and that must be refused otherwise.
std::int32_t choice(Input& input, std::int32_t count) {
  return input.one_in(24) ? static_cast<std::int32_t>(hostile_integer(input))
                          : input.between(0, count - 1);
}
std::int64_t number(Input& input, std::int64_t ordinary) {
  return input.one_in(12) ? hostile_integer(input) : ordinary;
}
// Null now and then.
template <class T>
T* pointer(Input& input, Fenced<T>& array) {
  return input.one_in(24) ? nullptr : array.data();
}

std::size_t size_of(std::int32_t type) { return type == ACTPACK_TYPE_FLOAT32 ? 4 : 2; }

// Values of any bits, of an element type. Beyond most_values a pointer is no array of so many: only
// what is refused may be called with it.
Fenced<std::uint8_t> values(Input& input, std::int64_t numel, std::int32_t type) {
  const bool is_there = numel >= 0 && numel <= most_values;
  Fenced<std::uint8_t> array((is_there ? static_cast<std::size_t>(numel) : 0) * size_of(type));
  support::Generator generator = input.generator();
  for (std::uint8_t& byte : array.span()) byte = static_cast<std::uint8_t>(generator.bits());
  return array;
}

// A sentence is one if it ends within its memory.
bool is_refused(const char* sentence) {
  check(sentence == nullptr || (std::strlen(sentence) > 8 && std::strlen(sentence) < 1024),
        "a refusal is a sentence");
  return sentence != nullptr;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  Input input(bytes, size);
  const std::int32_t type = choice(input, 3);
  actpack_execution execution{type, 0, nullptr, 1};
  if (input.one_in(24)) execution.threads = static_cast<std::int32_t>(hostile_integer(input));
  if (input.one_in(24)) execution.is_cuda = static_cast<std::int32_t>(hostile_integer(input));

  const std::int64_t channels = number(input, input.between(1, 5));
  const std::int64_t inner = number(input, input.between(1, 40));
  const std::int64_t images = input.between(0, 3);
  const bool has_channels = channels > 0 && channels < 100 && inner > 0 && inner < 100;
  actpack_context context{};
  context.numel = number(input, has_channels && images * channels * inner <= most_values
                                    ? images * channels * inner
                                    : input.between<std::int64_t>(0, most_values));
  context.form = choice(input, 2);
  context.bits = input.one_in(16) ? static_cast<std::int32_t>(hostile_integer(input))
                                  : input.pick(actpack::widths);
  context.is_stochastic = choice(input, 2);
  context.seed = input.number<std::uint64_t>();
  context.offset = input.number<std::uint64_t>();
  std::int64_t context_size = -1;
  const bool has_size = !is_refused(actpack_size_bytes(&context, &context_size));
  check(!has_size || context_size >= 0, "a context takes some bytes");
  // A context too large to be had is shown to nobody.
  if (has_size && context.numel > most_values) return 0;
  Fenced<std::uint8_t> planes(has_size ? context_size : 0);
  support::Generator generator = input.generator();
  for (std::uint8_t& byte : planes.span()) byte = static_cast<std::uint8_t>(generator.bits());
  context.bytes = pointer(input, planes);
  const std::int64_t numel = context.numel;

  const std::int64_t count = std::clamp<std::int64_t>(channels, 1, most_values);
  Fenced<float> statistics(count), gamma_gradient(count), beta_gradient(count);
  for (float& statistic : statistics.span())
    statistic = std::bit_cast<float>(input.number<std::uint32_t>());
  Fenced<float> by_channel(4 * count);
  const actpack_normalization operation{
      channels,
      inner,
      choice(input, 2),
      input.one_in(8) ? std::bit_cast<float>(input.number<std::uint32_t>()) : 1e-5F,
      input.one_in(8) ? std::bit_cast<float>(input.number<std::uint32_t>()) : 0.125F,
      pointer(input, statistics),
      pointer(input, statistics),
      input.flag() ? statistics.data() : nullptr,
      input.flag() ? statistics.data() : nullptr,
      pointer(input, by_channel)};

  Fenced<std::uint8_t> x = values(input, numel, type);
  const std::size_t numel_or_none = x.span().size() / size_of(type);
  Fenced<std::uint8_t> y(x.span().size());
  Fenced<std::uint32_t> mask((numel_or_none + 31) / 32);
  const std::int64_t mask_numel = number(input, static_cast<std::int64_t>(numel_or_none));
  // Numbers that are valid and false cannot be seen to be false: more channels than the arrays
  // have, which do divide 0, and more values.
  const bool has_arrays = channels == count || numel != 0;
  const bool is_true = mask_numel <= static_cast<std::int64_t>(numel_or_none) ||
                       mask_numel > (std::int64_t{1} << 48);
  const double p = input.one_in(4) ? hostile_double(input) : 0.5;
  const std::vector<std::uint8_t> before = y.values();
  bool refused = false;
  switch (input.between(0, 9)) {
    case 0: is_refused(actpack_encode(&execution, pointer(input, x), &context)); return 0;
    case 1: {
      const std::int64_t first = number(input, numel / 3);
      const std::int64_t part = number(input, numel_or_none == 0 ? 0 : numel / 2);
      // The array has numel values, so a part that is valid is in it.
      refused = is_refused(actpack_decode(&execution, &context, first, part, pointer(input, y),
                                          choice(input, 2), choice(input, 2)));
      break;
    }
    case 2:
      refused = is_refused(actpack_decode_keeping_signs(&execution, &context, pointer(input, y)));
      break;
    case 3:
      refused = is_refused(
          actpack_apply_signs(&execution, pointer(input, x), &context, pointer(input, y)));
      break;
    case 4:
      if (is_true)
        refused = is_refused(actpack_relu(&execution, pointer(input, x), mask_numel,
                                          pointer(input, y), pointer(input, mask)));
      break;
    case 5:
      if (is_true) {
        refused =
            is_refused(actpack_dropout(&execution, pointer(input, x), mask_numel, pointer(input, y),
                                       pointer(input, mask), p, context.seed, context.offset));
      }
      break;
    case 6:
      if (is_true) {
        refused = is_refused(actpack_apply_mask(&execution, pointer(input, x), pointer(input, mask),
                                                mask_numel, p, pointer(input, y)));
      }
      break;
    case 7:
      if (has_arrays)
        refused = is_refused(actpack_batch_norm(&execution, &operation, pointer(input, x), &context,
                                                pointer(input, y)));
      break;
    case 8: {
      if (!has_arrays) return 0;
      std::int64_t workspace = -1;
      is_refused(actpack_batch_norm_workspace(&execution, &operation, &context, &workspace));
      const std::int64_t elements = number(input, has_channels ? numel / channels : 0);
      refused = is_refused(actpack_batch_norm_backward(
          &execution, &operation, pointer(input, x), &context, choice(input, 2), elements, nullptr,
          pointer(input, gamma_gradient), pointer(input, beta_gradient), pointer(input, y)));
      check(refused || elements == 0 || elements == numel / channels,
            "a channel has as many elements as it has, or none count");
      break;
    }
    default: {  // what was packed comes back
      if (is_refused(actpack_encode(&execution, x.data(), &context)) || numel_or_none == 0)
        return 0;
      check(!is_refused(
                actpack_decode(&execution, &context, 0, numel, y.data(), ACTPACK_DECODE_VALUES, 0)),
            "what was encoded is decoded");
      Fenced<std::uint8_t> tail((numel_or_none - numel_or_none / 2) * size_of(type));
      check(!is_refused(actpack_decode(&execution, &context, numel / 2, numel - numel / 2,
                                       tail.data(), ACTPACK_DECODE_VALUES, 0)),
            "a part is decoded");
      check(std::ranges::equal(tail.span(), y.span().last(tail.span().size())),
            "a part is the same as in the whole");
      return 0;
    }
  }
  if (refused) check(std::ranges::equal(before, y.span()), "nothing is written before a refusal");
  return 0;
}
