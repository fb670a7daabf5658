// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Reads or generates the text, and cuts it into windows.

#include "train_gpt/text.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <ostream>

#include "common/files.hpp"

namespace gpt {
namespace {

// All files of `folder` or of its folder tinyshakespeare, in the order of their names; nothing if
// there are none.
std::optional<Text> read_text(const std::filesystem::path& folder) {
  for (const std::filesystem::path& candidate : {folder / "tinyshakespeare", folder}) {
    if (!std::filesystem::is_directory(candidate)) {
      continue;
    }
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(candidate)) {
      if (!entry
               .is_directory()) {  // a text that cannot be read is no reason to train on the others
        files.push_back(entry.path());
      }
    }
    std::ranges::sort(files);
    Text text{candidate.string(), {}};
    for (const std::filesystem::path& path : files) {
      const std::string bytes = trainer::read_file(path);
      text.bytes.insert(text.bytes.end(), bytes.begin(), bytes.end());
    }
    if (!text.bytes.empty()) {
      return text;
    }
  }
  return std::nullopt;
}

// The windows of context + 1 bytes that start at `starts`.
Batch cut(std::span<const std::uint8_t> text, std::span<const std::size_t> starts,
          std::int64_t context) {
  Batch batch(static_cast<std::int64_t>(starts.size()), context + 1);
  for (std::size_t i = 0; i < starts.size(); ++i) {
    std::ranges::copy(text.subspan(starts[i], static_cast<std::size_t>(context) + 1),
                      batch.image(static_cast<std::int64_t>(i)).begin());
  }
  return batch;
}

// The number of places that a window of context + 1 bytes can start at.
std::size_t count_starts(std::span<const std::uint8_t> text, std::int64_t context) {
  const std::size_t window = static_cast<std::size_t>(context) + 1;
  if (text.size() < window) {
    throw TextError("a text of " + std::to_string(text.size()) + " bytes has no window of " +
                    std::to_string(window));
  }
  return text.size() - window + 1;
}

}  // namespace

Text generate_text(const std::string& why) {
  constexpr std::array<const char*, 4> articles = {"the ", "a ", "no ", "every "};
  constexpr std::array<const char*, 8> nouns = {"king",  "ship",   "sword",  "night",
                                                "tower", "letter", "winter", "daughter"};
  constexpr std::array<const char*, 6> verbs = {" sees ",  " fears ",   " follows ",
                                                " finds ", " forgets ", " outlives "};
  std::mt19937_64 random(1);
  const auto any_of = [&](const auto& words) { return words[random() % words.size()]; };
  std::string text;
  while (text.size() < 200'000) {
    text += std::string(any_of(articles)) + any_of(nouns) + any_of(verbs) + any_of(articles) +
            any_of(nouns) + (random() % 4 == 0 ? ".\n" : ", and ");
  }
  return {"a generated text (" + why + ")", {text.begin(), text.end()}};
}

Text load_text(const std::string& named, const std::string& environment) {
  if (named == "none") {
    return generate_text("as asked by --data none");
  }
  if (!named.empty()) {
    if (std::optional<Text> text = read_text(named)) {
      return *std::move(text);
    }
    throw TextError("--data " + named + ": neither it nor its folder tinyshakespeare has a text");
  }
  if (!environment.empty()) {
    if (std::optional<Text> text = read_text(std::filesystem::path(environment))) {
      return *std::move(text);
    }
  }
  return generate_text("no text: name a folder with --data or ACTPACK_DATA_DIR");
}

Text load_text(const std::string& named, std::ostream& out) {
  const char* environment = std::getenv("ACTPACK_DATA_DIR");
  Text text = load_text(named, environment == nullptr ? "" : environment);
  out << "Text: " << text.origin << ", " << text.training().size() << " + "
      << text.validation().size() << " bytes" << std::endl;
  return text;
}

WindowStream::WindowStream(std::span<const std::uint8_t> text, std::int64_t context,
                           std::uint64_t seed)
    : text_(text), context_(context), starts_(count_starts(text, context)) {
  std::seed_seq sequence{seed, seed >> 32, std::uint64_t{1}};  // apart from the weights' numbers
  random_.seed(sequence);
}

Batch WindowStream::next(std::int64_t size, std::int64_t first, std::int64_t last) {
  std::vector<std::size_t> starts(static_cast<std::size_t>(size));
  std::ranges::generate(starts, [&] { return random_() % starts_; });
  windows_ += starts.size();
  return cut(text_, part(std::span<const std::size_t>(starts), first, last - first), context_);
}

void WindowStream::visit(trainer::Checkpoint& checkpoint) {
  std::uint64_t windows = windows_;
  checkpoint.visit("windows", windows);
  random_.discard(windows - windows_);  // each takes one number
  windows_ = windows;
}

Batch spread_windows(std::span<const std::uint8_t> text, std::int64_t context, std::int64_t count) {
  const std::size_t starts = count_starts(text, context);
  std::vector<std::size_t> chosen;
  for (std::int64_t i = 0; i < count; ++i) {
    chosen.push_back(starts * static_cast<std::size_t>(i) / static_cast<std::size_t>(count));
  }
  return cut(text, chosen, context);
}

}  // namespace gpt
