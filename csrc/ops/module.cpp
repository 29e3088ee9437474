// The pybind11 module vaefast._C. Loading it registers the operators (schema.cpp). Its functions describe the build and
// the terms, choose the CPU instruction set, and are the entry of the fast path.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/version.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "../kernels.h"
#include "backend.h"
#include "buffers.h"
#include "fast_path.h"

namespace py = pybind11;
using namespace vaefast;

namespace {

py::list supported_isas() {
  py::list names;
  for (int isa = 0; isa < cpu::kIsaCount; ++isa) {
    if (cpu::isa_supported(isa)) names.append(cpu::kIsaNames[isa]);
  }
  return names;
}

// What each term says of itself (math/term.h), in the list's order.
py::list terms() {
  py::list all;
  for (int i = 0; i < Terms::size; ++i) {
    py::dict term;
    term["name"] = Terms::names[i];
    term["arity"] = Terms::arity[i];
    term["target"] = Terms::target[i];
    term["is_kl"] = Terms::is_kl[i];
    term["by_scale"] = Terms::by_scale[i];
    all.append(term);
  }
  return all;
}

py::dict build_info() {
  py::dict info;
  info["torch"] = TORCH_VERSION;
#ifdef VAEFAST_CUDA_ARCHS
  info["cuda_archs"] = VAEFAST_CUDA_ARCHS;
#else
  info["cuda_archs"] = py::none();
#endif
#ifdef _OPENMP
  info["openmp"] = true;
#else
  info["openmp"] = false;
#endif
  py::list devices;
  for (const at::DeviceType device : {at::kCPU, at::kCUDA}) {
    if (has_backend(device)) devices.append(c10::DeviceTypeName(device, true));
  }
  info["devices"] = devices;
  info["cpu_isas"] = supported_isas();
  py::dict arity;
  for (const py::handle term : terms()) arity[term["name"]] = term["arity"];
  info["terms"] = arity;
  return info;
}

void set_cpu_isa(const std::string& name) {
  for (int isa = 0; isa < cpu::kIsaCount; ++isa) {
    if (name == cpu::kIsaNames[isa] && cpu::isa_supported(isa)) return cpu::use_isa(isa);
  }
  throw std::invalid_argument("vaefast: this machine has no CPU instruction set '" + name + "'");
}

// fast_elbo_loss of what may be tensors; None where it does not apply.
py::object try_elbo_loss(const std::string& likelihood, py::handle recon_x, py::handle x, py::handle mu,
                         py::handle logvar, double beta, const std::string& reduction, double target_scale,
                         const std::vector<double>& numbers) {
  for (const py::handle h : {recon_x, x, mu, logvar}) {
    if (!THPVariable_CheckExact(h.ptr())) return py::none();
  }
  const auto tensor = [](py::handle h) -> const at::Tensor& { return THPVariable_Unpack(h.ptr()); };
  std::optional<at::Tensor> loss;
  {
    const py::gil_scoped_release release;
    loss = fast_elbo_loss(likelihood, tensor(recon_x), tensor(x), tensor(mu), tensor(logvar), beta, reduction,
                          target_scale, numbers);
  }
  if (!loss) return py::none();
  return py::reinterpret_steal<py::object>(THPVariable_Wrap(std::move(*loss)));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled part of vaefast.";
  m.def("build_info", &build_info, "What this library was compiled for, and its terms with their arity.");
  m.def("terms", &terms, "The name, arity, target (-1: none), is_kl and by_scale of each term, in order.");
  m.def("cpu_isa", [] { return cpu::kIsaNames[cpu::isa_in_use()]; }, "The instruction set in use.");
  m.def("cached_bytes", &cached_bytes, "Bytes held for the next large results.");
  m.def("empty_cache", &empty_cache, "Give them back to the system.");
  m.def("fast_elbo_loss", &try_elbo_loss, "The fast path of elbo_loss, or None where the call does not fit it.");
  m.def("set_cpu_isa", &set_cpu_isa, py::arg("name"), "Use one instruction set; for tests and measurements.");
}
