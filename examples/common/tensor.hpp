// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The trainer's arrays: plain memory from operator new, so that memory.hpp counts every byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>

namespace trainer {

// Owns `numel` values that start at a cache line. They are not initialised.
template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(std::int64_t numel)
      : data_(static_cast<T*>(::operator new(static_cast<std::size_t>(numel) * sizeof(T), line))),
        numel_(numel) {}

  std::int64_t numel() const { return numel_; }
  std::span<T> span() { return {data_.get(), static_cast<std::size_t>(numel_)}; }
  std::span<const T> span() const { return {data_.get(), static_cast<std::size_t>(numel_)}; }
  std::span<T> first(std::int64_t numel) { return span().first(static_cast<std::size_t>(numel)); }

 private:
  static constexpr std::align_val_t line{64};
  struct Free {
    void operator()(T* data) const { ::operator delete(data, line); }
  };

  std::unique_ptr<T, Free> data_;
  std::int64_t numel_ = 0;
};

// A batch: `images` rows of `row_size` values each, not initialised.
template <class T = float>
class Tensor {
 public:
  Tensor() = default;
  Tensor(std::int64_t images, std::int64_t row_size)
      : values_(images * row_size), images_(images), row_size_(row_size) {}

  std::int64_t images() const { return images_; }
  std::int64_t row_size() const { return row_size_; }
  std::span<T> span() { return values_.span(); }
  std::span<const T> span() const { return values_.span(); }
  std::span<T> image(std::int64_t image) { return row(from(image)); }
  std::span<const T> image(std::int64_t image) const { return row(from(image)); }
  std::span<T> from(std::int64_t image) { return span().subspan(start(image)); }
  std::span<const T> from(std::int64_t image) const { return span().subspan(start(image)); }

 private:
  std::size_t start(std::int64_t image) const {
    return static_cast<std::size_t>(image * row_size_);
  }
  template <class U>
  std::span<U> row(std::span<U> values) const {
    return values.first(static_cast<std::size_t>(row_size_));
  }

  Array<T> values_;
  std::int64_t images_ = 0;
  std::int64_t row_size_ = 0;
};

// One image in memory: [height][width][channels], channels last.
struct Shape {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t channels = 0;

  std::int64_t pixels() const { return height * width; }
  std::int64_t numel() const { return pixels() * channels; }
};

}  // namespace trainer
