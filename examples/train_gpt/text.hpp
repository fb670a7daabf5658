// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The text: bytes from a folder, or generated ones for machines without any; its last tenth is for
// validation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/checkpoint.hpp"
#include "train_gpt/model.hpp"

namespace gpt {

struct Text {
  std::string origin;
  std::vector<std::uint8_t> bytes;

  std::span<const std::uint8_t> training() const { return std::span(bytes).first(split()); }
  std::span<const std::uint8_t> validation() const { return std::span(bytes).subspan(split()); }

 private:
  std::size_t split() const { return bytes.size() - bytes.size() / 10; }
};

// The user named a text that cannot be used. Single files are a trainer::FileError.
class TextError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Sentences of a few words: enough for a loss to fall. `why` becomes part of the origin.
Text generate_text(const std::string& why);

// `named` comes from the command line and must have a text ("none": generate); `environment`,
// possibly empty, may have one.
Text load_text(const std::string& named, const std::string& environment);

// The same with the environment's ACTPACK_DATA_DIR. Prints the first line of output.
Text load_text(const std::string& named, std::ostream& out);

// Batches of windows anywhere in a text. In data-parallel training every rank draws the whole
// batch and takes its share of it.
class WindowStream {
 public:
  WindowStream(std::span<const std::uint8_t> text, std::int64_t context, std::uint64_t seed);

  // Sequences [first, last) of the next batch of `size`.
  Batch next(std::int64_t size, std::int64_t first, std::int64_t last);
  Batch next(std::int64_t size) { return next(size, 0, size); }

  // How many windows it has drawn. A checkpoint is read into a new stream.
  void visit(trainer::Checkpoint& checkpoint);

 private:
  std::span<const std::uint8_t> text_;
  std::int64_t context_;
  std::size_t starts_;
  std::mt19937_64 random_;
  std::uint64_t windows_ = 0;
};

// `count` windows spread evenly over a text: always the same ones.
Batch spread_windows(std::span<const std::uint8_t> text, std::int64_t context, std::int64_t count);

}  // namespace gpt
