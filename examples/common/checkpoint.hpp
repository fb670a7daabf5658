// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The state of a training run in a file. Each part of a program visits what it consists of, value
// by value; the same visits, in the same order, fill a checkpoint or take its values back.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "common/flags.hpp"

namespace trainer {

// The CRC-32 of `bytes`, or of what `before` is that of and `bytes` after it.
std::uint32_t checksum_of(std::span<const std::uint8_t> bytes, std::uint32_t before = 0);

// The file's first line holds the CRC-32 of what follows: entries of a line with the value's name,
// the bytes of an element and the number of elements, and the little-endian elements themselves.
class Checkpoint {
 public:
  Checkpoint() = default;  // to be filled

  // To be read. Throws FileError if the file is none, or damaged.
  explicit Checkpoint(const std::string& path);

  bool is_reading() const { return !path_.empty(); }

  // Where the checkpoint is read, these throw FileError if it has something else here.
  template <class T>
  requires std::is_arithmetic_v<T>
  void visit(const std::string& name, T& value) { visit(name, std::span(&value, 1)); }
  template <class T>
  void visit(const std::string& name, std::span<T> values) {
    static_assert(std::is_trivially_copyable_v<T> && std::endian::native == std::endian::little);
    visit_bytes(name + ' ' + std::to_string(sizeof(T)) + ' ' + std::to_string(values.size()),
                std::as_writable_bytes(values));
  }
  template <class T>
  void visit(const std::string& name, std::vector<T>& values) {
    if (is_reading()) {
      values.resize(next_count(name + ' ' + std::to_string(sizeof(T)) + ' '));
    }
    visit(name, std::span(values));
  }

  // Writes the value, or throws FileError if the file was made with another one.
  void require_same(const std::string& name, const std::string& value);
  void require_same(const std::vector<Flag>& flags);

  void require_end() const;

  // Throws FileError, and leaves the file as it was.
  void write(const std::string& path) const;

 private:
  std::string next_line() const;
  std::size_t next_count(const std::string& start_of_line) const;
  void visit_bytes(const std::string& line, std::span<std::byte> values);

  std::string path_;  // empty: this one is to be filled
  std::string bytes_;
  std::size_t at_ = 0;
};

struct CheckpointOptions {
  std::string file;          // empty: none
  std::int64_t every = 100;  // steps
  std::string resumed_file;  // empty: a new training run

  // Throws OptionError for flags that do not go together.
  void require_consistent(bool has_steps, const std::string& json) const;

  // After a step, `done` of `all` being done.
  bool is_due(std::int64_t done, std::int64_t all) const {
    return !file.empty() && (done % every == 0 || done == all);
  }
};

std::vector<Flag> checkpoint_flags(CheckpointOptions& options);

}  // namespace trainer
