// What generation on CPUs computes for few rows, called from XLA's programs: products with a matrix, and attention to
// the tokens so far.
//
// Both do two operations for each number they read, so they are as fast as the numbers come out of memory. XLA reads
// bfloat16 at a sixth of that rate, and all slots of the cache where only some are filled.
//
// A row's result has the same bits whatever rows are computed beside it: each is summed in an order of its own.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "xla/ffi/api/ffi.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

namespace ffi = xla::ffi;

#if defined(__AVX512F__)
constexpr int kLanes = 16;    // numbers of a vector
constexpr int kMostRows = 8;  // whose sums fit into registers
#else
constexpr int kLanes = 8;
constexpr int kMostRows = 4;
#endif
constexpr int kBlock = 64;         // columns of a matrix of bytes that have a scale together
constexpr int64_t kTask = 131072;  // bytes of a matrix that a thread takes at a time
constexpr int64_t kAhead = 4096;    // bytes that are asked for in advance

template <typename T, int count = kLanes>
struct Vector {
  typedef T type __attribute__((vector_size(sizeof(T) * count)));
};

using Floats = Vector<float>::type;

template <typename T, int count = kLanes>
inline typename Vector<T, count>::type Unaligned(const T* from) {
  typename Vector<T, count>::type numbers;
  std::memcpy(&numbers, from, sizeof numbers);
  return numbers;
}

inline Floats Load(const float* from) { return Unaligned(from); }

// A bfloat16 is the upper half of a float.
inline Floats Load(const uint16_t* from) {
  const auto words = __builtin_convertvector(Unaligned(from), Vector<uint32_t>::type) << 16;
  Floats floats;
  std::memcpy(&floats, &words, sizeof floats);
  return floats;
}

// Written out, as compilers find no instruction that takes so large a step.
#if defined(__AVX512F__)
inline Floats Load(const int8_t* from) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}
#elif defined(__AVX2__)
inline Floats Load(const int8_t* from) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
#else
inline Floats Load(const int8_t* from) {
  const auto shorts = __builtin_convertvector(Unaligned(from), Vector<int16_t>::type);
  return __builtin_convertvector(__builtin_convertvector(shorts, Vector<int32_t>::type), Floats);
}
#endif

inline float Sum(Floats numbers) {
  Vector<float, 8>::type eights[kLanes / 8];
  std::memcpy(eights, &numbers, sizeof eights);
  for (int i = 1; i < kLanes / 8; ++i) eights[0] += eights[i];
  Vector<float, 4>::type fours[2];
  std::memcpy(fours, eights, sizeof fours);
  fours[0] += fours[1];
  return (fours[0][0] + fours[0][2]) + (fours[0][1] + fours[0][3]);
}

// Calls task(0) to task(count - 1) on the threads of XLA. The caller works too, and waits for what others have begun.
template <typename Task>
void Share(ffi::ThreadPool& pool, int64_t count, Task task) {
  struct Progress {
    std::atomic<int64_t> begun{0}, done{0};
  };
  // A helper may come when all is done, and the caller gone: then it looks at these numbers only.
  auto progress = std::make_shared<Progress>();
  const std::function<void()> work = [progress, count, task] {
    for (int64_t i; (i = progress->begun.fetch_add(1)) < count;) {
      task(i);
      progress->done.fetch_add(1, std::memory_order_release);
    }
  };
  for (int64_t i = std::min<int64_t>(pool.num_threads(), count) - 1; i > 0; --i) pool.Schedule(std::function(work));
  work();
  for (int tries = 0; progress->done.load(std::memory_order_acquire) < count; ++tries) {
    if (tries > 1000) std::this_thread::yield();
  }
}

struct Product {
  const float* x;       // [rows, width]
  const float* scales;  // [outputs, width / kBlock], of a matrix of bytes
  float* y;             // [rows, outputs]
  int64_t rows, width, outputs;
};

// The outputs from `first` to `last` of N rows, from `row` on.
template <typename Weight, int N>
void Multiply(const Product& p, const Weight* matrix, int64_t row, int64_t first, int64_t last) {
  const float* x = p.x + row * p.width;
  for (int64_t output = first; output < last; ++output) {
    const Weight* weights = matrix + output * p.width;
    Floats sums[2][N] = {};
    for (int64_t block = 0; block < p.width; block += kBlock) {
      for (int64_t byte = 0; byte < kBlock * int64_t(sizeof(Weight)); byte += 64) {
        __builtin_prefetch(reinterpret_cast<const char*>(weights + block) + kAhead + byte);
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
void MultiplyRest(const Product& p, const Weight* matrix, int64_t row, int64_t first, int64_t last) {
  if constexpr (N > 0) {
    for (; p.rows - row >= N; row += N) Multiply<Weight, N>(p, matrix, row, first, last);
    MultiplyRest<Weight, N - 1>(p, matrix, row, first, last);
  }
}

template <typename Weight>
void MultiplyAll(ffi::ThreadPool& pool, const Product& p, const Weight* matrix) {
  const int64_t size = std::max<int64_t>(1, kTask / (p.width * sizeof(Weight)));
  Share(pool, (p.outputs + size - 1) / size, [=](int64_t task) {
    MultiplyRest(p, matrix, 0, task * size, std::min(p.outputs, (task + 1) * size));
  });
}

// y [rows, outputs] = x [rows, width] times the rows of matrix [outputs, width], a multiple of kBlock wide.
ffi::Error FewRows(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::AnyBuffer matrix, ffi::Buffer<ffi::F32> scales,
                   ffi::ResultBuffer<ffi::F32> y) {
  const Product p{x.typed_data(),      scales.typed_data(), y->typed_data(), x.dimensions()[0],
                  x.dimensions()[1], matrix.dimensions()[0]};
  if (p.width % kBlock || matrix.dimensions()[1] != p.width) return ffi::Error::InvalidArgument("width of a matrix");
  switch (matrix.element_type()) {
    case ffi::F32:
      MultiplyAll(pool, p, static_cast<const float*>(matrix.untyped_data()));
      break;
    case ffi::BF16:
    case ffi::U16:
      MultiplyAll(pool, p, static_cast<const uint16_t*>(matrix.untyped_data()));
      break;
    case ffi::S8:
      MultiplyAll(pool, p, static_cast<const int8_t*>(matrix.untyped_data()));
      break;
    default:
      return ffi::Error::InvalidArgument("type of a matrix");
  }
  return ffi::Error::Success();
}

// One head of one row: out [width] = v softmax(q k) over the first `filled` slots of k and v [width, slots].
void Attend(const float* q, const float* k, const float* v, float* out, int64_t width, int64_t slots, int64_t filled) {
  std::vector<float> weights(filled, 0.0f);
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t s = 0; s < filled; ++s) weights[s] += q[i] * k[i * slots + s];
  }
  const float most = *std::max_element(weights.begin(), weights.end());
  float total = 0;
  for (float& weight : weights) total += weight = std::exp(weight - most);
  for (int64_t i = 0; i < width; ++i) {
    Floats sums = {};
    int64_t s = 0;
    for (; s + kLanes <= filled; s += kLanes) sums += Load(weights.data() + s) * Load(v + i * slots + s);
    float sum = Sum(sums);
    for (; s < filled; ++s) sum += weights[s] * v[i * slots + s];
    out[i] = sum / total;
  }
}

// out [rows, heads, width] of queries of the same shape, already divided by sqrt(width), to the slots up to their own
// position [rows] of k and v [rows * heads, width, slots].
ffi::Error FewQueries(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> q, ffi::Buffer<ffi::F32> k, ffi::Buffer<ffi::F32> v,
                      ffi::Buffer<ffi::S32> positions, ffi::ResultBuffer<ffi::F32> out) {
  const int64_t rows = q.dimensions()[0], heads = q.dimensions()[1], width = q.dimensions()[2];
  const int64_t slots = k.dimensions()[2];
  const float *qs = q.typed_data(), *ks = k.typed_data(), *vs = v.typed_data();
  const int32_t* last = positions.typed_data();
  float* outs = out->typed_data();
  Share(pool, rows * heads, [=](int64_t n) {
    const int64_t filled = std::min<int64_t>(slots, last[n / heads] + 1), from = n * width;
    Attend(qs + from, ks + from * slots, vs + from * slots, outs + from, width, slots, filled);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(few_rows, FewRows,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(few_queries, FewQueries,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());
