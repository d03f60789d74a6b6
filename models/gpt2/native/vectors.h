// What the kernels here share: vectors of floats, numbers in fewer bits, and work divided among XLA's threads.
//
// Vectors are those of GCC and Clang, which compile them for whatever the processor has.

#ifndef MODELS_GPT2_NATIVE_VECTORS_H_
#define MODELS_GPT2_NATIVE_VECTORS_H_

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <thread>

#include "xla/ffi/api/ffi.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace gpt2 {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kRegisters = 32;
#else
constexpr int kLanes = 8;
constexpr int kRegisters = 16;
#endif

template <typename T, int count = kLanes>
struct Vector {
  typedef T type __attribute__((vector_size(sizeof(T) * count)));
};

using Floats = Vector<float>::type;
using Ints = Vector<int32_t>::type;
using Words = Vector<uint32_t>::type;

template <typename T, int count = kLanes>
inline typename Vector<T, count>::type Unaligned(const T* from) {
  typename Vector<T, count>::type numbers;
  std::memcpy(&numbers, from, sizeof numbers);
  return numbers;
}

template <typename To, typename From>
inline To Bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// x in all lanes: compilers leave out a difference to zero, but not a sum with it, for the sake of -0.
inline Floats Broadcast(float x) { return x - Floats{}; }

// a b + c. Rounded once wherever it is written: GCC divides some of these in two, by the shape of the loop around them.
inline Floats MultiplyAdd(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

// Numbers from memory as floats. A bfloat16, here a uint16_t, is the upper half of a float.

inline Floats Load(const float* from) { return Unaligned(from); }

inline Floats Load(const uint16_t* from) { return Bits<Floats>(__builtin_convertvector(Unaligned(from), Words) << 16); }

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
  return __builtin_convertvector(__builtin_convertvector(shorts, Ints), Floats);
}
#endif

inline float ToFloat(float number) { return number; }
inline float ToFloat(uint16_t number) { return Bits<float>(uint32_t(number) << 16); }

inline void Store(float* to, Floats numbers) { std::memcpy(to, &numbers, sizeof numbers); }

// To the nearest bfloat16, ties to the even one; not a number stays not a number. Instructions with bfloat16 take numbers
// under 2^-126 as zero.
#if defined(__AVX512BF16__)
inline void Store(uint16_t* to, Floats numbers) {
  const __m256bh halves = _mm512_cvtneps_pbh((__m512)numbers);
  std::memcpy(to, &halves, sizeof halves);
}
#else
inline void Store(uint16_t* to, Floats numbers) {
  const Words bits = Bits<Words>(numbers);
  const Words rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const Words upper = numbers == numbers ? rounded : Words{} + 0x7fc0;
  const auto halves = __builtin_convertvector(upper, Vector<uint16_t>::type);
  std::memcpy(to, &halves, sizeof halves);
}
#endif

// The first `count` lanes only.
template <typename T>
inline Floats LoadSome(const T* from, int64_t count) {
  T lanes[kLanes] = {};
  std::memcpy(lanes, from, count * sizeof(T));
  return Load(lanes);
}

template <typename T>
inline void StoreSome(T* to, Floats numbers, int64_t count) {
  T lanes[kLanes];
  Store(lanes, numbers);
  std::memcpy(to, lanes, count * sizeof(T));
}

inline float Sum(Floats numbers) {
  Vector<float, 8>::type eights[kLanes / 8];
  std::memcpy(eights, &numbers, sizeof eights);
  for (int i = 1; i < kLanes / 8; ++i) eights[0] += eights[i];
  Vector<float, 4>::type fours[2];
  std::memcpy(fours, eights, sizeof fours);
  fours[0] += fours[1];
  return (fours[0][0] + fours[0][2]) + (fours[0][1] + fours[0][3]);
}

// first, first + 1, ...
inline Ints From(int64_t first) {
  Ints lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = int32_t(first) + i;
  return lanes;
}

inline Floats Larger(Floats a, Floats b) { return a > b ? a : b; }

inline float Largest(Floats numbers) {
  float most = numbers[0];
  for (int i = 1; i < kLanes; ++i) most = std::max(most, numbers[i]);
  return most;
}

// e^x to 2 units of the last place; beyond -87 and 88 it is that of these.
inline Floats Exp(Floats x) {
  x = Larger(Floats{} - 87.0f, x);  // in this order, what is not a number stays so
  x = x > 88.0f ? Floats{} + 88.0f : x;
  const float kRound = 12582912.0f;  // 1.5 2^23: what is added to it loses its fraction
  const Floats shifted = x * 1.44269504f + kRound;
  const Floats n = shifted - kRound;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // x - n ln 2, ln 2 in two parts
  Floats p = Floats{} + 1.9875691500e-4f;  // the polynomial of Cephes' expf
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Words power = (Bits<Words>(shifted) - Bits<uint32_t>(kRound) + 127) << 23;
  return p * Bits<Floats>(power);
}

// Calls task(0) to task(count - 1) on the threads of XLA. The caller works too, and waits for what others have begun.
// Throws bad_alloc if a task did: XLA makes an error of it on the caller's thread only.
template <typename Task>
void Share(xla::ffi::ThreadPool& pool, int64_t count, Task task) {
  struct Progress {
    std::atomic<int64_t> begun{0}, done{0};
    std::atomic<bool> is_starved{false};
  };
  // A helper may come when all is done, and the caller gone: then it looks at these numbers only.
  auto progress = std::make_shared<Progress>();
  const std::function<void()> work = [progress, count, task] {
    for (int64_t i; (i = progress->begun.fetch_add(1)) < count;) {
      try {
        task(i);
      } catch (const std::bad_alloc&) {
        progress->is_starved = true;
      }
      progress->done.fetch_add(1, std::memory_order_release);
    }
  };
  for (int64_t i = std::min<int64_t>(pool.num_threads(), count) - 1; i > 0; --i) pool.Schedule(std::function(work));
  work();
  for (int tries = 0; progress->done.load(std::memory_order_acquire) < count; ++tries) {
    if (tries > 1000) std::this_thread::yield();
  }
  if (progress->is_starved) throw std::bad_alloc();
}

}  // namespace gpt2

#endif  // MODELS_GPT2_NATIVE_VECTORS_H_
