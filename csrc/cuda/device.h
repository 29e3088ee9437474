// What the kernels use of CUDA's host side. Tests compile the kernels for the CPU; there simulator.h stands for CUDA.
#pragma once

#if defined(__CUDACC__)
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace vaefast::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // otherwise torch would report it for its next kernel
  throw std::runtime_error(std::string("vaefast: ") + what + ": " + cudaGetErrorString(status));
}

template <class Args>
void launch(void (*kernel)(Args), unsigned blocks, unsigned threads, void* stream, const Args& args) {
  void* parameters[] = {const_cast<Args*>(&args)};
  const auto function = reinterpret_cast<const void*>(kernel);
  check(cudaLaunchKernel(function, dim3(blocks), dim3(threads), parameters, 0, static_cast<cudaStream_t>(stream)),
        "a kernel could not be launched");
}

inline void clear(void* memory, size_t bytes, void* stream) {
  check(cudaMemsetAsync(memory, 0, bytes, static_cast<cudaStream_t>(stream)), "memory could not be cleared");
}

}  // namespace vaefast::cuda
#else
#include "simulator.h"
#endif
