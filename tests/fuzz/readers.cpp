// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Claims: whatever a file holds, the trainers' readers return what it says or throw FileError, and
// take no more memory than a file of its size can stand for.

#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "allocations.hpp"
#include "common/checkpoint.hpp"
#include "common/files.hpp"
#include "common/idx.hpp"
#include "fuzz.hpp"

namespace {

using namespace fuzz;

using Bytes = std::vector<std::uint8_t>;

// A file in memory, which has a path all the same.
class MemoryFile {
 public:
  explicit MemoryFile(std::span<const std::uint8_t> contents) : file_(memfd_create("fuzz", 0)) {
    check(file_ >= 0 && write(file_, contents.data(), contents.size()) == std::ssize(contents),
          "a file can be written");
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { close(file_); }

  std::string path() const { return "/proc/self/fd/" + std::to_string(file_); }

 private:
  int file_;
};

// Calls call(), which may throw FileError. Returns whether it did not.
template <class Call>
bool reads(std::size_t largest_allocation, const Call& call) {
  allocations.largest = largest_allocation;
  bool is_read = true;
  try {
    call();
  } catch (const trainer::FileError& error) {
    is_read = false;
    check(std::string(error.what()).size() > 20, "an error names the file and says what is wrong");
  }
  allocations.largest = std::numeric_limits<std::size_t>::max();
  return is_read;
}

// Changes some bytes, the length, or what follows.
void damage(Input& input, Bytes& bytes) {
  for (int damages = input.between(0, 3); damages > 0 && !bytes.empty(); --damages) {
    const auto at = input.between<std::size_t>(0, bytes.size() - 1);
    switch (input.between(0, 4)) {
      case 0: bytes.resize(at); break;
      case 1: bytes[at] ^= static_cast<std::uint8_t>(1 << input.between(0, 7)); break;
      case 2: bytes[at] = input.number<std::uint8_t>(); break;
      case 3:
        std::ranges::copy(input.take(input.between<std::size_t>(1, 20)), std::back_inserter(bytes));
        break;
      default:
        bytes.insert(bytes.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
    }
  }
}

// ---- gzip and IDX -------------------------------------------------------------------------------

Bytes compressed(const Bytes& bytes) {
  z_stream stream{};
  constexpr int small_window = 16 + 9, least_memory = 1;
  deflateInit2(&stream, 1, Z_DEFLATED, small_window, least_memory, Z_DEFAULT_STRATEGY);
  Bytes result(deflateBound(&stream, bytes.size()) + 32);
  stream.next_in = const_cast<Bytef*>(bytes.data());
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = result.data();
  stream.avail_out = static_cast<uInt>(result.size());
  check(deflate(&stream, Z_FINISH) == Z_STREAM_END, "bytes can be compressed");
  result.resize(stream.total_out);
  deflateEnd(&stream);
  return result;
}

void idx(Input& input) {
  const bool is_image = input.flag();
  const std::uint32_t magic = is_image ? 2051 : 2049;
  const auto side = input.between<std::uint32_t>(1, 9);
  const std::vector<std::uint32_t> item =
      is_image ? std::vector{side, side} : std::vector<std::uint32_t>{};
  const std::uint32_t item_size = is_image ? side * side : 1;
  const std::uint32_t count = input.one_in(4) ? static_cast<std::uint32_t>(hostile_integer(input))
                                              : input.between<std::uint32_t>(0, 20);
  Bytes bytes;
  const auto put = [&](std::uint32_t number) {
    if (input.one_in(16)) number = static_cast<std::uint32_t>(hostile_integer(input));
    for (int shift = 24; shift >= 0; shift -= 8)
      bytes.push_back(static_cast<std::uint8_t>(number >> shift));
  };
  put(magic);
  put(count);
  for (const std::uint32_t size : item) put(size);
  const std::size_t header = bytes.size();
  // As promised, or some other size: up to some hundred times what the file takes.
  std::size_t size = std::size_t{count} * item_size;
  if (size > 4000 || input.one_in(4))
    size = input.between<std::size_t>(0, input.one_in(16) ? 3'000'000 : 900);
  bytes.resize(header + size, input.number<std::uint8_t>());
  const Bytes whole = bytes;
  damage(input, bytes);
  Bytes file = compressed(bytes);
  if (input.flag()) damage(input, file);
  const MemoryFile stored(file);
  trainer::Idx result;
  const bool is_read = reads((std::size_t{1} << 20) + 1100 * file.size(),
                             [&] { result = trainer::read_idx(stored.path(), magic, item); });
  if (!is_read) return;
  check(result.values.size() == static_cast<std::size_t>(result.count) * item_size,
        "all of what the header promises is there");
  if (file == compressed(whole)) {
    check(std::ranges::equal(result.values, std::span(whole).subspan(header)),
          "values are those of the file");
  }
}

// ---- Checkpoints --------------------------------------------------------------------------------

struct Run {
  std::int64_t steps = 0;
  std::vector<float> weights;
  std::vector<std::uint8_t> order;
  double loss = 0;

  void visit(trainer::Checkpoint& checkpoint) {
    checkpoint.visit("steps", steps);
    checkpoint.visit("weights", weights);
    checkpoint.visit("order", order);
    checkpoint.visit("loss", loss);
  }
};

// A checkpoint's bytes: a first line with the checksum of what follows.
Bytes sealed(const Bytes& entries) {
  const std::string line = "actpack checkpoint, version 1, checksum " +
                           std::to_string(trainer::checksum_of(entries)) + '\n';
  Bytes bytes(line.begin(), line.end());
  bytes.insert(bytes.end(), entries.begin(), entries.end());
  return bytes;
}

void checkpoint(Input& input) {
  Run run;
  run.steps = input.number<std::int64_t>();
  run.weights.resize(input.between<std::size_t>(0, 40));
  for (float& weight : run.weights) weight = input.number<std::uint8_t>();
  const auto order = input.take(input.between<std::size_t>(0, 60));
  run.order.assign(order.begin(), order.end());
  run.loss = 0.5;
  Bytes bytes;
  const auto put = [&]<class T>(const char* name, std::span<const T> values) {
    const std::string line = std::string(name) + ' ' + std::to_string(sizeof(T)) + ' ' +
                             std::to_string(values.size()) + '\n';
    bytes.insert(bytes.end(), line.begin(), line.end());
    const auto* const first = reinterpret_cast<const std::uint8_t*>(values.data());
    bytes.insert(bytes.end(), first, first + values.size_bytes());
  };
  put("steps", std::span<const std::int64_t>(&run.steps, 1));
  put("weights", std::span<const float>(run.weights));
  put("order", std::span<const std::uint8_t>(run.order));
  put("loss", std::span<const double>(&run.loss, 1));
  const Bytes whole = sealed(bytes);
  if (input.flag()) {
    damage(input, bytes);
    bytes = sealed(bytes);
  } else {
    bytes = whole;
    damage(input, bytes);
  }
  const MemoryFile file(bytes);
  Run other;
  const bool is_read = reads((std::size_t{1} << 16) + 4 * bytes.size(), [&] {
    trainer::Checkpoint read(file.path());
    other.visit(read);
    read.require_end();
  });
  if (bytes == whole) {
    check(is_read && other.steps == run.steps && other.weights == run.weights &&
              other.order == run.order && other.loss == run.loss,
          "a checkpoint gives back what was written");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  Input input(bytes, size);
  input.one_in(4) ? checkpoint(input) : idx(input);
  return 0;
}
