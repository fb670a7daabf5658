// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Checks the bytes that each way to save activations takes.
#include <doctest/doctest.h>
#include <omp.h>

#include <cstdint>

#include "common/memory.hpp"
#include "train_fashion_mnist/training.hpp"

namespace {

using namespace trainer;
using Context = Codec::Context;

// The steps are short: beside other tests, threads that spin would cost more than they save.
[[maybe_unused]] const bool is_single_threaded = (omp_set_num_threads(1), true);

constexpr std::int64_t images = 16;

StepReport step_of(Context context, std::int64_t depth, bool has_tensor_range = false) {
  Codec codec;
  codec.context = context;
  codec.has_tensor_range = has_tensor_range;
  const Batch data = generate_data(images, 1);
  Network network(net_a(depth), 10, measure_pixels(data.pixels.span()), 0);
  Contexts contexts(codec, 0);
  BatchStream batches(data, 0);
  const std::int64_t before = memory::live_bytes();
  const StepReport report = run_step(network, batches, contexts);
  CHECK(memory::live_bytes() == before);  // contexts and transients are really freed
  return report;
}

double ratio(std::int64_t whole, std::int64_t part) {
  return static_cast<double>(whole) / static_cast<double>(part);
}

TEST_CASE("saved bytes: what each way of keeping activations must need, and nothing beside it") {
  const std::int64_t before_pooling = 28 * 28 * 16 + 14 * 14 * 32 + 7 * 7 * 64;
  const std::int64_t pooled = 14 * 14 * 16 + 7 * 7 * 32 + 3 * 3 * 64;
  const auto is_about = [](std::int64_t bytes, double expected) {
    CAPTURE(ratio(bytes, images));
    CAPTURE(expected);
    CHECK(ratio(bytes, images) > expected);
    CHECK(ratio(bytes, images) < 1.02 * expected + 100);  // labels, probabilities, the objects
  };
  is_about(step_of(Context::full_precision, 0).saved_bytes,
           4.0 * (784 + 2 * before_pooling + pooled) + pooled);
  is_about(step_of(Context::lean, 0).saved_bytes, 784 + 4.0 * before_pooling + 0.25 * pooled);
  is_about(step_of(Context::sign_magnitude, 0).saved_bytes,
           784 + 3.125 / 8 * before_pooling + 0.25 * pooled);
  is_about(step_of(Context::affine, 0).saved_bytes,
           2.125 / 8 * 784 + 3.125 / 8 * before_pooling + 2.125 / 8 * pooled + pooled);
}

TEST_CASE("saved bytes: at least 16 times fewer, and at depth the peak follows") {
  const StepReport full = step_of(Context::full_precision, 8);
  const StepReport packed = step_of(Context::sign_magnitude, 8);
  CHECK(ratio(step_of(Context::full_precision, 0).saved_bytes,
              step_of(Context::sign_magnitude, 0).saved_bytes) >= 16);
  CHECK(ratio(full.saved_bytes, packed.saved_bytes) >= 16);
  CHECK(ratio(full.peak_bytes, packed.peak_bytes) >= 3);
  CHECK(packed.peak_bytes >= packed.saved_bytes);
  // One range for the tensor: the same codes and hardly any parameters, but a transient copy.
  const StepReport coarse = step_of(Context::sign_magnitude, 8, true);
  CHECK(coarse.saved_bytes < packed.saved_bytes);
  CHECK(coarse.peak_bytes > packed.peak_bytes);
}

}  // namespace
