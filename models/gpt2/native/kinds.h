// How packed matrices in float32, bfloat16 and int8 are multiplied with the instructions that this processor has.

#ifndef MODELS_GPT2_NATIVE_KINDS_H_
#define MODELS_GPT2_NATIVE_KINDS_H_

#include <utility>

#include "vectors.h"

namespace gpt2 {

constexpr int64_t kPanel = 16;  // outputs that are packed together
constexpr int64_t kBlock = 64;  // inputs that have a scale together, in int8
constexpr int kVectors = kPanel / kLanes;

// Calls task(0) to task(count - 1), each with a number that is known while this is compiled: only then does GCC keep an
// entry of an array in a register, instead of storing it in memory each time.
template <typename Task, int... numbers>
inline __attribute__((always_inline)) void Each(std::integer_sequence<int, numbers...>, Task task) {
  (task(std::integral_constant<int, numbers>()), ...);
}

template <int count, typename Task>
inline __attribute__((always_inline)) void Each(Task task) {
  Each(std::make_integer_sequence<int, count>(), task);
}

// Weights that several rows multiply, in a register: GCC would read them from memory for each row.
template <typename T>
inline T Held(T weights) {
#if defined(__AVX2__)
  asm("" : "+v"(weights));
#endif
  return weights;
}

// Each kind of matrix below has the types of its packed numbers and of the rows that it multiplies, the inputs of a step
// (kDepth), the rows of the largest tile whose sums and weights fit into registers, how a panel's weights of a step are
// read, and how they times a row's inputs are added to a sum.

constexpr bool kMany = kRegisters == 32;

struct Float32 {
  using Stored = float;
  using Left = float;
  using Sums = Floats;
  struct Weights {
    Floats numbers[kVectors];
  };
  static constexpr int kDepth = 1, kTile = kMany ? 8 : 6;
  static constexpr bool kScaled = false;

  static Weights Read(const float* from) {
    Weights weights;
    for (int v = 0; v < kVectors; ++v) weights.numbers[v] = Held(Load(from + v * kLanes));
    return weights;
  }
  static Floats Add(Floats sum, const Weights& weights, int v, const float* x) {
    return MultiplyAdd(weights.numbers[v], Broadcast(x[0]), sum);
  }
};

#if defined(__AVX512BF16__)
// Products of pairs in one instruction; x is rounded to bfloat16.
struct Bfloat16 {
  using Stored = uint16_t;
  using Left = uint16_t;
  using Sums = Floats;
  struct Weights {
    __m512i numbers[kVectors];
  };
  static constexpr int kDepth = 2, kTile = 8;
  static constexpr bool kScaled = false;

  static Weights Read(const uint16_t* from) { return {{Held(_mm512_loadu_si512(from))}}; }
  static Floats Add(Floats sum, const Weights& weights, int v, const uint16_t* x) {
    int32_t pair;
    std::memcpy(&pair, x, sizeof pair);
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights.numbers[v], (__m512bh)_mm512_set1_epi32(pair));
  }
};
#else
// A pair of bfloat16 is a word: each is one instruction away from a float32.
struct Bfloat16 {
  using Stored = uint16_t;
  using Left = float;
  using Sums = Floats;
  struct Weights {
    Floats even[kVectors], odd[kVectors];
  };
  static constexpr int kDepth = 2, kTile = kMany ? 8 : 5;
  static constexpr bool kScaled = false;

  static Weights Read(const uint16_t* from) {
    Weights weights;
    for (int v = 0; v < kVectors; ++v) {
      const Words pairs = Unaligned(reinterpret_cast<const uint32_t*>(from) + v * kLanes);
      weights.even[v] = Held(Bits<Floats>(pairs << 16));
      weights.odd[v] = Held(Bits<Floats>(pairs & 0xffff0000));
    }
    return weights;
  }
  static Floats Add(Floats sum, const Weights& weights, int v, const float* x) {
    return MultiplyAdd(weights.odd[v], Broadcast(x[1]), MultiplyAdd(weights.even[v], Broadcast(x[0]), sum));
  }
};
#endif

#if defined(__AVX512VNNI__)
// Four products of bytes a lane; x is rounded to int8, with a scale for each block. One side has to be unsigned: the
// weights are stored with 128 added, which `Offset` takes off again.
struct Int8 {
  using Stored = int8_t;
  using Left = int8_t;
  using Sums = Ints;
  struct Weights {
    __m512i numbers[kVectors];
  };
  static constexpr int kDepth = 4, kTile = 8, kMost = 127, kZero = 128;
  static constexpr bool kScaled = true;

  static Weights Read(const int8_t* from) { return {{Held(_mm512_loadu_si512(from))}}; }
  static Ints Add(Ints sum, const Weights& weights, int v, const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, sizeof four);
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, weights.numbers[v], _mm512_set1_epi32(four));
  }
};
#else
// x is rounded to int16, with a scale for each block: 64 products with int8 fit into 32 bits.
struct Int8 {
  using Stored = int8_t;
  using Left = int16_t;
  using Sums = Ints;
  static constexpr int kDepth = 2, kTile = kMany ? 8 : 4, kMost = 32767, kZero = 0;
  static constexpr bool kScaled = true;
#if defined(__AVX512BW__)
  struct Weights {
    __m512i numbers[kVectors];
  };
  static Weights Read(const int8_t* from) {
    return {{_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))}};
  }
  static Ints Add(Ints sum, const Weights& weights, int v, const int16_t* x) {
    return sum + (Ints)_mm512_madd_epi16(weights.numbers[v], _mm512_set1_epi32(Pair(x)));
  }
#elif defined(__AVX2__) && !defined(__AVX512F__)
  struct Weights {
    __m256i numbers[kVectors];
  };
  static Weights Read(const int8_t* from) {
    Weights weights;
    for (int v = 0; v < kVectors; ++v) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + v * 2 * kLanes));
      weights.numbers[v] = _mm256_cvtepi8_epi16(bytes);
    }
    return weights;
  }
  static Ints Add(Ints sum, const Weights& weights, int v, const int16_t* x) {
    return sum + (Ints)_mm256_madd_epi16(weights.numbers[v], _mm256_set1_epi32(Pair(x)));
  }
#else
  struct Weights {
    Ints even[kVectors], odd[kVectors];
  };
  static Weights Read(const int8_t* from) {
    Weights weights;
    for (int v = 0; v < kVectors; ++v) {
      const Ints pairs = __builtin_convertvector(Unaligned(reinterpret_cast<const int16_t*>(from) + v * kLanes), Ints);
      weights.even[v] = pairs << 24 >> 24;
      weights.odd[v] = pairs >> 8;
    }
    return weights;
  }
  static Ints Add(Ints sum, const Weights& weights, int v, const int16_t* x) {
    return sum + weights.even[v] * int32_t(x[0]) + weights.odd[v] * int32_t(x[1]);
  }
#endif
  static int32_t Pair(const int16_t* x) {
    int32_t pair;
    std::memcpy(&pair, x, sizeof pair);
    return pair;
  }
};
#endif

constexpr int64_t kAhead = 4096;  // bytes that are asked for in advance

// A product of rows [rows, width] with a packed matrix, to y [rows, outputs]; width is a multiple of kBlock.
template <typename Kind>
struct Product {
  const typename Kind::Left* x;
  const float* x_scales;     // [rows, width / kBlock], of kinds with scales
  const int32_t* x_offsets;  // where the sums of a block begin
  const typename Kind::Stored* matrix;
  const float* scales;  // [panels, width / kBlock, kPanel]
  const float* bias;    // [outputs], or null
  float* y;
  int64_t rows, width, outputs;

  int64_t panels() const { return (outputs + kPanel - 1) / kPanel; }
};

}  // namespace gpt2

#endif  // MODELS_GPT2_NATIVE_KINDS_H_
