// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Everything that needs no CUDA, in the order in which it reads best.
#pragma once

// clang-format off
#include "actpack/config.hpp"

// The arithmetic, for host and device.
#include "actpack/philox.hpp"
#include "actpack/rounding.hpp"
#include "actpack/float16.hpp"
#include "actpack/codes.hpp"
#include "actpack/affine.hpp"

// Packed tensors in memory.
#include "actpack/layout.hpp"
#include "actpack/packed.hpp"
#include "actpack/sign_magnitude_view.hpp"
#include "actpack/frame.hpp"
#include "actpack/serialize.hpp"

// The host's verbs.
#include "actpack/instruction_set.hpp"
#include "actpack/parallel.hpp"
#include "actpack/bit_pack.hpp"
#include "actpack/quantize.hpp"
#include "actpack/mask.hpp"
#include "actpack/sign_magnitude.hpp"
#include "actpack/sign_keeping.hpp"
#include "actpack/batch_norm.hpp"

// How many bits a value deserves.
#include "actpack/bit_allocation.hpp"
#include "actpack/variance.hpp"
#include "actpack/auto_precision.hpp"
// clang-format on
