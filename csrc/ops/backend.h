// What each device does its own way: running a sweep, drawing a key, scaling in place. cpu.cpp and cuda.cpp register
// it.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include "../kernels.h"

namespace vaefast {

struct Backend {
  // `like` names the device. Where that works asynchronously, nothing is waited for.
  void (*run)(const SweepArgs& args, const at::Tensor& like);
  // One draw from the generator keys the noise of a whole call; what it returns holds that key once the call has run.
  at::Tensor (*draw_key)(const std::optional<at::Generator>& generator, const at::Tensor& like, NoiseKey& key);
  // Multiplies tensors by a factor of one element, in place; where that is 1, nothing is touched.
  void (*scale)(at::TensorList tensors, const at::Tensor& factor);
};

// The backend of a device; NotImplementedError where there is none. Visible outside this library, so that another one
// may bring a device's.
VAEFAST_VISIBLE const Backend& backend(at::DeviceType device);
bool has_backend(at::DeviceType device);
VAEFAST_VISIBLE bool register_backend(at::DeviceType device, Backend backend);

}  // namespace vaefast
