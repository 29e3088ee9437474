// What each device does in its own way: run a sweep or a mixture, draw a key, scale in place. cpu.cpp and cuda.cpp
// register it.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include "../kernels.h"

namespace vaefast {

struct Backend {
  // `like` names the device. An asynchronous device is not waited for.
  void (*run)(const SweepArgs& args, const at::Tensor& like);
  void (*run_mixture)(const MixtureArgs& args, const at::Tensor& like);
  // Draws the key of a whole call's noise from the generator. The tensor that it returns holds the key once the call
  // has run.
  at::Tensor (*draw_key)(const std::optional<at::Generator>& generator, const at::Tensor& like, NoiseKey& key);
  // Multiplies tensors by a factor of one element, in place. Where it is 1, nothing is read or written.
  void (*scale)(at::TensorList tensors, const at::Tensor& factor);
};

// The backend of a device; NotImplementedError where there is none. Both are visible outside this library, so that
// another one may bring a backend.
VAEFAST_VISIBLE const Backend& backend(at::DeviceType device);
bool has_backend(at::DeviceType device);
VAEFAST_VISIBLE bool register_backend(at::DeviceType device, Backend backend);

}  // namespace vaefast
