// Included beside loops.inl, once for each instruction set: the loops that make noise.

// math::philox for many blocks at once: one block in each 64-bit lane, its words in the lanes' lower halves. A compiler
// does not find these multiplications in a scalar loop, so they are written with vectors. Each instruction set brings
// Lanes, a vector of kLanes 64-bit lanes, and multiply_low.
struct Counters {
  Lanes w[4];

  template <int first, int last>
  void rounds(uint64_t seed) {
    uint32_t key0 = uint32_t(seed) + first * 0x9E3779B9u, key1 = uint32_t(seed >> 32) + first * 0xBB67AE85u;
    const Lanes zero = {}, factor_a = zero + 0xD2511F53u, factor_b = zero + 0xCD9E8D57u;
#pragma GCC unroll 10
    for (int round = first; round < last; ++round) {
      const Lanes p = multiply_low(w[0], factor_a), q = multiply_low(w[2], factor_b);
      w[0] = (q >> 32) ^ w[1] ^ key0;
      w[2] = (p >> 32) ^ w[3] ^ key1;
      w[1] = q;
      w[3] = p;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
  }
};

// `blocks` blocks of four normals, rounded up to a multiple of 16. Whole vectors are computed, so that an element's
// bits do not depend on where its row ends. Philox runs in two loops for the reason that a term prepares (math/term.h).
void normals(uint64_t seed, uint64_t offset, uint64_t first_block, int64_t blocks, float* z) {
  constexpr int64_t most = 64;
  for (int64_t done = 0; done < blocks; done += most) {
    alignas(64) Counters counters[most / kLanes];
    alignas(64) uint32_t radii[2 * most], angles[2 * most];  // of pairs of normals
    const int64_t n = blocks - done < most ? (blocks - done + 15) / 16 * 16 : most;
    Lanes lane;
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    for (int64_t b = 0; b < n; b += kLanes) {
      const Lanes block = lane + (first_block + uint64_t(done + b)), second = Lanes{} + offset;
      Counters c = {{block, block >> 32, second, second >> 32}};
      c.template rounds<0, 5>(seed);
      counters[b / kLanes] = c;
    }
    for (int64_t b = 0; b < n; b += kLanes) {
      Counters c = counters[b / kLanes];
      c.template rounds<5, 10>(seed);
      const Lanes radius = (c.w[0] & 0xffffffffu) | c.w[2] << 32, angle = (c.w[1] & 0xffffffffu) | c.w[3] << 32;
      memcpy(radii + 2 * b, &radius, sizeof radius);
      memcpy(angles + 2 * b, &angle, sizeof angle);
    }
    float* out = z + 4 * done;
#pragma GCC ivdep
    for (int64_t i = 0; i < 2 * n; ++i) math::box_muller(radii[i], angles[i], out[2 * i], out[2 * i + 1]);
  }
}
