// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// Everything that needs no CUDA, in the order in which it reads best.
#pragma once

#include "actpack/affine.hpp"
#include "actpack/auto_precision.hpp"
#include "actpack/bit_allocation.hpp"
#include "actpack/bit_pack.hpp"
#include "actpack/config.hpp"
#include "actpack/float16.hpp"
#include "actpack/instruction_set.hpp"
#include "actpack/layout.hpp"
#include "actpack/mask.hpp"
#include "actpack/packed.hpp"
#include "actpack/parallel.hpp"
#include "actpack/philox.hpp"
#include "actpack/quantize.hpp"
#include "actpack/rounding.hpp"
#include "actpack/sign_magnitude.hpp"
#include "actpack/variance.hpp"
