// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Fashion-MNIST, or other images in its files, from the first folder that has them, else a small
// generated data set.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "common/checkpoint.hpp"
#include "common/tensor.hpp"

namespace trainer {

inline constexpr std::int64_t image_classes = 10;

// Images and their classes: a data set, or those of one step.
struct Batch {
  Tensor<std::uint8_t> pixels;
  std::vector<std::uint8_t> labels;
};

struct Data {
  std::string origin;  // for the first line of output
  Batch train;
  Batch test;

  std::uint32_t checksum() const;  // CRC-32 of all pixels and labels
};

// The number that the network sees for a pixel's byte: zero mean and unit variance over a data set.
struct PixelScale {
  float scale = 1;
  float shift = 0;

  void operator()(std::span<const std::uint8_t> pixels, std::span<float> values) const {
    std::ranges::transform(pixels, values.begin(), [this](std::uint8_t pixel) {
      return scale * static_cast<float>(pixel) + shift;
    });
  }
};

// `named` comes from the command line and must have the data ("none": generate); `environment` and
// `downloaded`, each possibly empty, may have it. Throws FileError.
Data load_data(const std::string& named, const std::string& environment,
               const std::string& downloaded);

// The same, as the programs do it: looks in the folder `named`, in that of ACTPACK_DATA_DIR, and
// where the target fashion_mnist puts its download. Keeps the first `train_limit` training images.
// Prints the first line of output.
Data load_data(const std::string& named, std::int64_t train_limit, std::ostream& out);

// Ten kinds of drawn patterns, shifted, scaled and noisy.
Batch generate_data(std::int64_t images, std::uint64_t seed);

PixelScale measure_pixels(std::span<const std::uint8_t> pixels);

// The images at `indices`.
Batch gather(const Batch& data, std::span<const std::int64_t> indices);

Batch copy_of(const Batch& batch);

// Drops all images but the first `count`.
void limit(Batch& data, std::int64_t count);

inline constexpr std::int64_t batch_size = 128;

// Batches of the training set, in a new order every epoch; the last of an epoch may be smaller.
class BatchStream {
 public:
  BatchStream(const Batch& data, std::uint64_t seed, std::int64_t size = batch_size);

  std::int64_t batches_per_epoch() const {
    return (static_cast<std::int64_t>(order_.size()) + size_ - 1) / size_;
  }
  Batch next() { return gather(data_, advance()); }

  // Where it is in the order. A checkpoint is read into a new stream.
  void visit(Checkpoint& checkpoint);

 private:
  // The indices of the next batch.
  std::span<const std::int64_t> advance();

  const Batch& data_;
  std::int64_t size_;
  std::vector<std::int64_t> order_;
  std::size_t position_;
  std::int64_t batches_ = 0;
  std::mt19937_64 random_;
};

}  // namespace trainer
