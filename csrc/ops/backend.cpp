// The registry of backends, by device.
#include "backend.h"

#include <c10/core/DeviceType.h>

#include <array>

namespace vaefast {
namespace {

using Backends = std::array<Backend, size_t(at::COMPILE_TIME_MAX_DEVICE_TYPES)>;
Backends& backends() {
  static Backends all{};
  return all;
}

}  // namespace

const Backend& backend(at::DeviceType device) {
  const Backend& found = backends()[size_t(device)];
  TORCH_CHECK_NOT_IMPLEMENTED(found.run, "vaefast: this build has no kernels for ", device);
  return found;
}

bool has_backend(at::DeviceType device) { return backends()[size_t(device)].run != nullptr; }

bool register_backend(at::DeviceType device, Backend each) {
  backends()[size_t(device)] = each;
  return true;
}

}  // namespace vaefast
