// The pybind11 module vaefast._C: loading it registers the operators (ops.cpp); its functions describe the build and
// rule the CPU instruction set.
#include <pybind11/pybind11.h>
#include <torch/version.h>

#include <stdexcept>
#include <string>

#include "../kernels.h"
#include "buffers.h"

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

py::dict build_info() {
  py::dict terms;
  for (int i = 0; i < Terms::size; ++i) terms[Terms::names[i]] = Terms::arity[i];
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
  info["cpu_isas"] = supported_isas();
  info["terms"] = terms;
  return info;
}

void set_cpu_isa(const std::string& name) {
  for (int isa = 0; isa < cpu::kIsaCount; ++isa) {
    if (name == cpu::kIsaNames[isa] && cpu::isa_supported(isa)) return cpu::use_isa(isa);
  }
  throw std::invalid_argument("vaefast: this machine has no CPU instruction set '" + name + "'");
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled part of vaefast.";
  m.def("build_info", &build_info, "What this library was compiled for, and the terms that it has.");
  m.def("cpu_isa", [] { return cpu::kIsaNames[cpu::isa_in_use()]; }, "The instruction set in use.");
  m.def("cached_bytes", &cached_bytes, "Bytes held for the next large results.");
  m.def("empty_cache", &empty_cache, "Give them back to the system.");
  m.def("set_cpu_isa", &set_cpu_isa, py::arg("name"), "Use one instruction set; for tests and measurements.");
}
