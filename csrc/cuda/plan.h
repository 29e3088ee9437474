// How a sweep is cut for the device. Its shape and views alone decide, so that every run gives the same bits.
#pragma once

#include "../kernels.h"

namespace vaefast::cuda {

constexpr int kThreads = 256;

// A row is cut into chunks of columns. Up to 32 lanes of a warp share a chunk.
struct Plan {
  int group = 1;        // lanes that share a chunk, a power of two
  int64_t chunk = 1;    // columns
  int64_t chunks = 1;   // of a row
  int64_t items = 0;    // chunks of all rows
  unsigned blocks = 1;  // of kThreads threads
  int outputs = 0;      // sums over everything
  int vector = 0;       // bytes of an element where every view can be read and written in vectors, else 0
  // Where gradients are summed over rows or columns, an item is a chunk of 32 columns in a group of rows.
  bool sums = false;
  int64_t group_rows = 1, groups = 0;
};

struct Scratch {
  double* chunk_sums;  // one for each item, where rows have several chunks
  double* block_sums;  // one for each output and block
  double* sums;        // of the gradients that are summed over rows or columns, an operand after another
  unsigned* arrived;   // blocks that are done
};

struct Launch {  // a kernel's argument
  SweepArgs args;
  Plan plan;
  Scratch scratch;
};

Plan make_plan(const SweepArgs& args);

// vector.cu works on vectors of 16 bytes, general.cu element by element on any layout, dtypes and mask, and sums.cu
// where gradients are summed over rows or columns.
void launch_sums(const Launch& launch, void* stream);
void launch_vector(const Launch& launch, void* stream);
void launch_general(const Launch& launch, void* stream);

}  // namespace vaefast::cuda
