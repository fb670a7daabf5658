// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// A scope that packs every tensor autograd saves, for any model.
#pragma once

#include <ATen/SequenceNumber.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/saved_variable_hooks.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "actpack_torch/dense_tensor.hpp"
#include "actpack_torch/options.hpp"
#include "actpack_torch/packed_tensor.hpp"

namespace actpack_torch {

// Packs what one thread's autograd saves. Tensors that share their memory share one packed copy.
class Packer {
 public:
  Packer(const std::vector<at::Tensor>& kept, const Options& options) : options_(options) {
    flat_layout(0, options);  // refuses wrong widths and group sizes here, not in a forward pass
    for (const at::Tensor& tensor : kept) {
      kept_.insert(tensor.storage().unsafeGetStorageImpl());
    }
  }

  // Returns an empty tensor if `tensor` must stay as it is.
  PackedTensor pack(const at::Tensor& tensor) {
    if (!may_be_packed(tensor)) {
      return {};
    }
    const at::Tensor dense =
        tensor.is_non_overlapping_and_dense() ? tensor.detach() : tensor.contiguous();
    const Region region{dense.storage().unsafeGetStorageImpl(), dense.storage_offset(),
                        dense.numel(), dense.scalar_type(), dense._version()};
    std::erase_if(entries_, [](const Entry& entry) {
      return entry.storage.expired() || entry.values.expired();
    });
    const auto known = std::ranges::find(entries_, region, &Entry::region);
    if (known != entries_.end()) {
      return {known->values.lock(), dense};
    }
    std::shared_ptr<const PackedValues> values = ExactValues::pack(dense);
    if (values == nullptr && is_element(dense.scalar_type()) && !is_callers_own(tensor)) {
      values = std::make_shared<SignMagnitudeValues>(
          dense, flat_layout(dense.numel(), options_),
          noise(options_, Origin::scope, options_.step, number_++));
    }
    if (values == nullptr) {
      return {};
    }
    entries_.push_back({dense.storage().getWeakStorageImpl(), region, values});
    return {std::move(values), dense};
  }

 private:
  // Two tensors with equal regions have the same values.
  struct Region {
    const c10::StorageImpl* storage;
    std::int64_t offset;
    std::int64_t numel;
    at::ScalarType type;
    std::int64_t version;
    bool operator==(const Region&) const = default;
  };
  // While an entry holds its weak pointer, no other storage can take that address.
  struct Entry {
    c10::weak_intrusive_ptr<c10::StorageImpl> storage;
    Region region;
    std::weak_ptr<const PackedValues> values;
  };

  bool may_be_packed(const at::Tensor& tensor) const {
    const at::ScalarType type = tensor.scalar_type();
    if (tensor.numel() < std::max<std::int64_t>(options_.min_numel, 1) ||
        !tensor.device().is_cpu() || tensor.layout() != at::kStrided || tensor.is_neg() ||
        at::isComplexType(type) || at::isQIntType(type) || type == at::kByte || type == at::kChar) {
      return false;
    }
    const bool is_expanded = static_cast<std::size_t>(tensor.numel()) * tensor.element_size() >
                             tensor.storage().nbytes();
    return !is_expanded && !kept_.contains(tensor.storage().unsafeGetStorageImpl()) &&
           !(is_callers_own(tensor) && base_of(tensor).requires_grad()) &&
           !is_result_to_keep(tensor);
  }

  // A node that saves its own result (exp, sigmoid, softmax) makes nonlinear use of it, which noise
  // would bias. A ReLU's result is the exception: only its signs count. The node that saves a
  // tensor is the newest one, so a tensor that the newest node made is that node's result.
  static bool is_result_to_keep(const at::Tensor& tensor) {
    const auto& node = tensor.grad_fn();
    return node && node->sequence_nr() + 1 == at::sequence_number::peek() &&
           node->name().rfind("ReluBackward", 0) != 0;
  }

  // Leaves are parameters and data, which the caller holds anyway. Results of operations without a
  // gradient, such as dropout's mask, are leaves too, so ExactValues packs whatever it can.
  static bool is_callers_own(const at::Tensor& tensor) { return base_of(tensor).is_leaf(); }
  static const at::TensorBase& base_of(const at::Tensor& tensor) {
    return tensor.is_view() ? tensor._base() : tensor;
  }

  Options options_;
  std::unordered_set<const c10::StorageImpl*> kept_;
  std::vector<Entry> entries_;
  std::uint64_t number_ = 0;
};

// A tensor that autograd saved.
class SavedTensor final : public torch::autograd::SavedVariableHooks {
 public:
  explicit SavedTensor(std::shared_ptr<Packer> packer) : packer_(std::move(packer)) {}

  void call_pack_hook(const at::Tensor& tensor) override {
    name_ = describe(tensor);
    counter_ = torch::autograd::impl::version_counter(tensor);
    version_ = counter_.current_version();
    packed_ = packer_->pack(tensor);
    if (!packed_) {
      unpacked_ = tensor.detach();  // the graph would hold itself
    }
    packer_ = nullptr;
  }

  // With hooks, autograd no longer checks that nobody changed the tensor.
  at::Tensor call_unpack_hook() override {
    TORCH_CHECK(counter_.current_version() == version_, "actpack: ", name_,
                ", was changed in place after autograd had saved it: it is at version ",
                counter_.current_version(), ", saved was version ", version_);
    return packed_ ? packed_.unpack() : unpacked_;
  }

 private:
  std::shared_ptr<Packer> packer_;  // until the tensor is packed
  std::string name_;
  c10::VariableVersion counter_;
  std::uint32_t version_ = 0;
  PackedTensor packed_;
  at::Tensor unpacked_;
};

// While it lives, packs what autograd saves in this thread.
//
// Activations become SignMagnitudeValues (3.125 bits a value at 2 bits); pooling indices, booleans
// and dropout's masks are packed exactly. Parameters, buffers, the caller's data, small tensors and
// the own results that operations other than ReLU save (exp, sigmoid, softmax) stay as they are.
//
// Gradients are unbiased where a backward pass is linear in the input it saved: convolution,
// linear, ReLU, max pooling, dropout and products; batch norm adds a term that vanishes with the
// batch. A nonlinear backward pass (GELU, division, a clamp at bounds other than 0) gets a bias
// that falls with the width.
//
// The backward pass may run after the scope's end. The innermost of nested scopes counts. Each
// thread has its own and should have its own seed. For C++ programs only: it replaces autograd's
// engine by one that differs in nothing but the hooks.
class CompressSavedTensors {
 public:
  explicit CompressSavedTensors(const torch::nn::Module& model, const Options& options = {})
      : CompressSavedTensors(tensors_of(model), options) {}
  // Tensors in `kept` stay as they are, with all their views.
  explicit CompressSavedTensors(const std::vector<at::Tensor>& kept, const Options& options = {})
      : outer_(current()) {
    static const bool is_installed =
        (torch::autograd::set_default_engine_stub(&HookedEngine::instance), true);
    static_cast<void>(is_installed);
    current() = std::make_shared<Packer>(kept, options);
  }
  ~CompressSavedTensors() { current() = std::move(outer_); }
  CompressSavedTensors(const CompressSavedTensors&) = delete;
  CompressSavedTensors& operator=(const CompressSavedTensors&) = delete;

 private:
  class HookedEngine final : public torch::autograd::Engine {
   public:
    ~HookedEngine() override { stop(); }
    static Engine& instance() {
      static HookedEngine engine;
      return engine;
    }
    std::unique_ptr<torch::autograd::SavedVariableHooks> get_default_saved_variable_hooks()
        override {
      return current() ? std::make_unique<SavedTensor>(current()) : nullptr;
    }
  };

  static std::vector<at::Tensor> tensors_of(const torch::nn::Module& model) {
    std::vector<at::Tensor> tensors = model.parameters();
    const std::vector<at::Tensor> buffers = model.buffers();
    tensors.insert(tensors.end(), buffers.begin(), buffers.end());
    return tensors;
  }
  static std::shared_ptr<Packer>& current() {
    static thread_local std::shared_ptr<Packer> packer;
    return packer;
  }

  std::shared_ptr<Packer> outer_;
};

}  // namespace actpack_torch
