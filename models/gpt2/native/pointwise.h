// Layer norm, GELU, the loss and their gradients: a row is read once and stays in the cache until it is written.

#ifndef MODELS_GPT2_NATIVE_POINTWISE_H_
#define MODELS_GPT2_NATIVE_POINTWISE_H_

#include "vectors.h"

namespace gpt2 {

constexpr float kEpsilon = 1e-5f;   // of layer norm, as GPT-2's
constexpr int64_t kRowsOfTask = 64;
constexpr int64_t kNumbersOfTask = 16384;

// The lanes of a vector of a row: all, or those that the row has left.
struct AllLanes {
  template <typename T>
  Floats load(const T* from, float = 0) const {
    return Load(from);
  }
  template <typename T>
  void store(T* to, Floats numbers) const {
    Store(to, numbers);
  }
  Floats only(Floats numbers) const { return numbers; }
};

struct SomeLanes {
  int64_t count;

  // The others are `rest`.
  template <typename T>
  Floats load(const T* from, float rest = 0) const {
    const Floats numbers = LoadSome(from, count);
    return rest == 0 ? numbers : From(0) < int32_t(count) ? numbers : Floats{} + rest;
  }
  template <typename T>
  void store(T* to, Floats numbers) const {
    StoreSome(to, numbers, count);
  }
  // The others are 0.
  Floats only(Floats numbers) const { return From(0) < int32_t(count) ? numbers : Floats{}; }
};

// Calls step(i, lanes) for the first number i of each vector of a row.
template <typename Step>
inline void Along(int64_t width, Step step) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) step(i, AllLanes());
  if (i < width) step(i, SomeLanes{width - i});
}

struct Moments {
  float mean, scale;  // scale: one over the standard deviation
};

template <typename T>
Moments MomentsOf(const T* x, int64_t width) {
  Floats sum = {};
  Along(width, [&](int64_t i, auto lanes) { sum += lanes.load(x + i); });
  const float mean = Sum(sum) / width;
  Floats squares = {};
  Along(width, [&](int64_t i, auto lanes) {
    const Floats centred = lanes.only(lanes.load(x + i) - mean);
    squares += centred * centred;
  });
  return {mean, 1 / std::sqrt(Sum(squares) / width + kEpsilon)};
}

template <typename T>
void LayerNorm(const T* x, const float* gain, const float* bias, T* y, int64_t width) {
  const Moments m = MomentsOf(x, width);
  Along(width, [&](int64_t i, auto lanes) {
    lanes.store(y + i, (lanes.load(x + i) - m.mean) * m.scale * lanes.load(gain + i) + lanes.load(bias + i));
  });
}

// Adds this row's part to d_gain and d_bias.
template <typename T>
void LayerNormBackward(const T* x, const float* gain, const T* dy, T* dx, float* d_gain, float* d_bias, int64_t width) {
  const Moments m = MomentsOf(x, width);
  Floats sum = {}, along = {};
  Along(width, [&](int64_t i, auto lanes) {
    const Floats normal = (lanes.load(x + i) - m.mean) * m.scale;
    const Floats d = lanes.load(dy + i), d_normal = d * lanes.load(gain + i);
    sum += d_normal;
    along += d_normal * normal;
    lanes.store(d_gain + i, lanes.load(d_gain + i) + d * normal);
    lanes.store(d_bias + i, lanes.load(d_bias + i) + d);
  });
  const float mean = Sum(sum) / width, slope = Sum(along) / width;
  Along(width, [&](int64_t i, auto lanes) {
    const Floats normal = (lanes.load(x + i) - m.mean) * m.scale;
    lanes.store(dx + i, m.scale * (lanes.load(dy + i) * lanes.load(gain + i) - mean - normal * slope));
  });
}

constexpr float kSlope = 1.5957691216f;  // 2 sqrt(2 / pi)
constexpr float kCube = 0.044715f;

// The tanh approximation of the normal distribution's function, as a logistic function: (1 + tanh u) / 2.
inline Floats Phi(Floats x) {
  const Floats u = x * (kSlope + kSlope * kCube * x * x);
  return 1.0f / (1.0f + Exp(-u));
}

template <typename T>
void Gelu(const T* x, T* y, int64_t count) {
  Along(count, [&](int64_t i, auto lanes) {
    const Floats numbers = lanes.load(x + i);
    lanes.store(y + i, numbers * Phi(numbers));
  });
}

// y, unless null: what Gelu makes of x.
template <typename T>
void GeluBackward(const T* x, const T* dy, T* dx, T* y, int64_t count) {
  Along(count, [&](int64_t i, auto lanes) {
    const Floats numbers = lanes.load(x + i), phi = Phi(numbers);
    const Floats inner = kSlope + 3 * kSlope * kCube * numbers * numbers;
    lanes.store(dx + i, lanes.load(dy + i) * (phi + numbers * phi * (1.0f - phi) * inner));
    if (y) lanes.store(y + i, numbers * phi);
  });
}

// The loss of a row: log(sum(exp(scores))) - scores[target] over the first `known` scores. Returns the logarithm.
inline float LogSum(const float* scores, int64_t known) {
  Floats most = Floats{} + scores[0];
  Along(known, [&](int64_t i, auto lanes) { most = Larger(most, lanes.load(scores + i, scores[0])); });
  const float largest = Largest(most);
  Floats sum = {};
  Along(known, [&](int64_t i, auto lanes) { sum += lanes.only(Exp(lanes.load(scores + i) - largest)); });
  return largest + std::log(Sum(sum));
}

// The gradient of that loss; 0 beyond the known scores.
template <typename T>
void LossBackward(const float* scores, int32_t target, float log_sum, int64_t known, int64_t width, T* out) {
  const bool has_target = target >= 0 && target < width;
  const float at_target = has_target ? std::exp(scores[target] - log_sum) - 1 : 0;
  Along(known, [&](int64_t i, auto lanes) { lanes.store(out + i, Exp(lanes.load(scores + i) - log_sum)); });
  Along(width - known, [&](int64_t i, auto lanes) { lanes.store(out + known + i, Floats{}); });
  if (has_target) StoreSome(out + target, Floats{} + at_target, 1);
}

}  // namespace gpt2

#endif  // MODELS_GPT2_NATIVE_POINTWISE_H_
