// SPDX-FileCopyrightText: The actpack authors
// SPDX-License-Identifier: MIT
//
// The C functions of the Python package over the library's verbs: pointers and streams, no
// framework. They serve _native.py, which declares them again, and change with it; they are no
// interface for other programs.
//
// Every function that can fail returns null, or a sentence that says which argument was wrong. The
// sentence stays valid until the thread's next call. Arguments are checked before anything is
// written, as far as a function can see them: it cannot tell how long an array is, nor whether a
// pointer names memory of the machine that the call runs on. No function throws.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { ACTPACK_TYPE_FLOAT32, ACTPACK_TYPE_FLOAT16, ACTPACK_TYPE_BFLOAT16 };
enum { ACTPACK_FORM_AFFINE, ACTPACK_FORM_SIGN_MAGNITUDE };
enum { ACTPACK_DECODE_VALUES, ACTPACK_DECODE_RELU };
enum { ACTPACK_SAVED_INPUT, ACTPACK_SAVED_OUTPUT };

// A call's element type, and where it runs: on a stream of the current device, or on so many
// threads.
typedef struct actpack_execution {
  int32_t type;     // ACTPACK_TYPE_…, of all arrays called values below
  int32_t is_cuda;  // 0: all pointers name host memory; 1: memory of the current device
  void* stream;     // a cudaStream_t; unused on the host
  int32_t threads;  // of the host, at least 1; more than the machine has processors count as those
} actpack_execution;

// One packed tensor: `bytes` holds the planes of one row of `numel` values in groups of 256, one
// after the other: the codes, the signs if the form has them, the parameters of the groups.
typedef struct actpack_context {
  int64_t numel;          // 0 to 2^48
  int32_t form;           // ACTPACK_FORM_…
  int32_t bits;           // of a code: 1, 2, 4 or 8
  int32_t is_stochastic;  // 0: rounded to nearest; 1: at random, by seed and offset
  uint64_t seed;
  uint64_t offset;
  uint8_t* bytes;  // [actpack_size_bytes], aligned to 16 bytes; may be null if there are no values
} actpack_context;

// A batch normalisation. Value e of memory belongs to channel e / inner % channels. Pointers are
// aligned to 4 bytes, by_channel to 16.
typedef struct actpack_normalization {
  int64_t channels;       // positive; channels · inner divides the number of values
  int64_t inner;          // positive
  int32_t saved;          // ACTPACK_SAVED_…: the tensor that the forward pass packs
  float epsilon;          // not negative
  float smallest_gamma;   // not negative: a smaller |gamma| counts as this in the backward pass
  const float* mean;      // [channels], read by the forward pass, as the next three are
  const float* variance;  // [channels]
  const float* gamma;     // [channels], or null: 1
  const float* beta;      // [channels], or null: 0
  float* by_channel;      // [channels, 4]: written by the forward pass, read by the backward pass
} actpack_normalization;

// 10000 · major + 100 · minor + patch.
int32_t actpack_version(void);

// 1 if calls may run on a device, else 0.
int32_t actpack_has_cuda(void);

// Fails unless the caller's structs, which it declares for itself, have these sizes in bytes.
const char* actpack_check_sizes(int64_t execution, int64_t context, int64_t normalization);

// Writes the bytes that a context takes to *size. Reads no `bytes`.
const char* actpack_size_bytes(const actpack_context* context, int64_t* size);

// Packs the values `x` [to->numel].
const char* actpack_encode(const actpack_execution* execution, const void* x,
                           const actpack_context* to);

// Writes values first, first + 1, … to `x` [count], all of which `from` must have. `decode_as`:
// ACTPACK_DECODE_…; only a sign-magnitude context decodes to max(y, 0). `is_subtractive`: 1 takes
// the noise of stochastic rounding out again, 0 does not.
const char* actpack_decode(const actpack_execution* execution, const actpack_context* from,
                           int64_t first, int64_t count, void* x, int32_t decode_as,
                           int32_t is_subtractive);

// Decodes all of a sign-magnitude context to the values `x` [from->numel]; positive ones stay
// positive.
const char* actpack_decode_keeping_signs(const actpack_execution* execution,
                                         const actpack_context* from, void* x);

// Writes dx = dy where a sign-magnitude context has y > 0, else 0: values [signs->numel]. `dx` may
// be `dy`.
const char* actpack_apply_signs(const actpack_execution* execution, const void* dy,
                                const actpack_context* signs, void* dx);

// Writes y = max(x, 0), and x > 0 to `mask`: values [numel], 0 to 2^48; a mask has a bit for each
// in (numel + 31) / 32 words. `y` may be `x`.
const char* actpack_relu(const actpack_execution* execution, const void* x, int64_t numel, void* y,
                         uint32_t* mask);

// Writes y = x / (1 - p) or, with probability p = drop_probability in [0, 1), 0, and to `mask`
// which of the two.
const char* actpack_dropout(const actpack_execution* execution, const void* x, int64_t numel,
                            void* y, uint32_t* mask, double drop_probability, uint64_t seed,
                            uint64_t offset);

// Writes dx = dy / (1 - p) where the mask is set, else 0. `dx` may be `dy`.
const char* actpack_apply_mask(const actpack_execution* execution, const void* dy,
                               const uint32_t* mask, int64_t numel, double drop_probability,
                               void* dx);

// Normalises and writes y, or max(y, 0) if `to` is a sign-magnitude context, and packs x or y, as
// `saved` says: values [to->numel]. A sign-magnitude context holds the output. `y` may be `x`.
const char* actpack_batch_norm(const actpack_execution* execution,
                               const actpack_normalization* operation, const void* x,
                               const actpack_context* to, void* y);

// Writes the number of floats that the backward pass needs as its workspace. Reads no arrays.
const char* actpack_batch_norm_workspace(const actpack_execution* execution,
                                         const actpack_normalization* operation,
                                         const actpack_context* from, int64_t* numel);

// Writes the gradients of gamma and of beta [channels each], and of x unless `dx` is null: values
// dz, dx [from->numel]. `elements`: of a channel, or 0 where the statistics do not depend on x.
// `workspace`: aligned to 16 bytes, null if it needs no floats. `dx` may be `dz`.
const char* actpack_batch_norm_backward(const actpack_execution* execution,
                                        const actpack_normalization* operation, const void* dz,
                                        const actpack_context* from, int32_t is_subtractive,
                                        int64_t elements, float* workspace, float* gamma_gradient,
                                        float* beta_gradient, void* dx);

#ifdef __cplusplus
}
#endif
