// Loads and stores of single elements and of vectors, in any dtype.
#pragma once

#include "../kernels.h"
#include "../math/half.h"
#include "device.h"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "vaefast needs compute capability 8.0 or higher: TORCH_CUDA_ARCH_LIST names a lower one"
#endif

namespace vaefast::cuda {

// The conversions of math/half.h, by a single instruction where the device has one.
__device__ inline float from_half(uint16_t bits, bool brain) {
  if (brain) return math::to_float(math::bfloat16{bits});
#if defined(__CUDA_ARCH__)
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
#else
  return math::to_float(math::float16{bits});
#endif
}

__device__ inline uint16_t to_half(float x, bool brain) {
#if defined(__CUDA_ARCH__)
  uint16_t bits;
  if (brain) asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  else asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
#else
  return brain ? math::to_bfloat16(x).bits : math::to_float16(x).bits;
#endif
}

template <class T>
__device__ inline T load(const View& v, int64_t index) {
  switch (v.dtype) {
    case DType::f32: return T(static_cast<const float*>(v.data)[index]);
    case DType::f64: return T(static_cast<const double*>(v.data)[index]);
    case DType::u8: return T(static_cast<const uint8_t*>(v.data)[index]);
    case DType::i16: return T(static_cast<const int16_t*>(v.data)[index]);
    case DType::i32: return T(static_cast<const int32_t*>(v.data)[index]);
    case DType::i64: return T(static_cast<const int64_t*>(v.data)[index]);
    default: return T(from_half(static_cast<const uint16_t*>(v.data)[index], v.dtype == DType::bf16));
  }
}

template <class T>
__device__ inline void store(const View& v, int64_t index, T x) {
  switch (v.dtype) {
    case DType::f32: static_cast<float*>(v.data)[index] = float(x); break;
    case DType::f64: static_cast<double*>(v.data)[index] = double(x); break;
    default: static_cast<uint16_t*>(v.data)[index] = to_half(float(x), v.dtype == DType::bf16);
  }
}

// Neighbours of `bytes` bytes in all, read or written in one access.
template <int bytes>
struct alignas(bytes) Words {
  uint32_t word[bytes / 4];
};

// n values of `size` bytes: 4 is float, 2 is bfloat16 where `brain`, otherwise float16.
template <int size, int n>
struct Vector {
  Words<size * n> bits;

  __device__ float get(int j, bool brain) const {
    if constexpr (size == 4) return math::bit_cast<float>(bits.word[j]);
    else return from_half(uint16_t(bits.word[j / 2] >> (j % 2 * 16)), brain);
  }
  __device__ void set(int j, float x, bool brain) {
    if constexpr (size == 4) bits.word[j] = math::bit_cast<uint32_t>(x);
    else if (j % 2 == 0) bits.word[j / 2] = to_half(x, brain);
    else bits.word[j / 2] |= uint32_t(to_half(x, brain)) << 16;
  }
};

}  // namespace vaefast::cuda
