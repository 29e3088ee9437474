// Included once for each instruction set, inside its target region and namespace (isa_*.cpp). The compiler vectorizes
// these branch-free loops. `ivdep` allows it although a gradient may overwrite its own operand, element by element.

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(math::bfloat16 x) { return math::to_float(x); }
inline float widen(math::float16 x) { return math::to_float(x); }
inline float widen(uint8_t x) { return float(x); }
inline float widen(int16_t x) { return float(x); }
inline double widen(int32_t x) { return double(x); }
inline double widen(int64_t x) { return double(x); }

template <class To, class From>
inline To narrow(From x) {
  if constexpr (std::is_same_v<To, math::bfloat16>) return math::to_bfloat16(float(x));
  else if constexpr (std::is_same_v<To, math::float16>) return math::to_float16(float(x));
  else return To(x);
}

template <class From, class T>
void load(const void* source, int64_t stride, int64_t n, double scale, T* to) {
  const From* from = static_cast<const From*>(source);
  const T factor = T(scale);
  if (stride == 0) {
    const T x = n == 0 ? T(0) : T(widen(from[0])) * factor;  // if n is 0, there is no element to read
    for (int64_t i = 0; i < n; ++i) to[i] = x;
  } else if (stride == 1) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) to[i] = T(widen(from[i])) * factor;
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = T(widen(from[i * stride])) * factor;
  }
}

template <class To, class T>
void store(const T* from, int64_t n, void* target, int64_t stride) {
  To* to = static_cast<To*>(target);
  if (stride != 1) {
    for (int64_t i = 0; i < n; ++i) to[i * stride] = narrow<To>(from[i]);
    return;
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) to[i] = narrow<To>(from[i]);
}

template <class Term, class T, size_t... k>
inline void prepare_from(const T* const* operand, int64_t n, T* value, Operands<k...>) {
  if constexpr (kPrepares<Term>) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) value[i] = Term::prepare(operand[k][i]...);
  }
}

template <class Term, class T>
void prepare(const T* const* operand, int64_t n, T* value) {
  prepare_from<Term>(operand, n, value, typename Term::prepared_from());
}

// Bit k of `gradients` asks for the gradient by operand k. With `zeros`, all data are taken for 0.
template <class Term, class T, int gradients, bool zeros, size_t... k>
inline void map_from(const T* const* operand, int64_t n, T coef, T* value, T* const* gradient, Operands<k...>) {
  const T* const in[] = {operand[k]...};
  T* const out[] = {(gradients >> k & 1 ? gradient[k] : nullptr)...};
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const T x[] = {(zeros && int(k) == Term::target ? T(0) : in[k][i])...};
    T d[Term::arity];
    if constexpr (kPrepares<Term>) value[i] = Term::evaluate(x[k]..., value[i], d);
    else value[i] = Term::evaluate(x[k]..., d);
    ((gradients >> k & 1 ? void(out[k][i] = coef * d[k]) : void()), ...);
  }
}

// Where most data are 0: all of them are taken for 0, which is less arithmetic, and the others are then computed by
// themselves. They are copied first, because a gradient may overwrite its operand.
template <class Term, class T, int gradients, size_t... k>
inline bool map_zeros(const T* const* operand, int64_t n, T coef, T* value, T* const* gradient, Operands<k...> all) {
  uint16_t place[kTile];
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    place[count] = uint16_t(i);
    count += (math::bit_cast<math::Bits<T>>(operand[Term::target][i]) << 1) != 0;  // without its sign
  }
  if (count > n / kFewCounts) return false;
  alignas(64) T in[Term::arity][kTile / kFewCounts], out[Term::arity][kTile / kFewCounts], v[kTile / kFewCounts];
  for (int64_t j = 0; j < count; ++j) ((in[k][j] = operand[k][place[j]]), ...);
  if constexpr (kPrepares<Term>) {
    for (int64_t j = 0; j < count; ++j) v[j] = value[place[j]];
  }
  map_from<Term, T, gradients, true>(operand, n, coef, value, gradient, all);
  const T* const some[] = {in[k]...};
  T* const of_some[] = {out[k]...};
  map_from<Term, T, gradients, false>(some, count, coef, v, of_some, all);
  for (int64_t j = 0; j < count; ++j) {
    value[place[j]] = v[j];
    ((gradients >> k & 1 ? void(gradient[k][place[j]] = out[k][j]) : void()), ...);
  }
  return true;
}

template <class Term, class T, int gradients>
void map(const T* const* operand, int64_t n, T coef, T* value, T* const* gradient) {
  constexpr AllOperands<Term> all;
  if constexpr (Term::mostly_zeros) {
    if (map_zeros<Term, T, gradients>(operand, n, coef, value, gradient, all)) return;
  }
  map_from<Term, T, gradients, false>(operand, n, coef, value, gradient, all);
}

template <class T>
inline double sum(const T* x, int64_t n) {
  constexpr int lanes = 8;
  double even[lanes] = {}, odd[lanes] = {};  // two, so that their additions overlap
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    T pair[2 * lanes];  // sums of elements 16 apart: that adds whole vectors, without shuffles
    for (int j = 0; j < 2 * lanes; ++j) pair[j] = x[i + j] + x[i + 2 * lanes + j];
    for (int j = 0; j < lanes; ++j) even[j] += double(pair[j]);
    for (int j = 0; j < lanes; ++j) odd[j] += double(pair[lanes + j]);
  }
  for (; i + lanes <= n; i += lanes)
    for (int j = 0; j < lanes; ++j) even[j] += double(x[i + j]);
  double rest = 0;
  for (; i < n; ++i) rest += double(x[i]);
  if (n < lanes) return rest;  // all lanes are 0
  for (int j = 0; j < lanes; ++j) even[j] += odd[j];
  return (((even[0] + even[4]) + (even[2] + even[6])) + ((even[1] + even[5]) + (even[3] + even[7]))) + rest;
}

template <class T>
void sums(const T* x, int64_t rows, int64_t cols, double* to, int64_t stride) {
  // A sum is never -0, so 0 is added to a single element.
  for (int64_t r = 0; r < rows; ++r) to[r * stride] = cols == 1 ? 0.0 + double(x[r]) : sum(x + r * cols, cols);
}

template <class T>
void column_sums(const T* x, int64_t rows, int64_t cols, bool add, double* to) {
  for (int64_t c = 0; c < cols && !add; ++c) to[c] = 0;
  for (int64_t r = 0; r < rows; ++r) {
#pragma GCC ivdep
    for (int64_t c = 0; c < cols; ++c) to[c] += double(x[r * cols + c]);
  }
}

template <class T>
void multiply(T* x, const T* by, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) x[i] *= by[i];
}

template <class T>
void keep(T* x, const T* mask, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) x[i] = mask[i] != T(0) ? x[i] : T(0);
}

template <class T>
void stddev(const T* logvar, int64_t n, T* s) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) s[i] = math::exp(T(0.5) * logvar[i]);
}

template <class T>
void reparameterize(const T* mu, const T* s, const float* eps, int64_t n, T* z) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) z[i] = mu[i] + s[i] * T(eps[i]);
}

template <class T, bool add>
void adjoint(const T* grad_z, const T* s, T slope, const float* eps, int64_t n, T* grad_mu, T* grad_spread) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const T g = grad_z[i], h = slope * s[i] * T(eps[i]) * g;
    grad_mu[i] = add ? grad_mu[i] + g : g;
    grad_spread[i] = add ? grad_spread[i] + h : h;
  }
}

template <class T, class... Term>
constexpr Loops<T> loops(TermList<Term...>) {
  return {{load<float>, load<double>, load<math::bfloat16>, load<math::float16>, load<uint8_t>, load<int16_t>,
           load<int32_t>, load<int64_t>},
          {store<float>, store<double>, store<math::bfloat16>, store<math::float16>},
          {prepare<Term, T>...},
          {map<Term, T, 0>...},
          {map<Term, T, 1>...},
          {map<Term, T, parameters_of<Term>()>...},
          {map<Term, T, (1 << Term::arity) - 1>...},
          sums,
          column_sums,
          multiply,
          keep,
          stddev,
          reparameterize,
          {adjoint<T, false>, adjoint<T, true>}};
}
