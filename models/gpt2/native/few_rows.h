// What generation computes for few rows: products with a matrix, and attention to the tokens so far.
//
// Both do two operations for each number they read, so they are as fast as the numbers come out of memory. XLA reads
// bfloat16 at a sixth of that rate, and all slots of the cache where only some are filled.
//
// A row's result has the same bits whatever rows are computed beside it: each is summed in an order of its own.

#ifndef MODELS_GPT2_NATIVE_FEW_ROWS_H_
#define MODELS_GPT2_NATIVE_FEW_ROWS_H_

#include <type_traits>
#include <vector>

#include "vectors.h"

namespace gpt2 {

constexpr int kMostRows = kRegisters / 4;  // whose sums fit into registers
constexpr int kBlock = 64;                 // columns of a matrix of bytes that have a scale together
constexpr int64_t kTask = 131072;          // bytes of a matrix that a thread takes at a time, at most
constexpr int64_t kAhead = 4096;           // bytes that are asked for in advance
constexpr int kSecondCache = 2;            // where they wait: the first one is for x

struct FewRows {
  const float* x;       // [rows, width]
  const float* scales;  // [outputs, width / kBlock], of a matrix of bytes
  float* y;             // [rows, outputs]
  int64_t rows, width, outputs;
};

// The outputs from `first` to `last` of N rows, from `row` on.
template <typename Weight, int N>
void MultiplyRows(const FewRows& p, const Weight* matrix, int64_t row, int64_t first, int64_t last) {
  const float* x = p.x + row * p.width;
  for (int64_t output = first; output < last; ++output) {
    const Weight* weights = matrix + output * p.width;
    Floats sums[2][N] = {};
    for (int64_t block = 0; block < p.width; block += kBlock) {
      for (int64_t byte = 0; byte < kBlock * int64_t(sizeof(Weight)); byte += 64) {
        __builtin_prefetch(reinterpret_cast<const char*>(weights + block) + kAhead + byte, 0, kSecondCache);
      }
      for (int part = 0; part < kBlock / kLanes; ++part) {
        const int64_t at = block + part * kLanes;
        Floats numbers = Load(weights + at);
        if (std::is_same<Weight, int8_t>::value) numbers *= p.scales[(output * p.width + block) / kBlock];
        for (int n = 0; n < N; ++n) sums[part % 2][n] += numbers * Load(x + n * p.width + at);
      }
    }
    for (int n = 0; n < N; ++n) p.y[(row + n) * p.outputs + output] = Sum(sums[0][n] + sums[1][n]);
  }
}

template <typename Weight, int N = kMostRows>
void MultiplyRest(const FewRows& p, const Weight* matrix, int64_t row, int64_t first, int64_t last) {
  if constexpr (N > 0) {
    for (; p.rows - row >= N; row += N) MultiplyRows<Weight, N>(p, matrix, row, first, last);
    MultiplyRest<Weight, N - 1>(p, matrix, row, first, last);
  }
}

template <typename Weight>
void MultiplyAll(xla::ffi::ThreadPool& pool, const FewRows& p, const Weight* matrix) {
  // As many tasks for each thread, so that none is left over.
  const int64_t bytes = p.outputs * p.width * int64_t(sizeof(Weight)), threads = pool.num_threads();
  const int64_t tasks = bytes <= kTask ? 1 : (bytes + threads * kTask - 1) / (threads * kTask) * threads;
  const int64_t size = (p.outputs + tasks - 1) / tasks;
  Share(pool, (p.outputs + size - 1) / size, [=](int64_t task) {
    MultiplyRest(p, matrix, 0, task * size, std::min(p.outputs, (task + 1) * size));
  });
}

// One head of one row: out [width] = softmax(q k) v over the first `filled` slots of k and v [slots, width].
inline void AttendOne(const float* q, const float* k, const float* v, float* out, int64_t width, int64_t filled) {
  std::vector<float> weights(filled);
  for (int64_t s = 0; s < filled; ++s) {
    Floats sums = {};
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) sums += Load(q + i) * Load(k + s * width + i);
    weights[s] = Sum(sums);
    for (; i < width; ++i) weights[s] += q[i] * k[s * width + i];
  }
  const float most = *std::max_element(weights.begin(), weights.end());
  float total = 0;
  for (float& weight : weights) total += weight = std::exp(weight - most);
  std::fill(out, out + width, 0.0f);
  for (int64_t s = 0; s < filled; ++s) {
    const float share = weights[s] / total;
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) Store(out + i, Load(out + i) + share * Load(v + s * width + i));
    for (; i < width; ++i) out[i] += share * v[s * width + i];
  }
}

}  // namespace gpt2

#endif  // MODELS_GPT2_NATIVE_FEW_ROWS_H_
