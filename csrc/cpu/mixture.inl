// Included once for each instruction set, as loops.inl is: the loops over the pixels of a block of a mixture.

template <class T>
void couple(const T* coupling, const T* x, T middle, const T* from, int64_t n, T* mean, T* slope) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const Coupling<T> c(coupling[i]);
    mean[i] = from[i] + c.value * (x[i] - middle);
    slope[i] = c.slope;
  }
}

template <class T, bool gradients>
void bin(const T* mean, const T* x, const T* log_scale, const Grid<T>& of, const T* from, int64_t n, T* log_p,
         T* by_mean, T* by_log_scale) {
  const Grid<T> grid = of;  // in registers: what is stored could change it
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const LogisticBin<T> b(mean[i], x[i], log_scale[i], grid);
    const T sum = from[i] + b.value;
    log_p[i] = sum < -math::kMost<T> ? -math::kMost<T> : sum;
    if constexpr (gradients) by_mean[i] = b.by_mean, by_log_scale[i] = b.by_log_scale;
  }
}

template <class T>
void by_coupling(const T* by_mean, const T* x, T middle, int64_t n, T* slope) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) slope[i] *= by_mean[i] * (x[i] - middle);
}

template <class T>
void relative(T* x, int64_t components, int64_t apart, int64_t n, T* most) {
  for (int64_t i = 0; i < n; ++i) most[i] = x[i];
  for (int64_t m = 1; m < components; ++m) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) most[i] = x[m * apart + i] > most[i] ? x[m * apart + i] : most[i];
  }
  for (int64_t m = 0; m < components; ++m) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) x[m * apart + i] -= most[i];
  }
}

template <class T>
void shares(T* x, int64_t components, int64_t apart, int64_t n, T* total) {
  for (int64_t i = 0; i < n; ++i) total[i] = 0;
  for (int64_t m = 0; m < components; ++m) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      x[m * apart + i] = math::exp_nonpositive(x[m * apart + i]);
      total[i] += x[m * apart + i];
    }
  }
}

template <class T>
void mixture_value(const T* most, T* total, T* prior_total, int64_t n, T* value) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    value[i] = (most[i] + math::log(total[i])) - math::log(prior_total[i]);
    total[i] = T(1) / total[i];
    prior_total[i] = T(1) / prior_total[i];
  }
}

template <class T>
void weigh(T* posterior, const T* inverse, T* prior, const T* prior_inverse, const T* coef, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const T share = posterior[i] * inverse[i];
    posterior[i] = share * coef[i];
    prior[i] = (share - prior[i] * prior_inverse[i]) * coef[i];
  }
}

template <class T>
void product(const T* x, const T* by, int64_t n, T* to) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) to[i] = x[i] * by[i];
}

template <class T>
constexpr MixtureLoops<T> mixture_loops() {
  return {couple<T>, {bin<T, false>, bin<T, true>}, by_coupling<T>, relative<T>, shares<T>, mixture_value<T>, weigh<T>,
          product<T>};
}
