// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Finds, reads and generates Fashion-MNIST, and deals it out in batches.

#include "common/data.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <optional>
#include <ostream>
#include <utility>

#include "common/idx.hpp"

#ifndef ACTPACK_DOWNLOADED_DATA
#define ACTPACK_DOWNLOADED_DATA ""
#endif

namespace trainer {
namespace {

Batch read_images(const std::filesystem::path& folder, const std::string& stem) {
  const std::filesystem::path image_path = folder / (stem + "-images-idx3-ubyte.gz");
  const std::filesystem::path label_path = folder / (stem + "-labels-idx1-ubyte.gz");
  const Idx images = read_idx(image_path, 2051, {28, 28});
  Idx labels = read_idx(label_path, 2049, {});
  if (images.count == 0) {
    throw FileError(image_path, "holds no images");
  }
  if (labels.count != images.count) {
    throw FileError(label_path, std::to_string(labels.count) + " labels, but " +
                                    image_path.filename().string() + " has " +
                                    std::to_string(images.count) + " images");
  }
  const auto wrong = std::ranges::find_if(labels.values, [](int label) { return label > 9; });
  if (wrong != labels.values.end()) {
    throw FileError(label_path, "label " + std::to_string(*wrong) + " at index " +
                                    std::to_string(wrong - labels.values.begin()) +
                                    ", expected 0 to 9");
  }
  Batch batch;
  batch.pixels = Tensor<std::uint8_t>(images.count, 28 * 28);
  batch.labels = std::move(labels.values);
  std::ranges::copy(images.values, batch.pixels.span().begin());
  return batch;
}

// Where in `folder` the data set is: in itself or in a folder of the data set's name.
std::optional<std::filesystem::path> find_data(const std::filesystem::path& folder) {
  for (const std::filesystem::path& candidate : {folder, folder / "fashion-mnist"}) {
    for (const char* stem : {"train", "t10k"}) {
      for (const char* kind : {"-images-idx3-ubyte.gz", "-labels-idx1-ubyte.gz"}) {
        if (std::filesystem::exists(candidate / (std::string(stem) + kind))) {
          return candidate;  // an incomplete set is an error, not a reason to look elsewhere
        }
      }
    }
  }
  return std::nullopt;
}

Data generated(const std::string& why) {
  return {"a small generated data set (" + why + ")", generate_data(6000, 1),
          generate_data(1000, 2)};
}

Data read_data(const std::filesystem::path& folder) {
  constexpr std::uint32_t fashion_mnist = 0xC7A95B27;  // other data have the same format
  Data data{"", read_images(folder, "train"), read_images(folder, "t10k")};
  data.origin = (data.checksum() == fashion_mnist ? "Fashion-MNIST from " : "other images from ") +
                folder.string();
  return data;
}

}  // namespace

std::uint32_t Data::checksum() const {
  std::uint32_t sum = 0;
  for (const std::span<const std::uint8_t> bytes :
       {train.pixels.span(), std::span(train.labels), test.pixels.span(), std::span(test.labels)}) {
    sum = checksum_of(bytes, sum);
  }
  return sum;
}

Data load_data(const std::string& named, const std::string& environment,
               const std::string& downloaded) {
  if (named == "none") {
    return generated("as asked by --data none");
  }
  if (!named.empty() && !find_data(named)) {
    throw FileError(named,
                    "--data: has no train-images-idx3-ubyte.gz, nor has its fashion-mnist folder");
  }
  for (const std::string& folder : {named, environment, downloaded}) {
    if (const auto found = folder.empty() ? std::nullopt : find_data(folder)) {
      return read_data(*found);
    }
  }
  return generated("no folder with Fashion-MNIST: name one with --data or ACTPACK_DATA_DIR");
}

Data load_data(const std::string& named, std::int64_t train_limit, std::ostream& out) {
  const char* environment = std::getenv("ACTPACK_DATA_DIR");
  Data data = load_data(named, environment == nullptr ? "" : environment, ACTPACK_DOWNLOADED_DATA);
  limit(data.train, train_limit);
  out << "Data: " << data.origin << ", " << data.train.labels.size() << " + "
      << data.test.labels.size() << " images" << std::endl;
  return data;
}

PixelScale measure_pixels(std::span<const std::uint8_t> pixels) {
  double sum = 0;
  double sum_of_squares = 0;
  for (const std::uint8_t pixel : pixels) {
    sum += pixel;
    sum_of_squares += static_cast<double>(pixel) * pixel;
  }
  const double count = static_cast<double>(pixels.size());
  const double mean = sum / count;
  const double deviation = std::sqrt(std::max(1.0, sum_of_squares / count - mean * mean));
  return {static_cast<float>(1 / deviation), static_cast<float>(-mean / deviation)};
}

Batch gather(const Batch& data, std::span<const std::int64_t> indices) {
  Batch batch;
  batch.pixels =
      Tensor<std::uint8_t>(static_cast<std::int64_t>(indices.size()), data.pixels.row_size());
  batch.labels.reserve(indices.size());
  for (std::size_t i = 0; i < indices.size(); ++i) {
    std::ranges::copy(data.pixels.image(indices[i]),
                      batch.pixels.image(static_cast<std::int64_t>(i)).begin());
    batch.labels.push_back(data.labels[static_cast<std::size_t>(indices[i])]);
  }
  return batch;
}

Batch copy_of(const Batch& batch) {
  Batch copy;
  copy.pixels = Tensor<std::uint8_t>(batch.pixels.images(), batch.pixels.row_size());
  copy.labels = batch.labels;
  std::ranges::copy(batch.pixels.span(), copy.pixels.span().begin());
  return copy;
}

void limit(Batch& data, std::int64_t count) {
  if (count < data.pixels.images()) {
    std::vector<std::int64_t> indices(static_cast<std::size_t>(count));
    std::iota(indices.begin(), indices.end(), std::int64_t{0});
    data = gather(data, indices);
  }
}

BatchStream::BatchStream(const Batch& data, std::uint64_t seed, std::int64_t size)
    : data_(data), size_(size), order_(data.labels.size()), position_(data.labels.size()) {
  std::seed_seq sequence{seed, seed >> 32, std::uint64_t{1}};  // apart from the weights' numbers
  random_.seed(sequence);
  std::iota(order_.begin(), order_.end(), std::int64_t{0});
}

void BatchStream::visit(Checkpoint& checkpoint) {
  std::int64_t batches = batches_;
  checkpoint.visit("batches", batches);
  while (batches_ < batches) {
    advance();
  }
}

std::span<const std::int64_t> BatchStream::advance() {
  if (position_ == order_.size()) {
    for (std::size_t last = order_.size() - 1; last > 0; --last) {
      std::swap(order_[last], order_[random_() % (last + 1)]);
    }
    position_ = 0;
  }
  const std::size_t size = std::min(static_cast<std::size_t>(size_), order_.size() - position_);
  const std::span<const std::int64_t> indices(&order_[position_], size);
  position_ += size;
  ++batches_;
  return indices;
}

}  // namespace trainer
