// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Speed of training, on one thread: whole steps with packed activations beside the
// same steps in full precision, and the codecs on the activations of those steps. Compiled as the
// trainer is: for the processor at hand.
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "actpack/quantize.hpp"
#include "actpack/sign_magnitude.hpp"
#include "common/memory.hpp"
#include "support/buffer.hpp"
#include "support/memory_speed.hpp"
#include "support/network.hpp"
#include "support/rows.hpp"
#include "tests/support/statistics.hpp"

namespace {

using namespace actpack;
using namespace bench;

constexpr std::int64_t steps_before = 20;
constexpr int bits = 2;

TrainedNetwork& network() {
  static TrainedNetwork trained(steps_before);
  return trained;
}

/// A step with its batch, as the trainer's loop takes it.
Reference full_precision_step() {
  const auto contexts = std::make_shared<trainer::Contexts>(TrainedNetwork::exact_contexts());
  return {"full_precision", [=] { network().train_step(network().next_batch(), *contexts); }};
}

/// Counter codec_share: the part of the step that packing and unpacking take.
void packed_step_bench(benchmark::State& state, trainer::Codec::Context context,
                       bool is_subtractive) {
  trainer::Codec codec;
  codec.context = context;
  codec.bits = bits;
  codec.is_subtractive = is_subtractive;
  trainer::Contexts contexts(codec, 1);
  double seconds = 0;
  const auto step = [&] {
    const auto start = std::chrono::steady_clock::now();
    network().train_step(network().next_batch(), contexts);
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  measure(state, step, {full_precision_step()});
  state.counters["codec_share"] = contexts.codec_seconds() / seconds;
}

void add_step(const std::string& name, std::function<void(benchmark::State&)> run) {
  add_row("training_step/" + name, [=](benchmark::State& state) {
    run(state);
    state.SetLabel(network().origin());
  });
}

Layout layout_of(const Activation& x) {
  return {.rows = x.rows,
          .row_size = static_cast<std::int64_t>(x.values.size()) / x.rows,
          .bits = bits};
}

/// Rows of both directions of a codec on one activation: save(context) and load(context, decoded).
template <class Context, class Save, class Load>
void add_activation(const Activation& x, const std::string& save_verb, const Save& save,
                    const std::string& load_verb, const Load& load) {
  const auto add_direction = [&](const std::string& verb, bool is_save) {
    const std::string row = verb + "/" + x.name + "/float/bits:" + std::to_string(bits) +
                            "/numel:" + std::to_string(x.values.size());
    add_row(row, [=, &x](benchmark::State& state) {
      const std::int64_t numel = static_cast<std::int64_t>(x.values.size());
      Context context(layout_of(x));
      Buffer<float> values(numel);
      Buffer<float> decoded(numel);
      std::ranges::copy(x.values, values.data());
      save(std::as_const(values).span(), context);
      load(context, decoded.span());
      state.counters["NMSE"] = support::relative_energy(decoded.span(), x.values);
      state.counters["bits_per_value"] =
          8 * static_cast<double>(context.size_bytes()) / static_cast<double>(x.values.size());
      measure_tensor(state, 4 * numel, is_save ? Access::reads : Access::writes, [&] {
        is_save ? save(std::as_const(values).span(), context) : load(context, decoded.span());
      });
    });
  };
  add_direction(save_verb, true);
  add_direction(load_verb, false);
}

void add_rows() {
  add_step("full_precision", [](benchmark::State& state) {
    measure(state, full_precision_step().call, {full_precision_step()});
  });
  add_step("sign_magnitude/bits:2", [](benchmark::State& state) {
    packed_step_bench(state, trainer::Codec::Context::sign_magnitude, true);
  });
  add_step("affine/bits:2", [](benchmark::State& state) {
    packed_step_bench(state, trainer::Codec::Context::affine, false);
  });

  const Rounding rounding = Rounding::stochastic(1);
  static const std::vector<Activation> activations = network().activations();
  for (const Activation& x : activations) {
    // Without its mask a ReLU's output is decoded plainly: its zeros then have no noise.
    const Decoding decoding =
        x.is_relu_output ? Decoding::plain() : Decoding::subtractive(rounding);
    if (x.name.starts_with("relu")) {
      add_activation<SignMagnitudeBuffer>(
          x, "sign_magnitude_encode/stochastic",
          [=](std::span<const float> y, SignMagnitudeBuffer& context) {
            encode(y, context.view(), rounding);
          },
          "sign_magnitude_decode/subtractive",
          [=](const SignMagnitudeBuffer& context, std::span<float> y) {
            decode(context.view(), y, decoding);
          });
    } else {
      add_activation<PackedBuffer>(
          x, "quantize/stochastic",
          [=](std::span<const float> y, PackedBuffer& packed) {
            quantize(y, packed.view(), rounding);
          },
          x.is_relu_output ? "dequantize/plain" : "dequantize/subtractive",
          [=](const PackedBuffer& packed, std::span<float> y) {
            dequantize(packed.view(), y, decoding);
          });
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  omp_set_num_threads(1);
  trainer::memory::keep_freed_memory();
  return bench::run(argc, argv, add_rows);
}
