// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Entries, one after the other, and the checksum that guards them.

#include "common/checkpoint.hpp"

#include <zlib.h>

#include <algorithm>
#include <ostream>
#include <string_view>

#include "common/files.hpp"

namespace trainer {
namespace {

constexpr const char* title = "actpack checkpoint, version 1, checksum ";

std::string first_line(const std::string& entries) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(entries.data());
  return std::string(title) + std::to_string(checksum_of(std::span(bytes, entries.size()))) + '\n';
}

}  // namespace

std::uint32_t checksum_of(std::span<const std::uint8_t> bytes, std::uint32_t before) {
  return static_cast<std::uint32_t>(crc32_z(before, bytes.data(), bytes.size()));
}

Checkpoint::Checkpoint(const std::string& path) : path_(path), bytes_(read_file(path)) {
  if (!bytes_.starts_with(title)) {
    throw FileError(path, "is no checkpoint of version 1");
  }
  const std::string line = next_line() + '\n';
  bytes_.erase(0, line.size());
  if (line != first_line(bytes_)) {
    throw FileError(path, "is damaged: its checksum is wrong");
  }
}

void Checkpoint::require_same(const std::string& name, const std::string& value) {
  std::vector<char> found(value.begin(), value.end());
  visit(name, found);
  if (const std::string other(found.begin(), found.end()); other != value) {
    throw FileError(path_, "was made with " + name + " " + other + ", not " + value);
  }
}

void Checkpoint::require_same(const std::vector<Flag>& flags) {
  for (const Flag& flag : flags) {
    if (flag.value) {
      require_same(flag.name, flag.value());
    }
  }
}

void Checkpoint::require_end() const {
  if (at_ != bytes_.size()) {
    throw FileError(path_, "goes on where it should end");
  }
}

void Checkpoint::write(const std::string& path) const {
  write_file(path, [&](std::ostream& out) { out << first_line(bytes_) << bytes_; });
}

std::string Checkpoint::next_line() const {
  return bytes_.substr(at_, bytes_.find('\n', at_) - at_);
}

std::size_t Checkpoint::next_count(const std::string& start_of_line) const {
  const std::string line = next_line();
  std::uint64_t count = 0;
  if (line.starts_with(start_of_line)) {
    parse_number(std::string_view(line).substr(start_of_line.size()), 0, bytes_.size(), count);
  }
  return count;
}

void Checkpoint::visit_bytes(const std::string& line, std::span<std::byte> values) {
  if (!is_reading()) {
    bytes_ += line + '\n';
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size());
    return;
  }
  const std::string found = next_line();
  const std::size_t start = std::min(at_ + line.size() + 1, bytes_.size());
  if (found != line || bytes_.size() - start < values.size()) {
    throw FileError(path_, "has \"" + found + "\" where \"" + line + "\" is expected");
  }
  std::ranges::copy(std::as_bytes(std::span(bytes_)).subspan(start, values.size()), values.begin());
  at_ = start + values.size();
}

void CheckpointOptions::require_consistent(bool has_steps, const std::string& json) const {
  if (!has_steps && !(file.empty() && resumed_file.empty())) {
    throw OptionError("--checkpoint, --resume: want a training run of at least one step");
  }
  if (!file.empty() && file == json) {
    throw OptionError("--checkpoint " + file + ": is the file of --json, too");
  }
}

std::vector<Flag> checkpoint_flags(CheckpointOptions& options) {
  return {path_flag("--checkpoint", "FILE", "keeps the state of the training there", "a file name",
                    options.file),
          number_flag("--checkpoint-every", "N", "steps from one checkpoint to the next (100)",
                      options.every, 1, 1'000'000'000),
          path_flag("--resume", "FILE", "goes on from a checkpoint of the same training",
                    "a file name", options.resumed_file)};
}

}  // namespace trainer
