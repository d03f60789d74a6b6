// Products of two bfloat16 arrays for training, with the tile registers of AMX or the vectors of AVX-512: either array may
// be transposed.
//
// Both are packed into tiles as they come. The one with fewer indices is packed first, for all tasks; each task packs a
// block of the other one, which its second cache holds, and takes the pairs of tiles of the first one in turn.
// Goto and van de Geijn 2008, Anatomy of High-Performance Matrix Multiplication.

#ifndef MODELS_GPT2_NATIVE_TILE_PRODUCTS_H_
#define MODELS_GPT2_NATIVE_TILE_PRODUCTS_H_

#include <optional>
#include <tuple>
#include <vector>

#include "tiles.h"

namespace gpt2 {

// A factor of a product, which sums over the inputs: entry (index, input) is at from[index * step + input] if it has a row
// for each index, else at from[input * step + index].
struct Factor {
  const uint16_t* from;
  int64_t indices, inputs, step;
  bool has_rows;
};

#if defined(GPT2_PAIRS)

constexpr int64_t kPair = 32;           // indices of two tiles
constexpr int64_t kInputsOfTile = 32;   // of both factors
constexpr int64_t kTileWords = 16;      // vectors of words of a tile
constexpr int64_t kInputsOfL2 = 2048;   // of a block that the second cache holds
constexpr int64_t kNumbersOfL2 = 1 << 19;

template <typename T>
inline T RoundedUp(T number, T unit) {
  return (number + unit - 1) / unit * unit;
}

// 16 by 16 words. Stage by stage, the lanes of which one bit is set change places with the rows of which it is not.
inline void Transpose(Words (&rows)[kTileWords]) {
  Each<4>([&](auto stage) {
    constexpr int kStep = 1 << decltype(stage)::value;
    const Ints lane = From(0), is_set = (lane & kStep) != 0;
    const Ints upper = is_set ? lane - kStep + kLanes : lane, lower = is_set ? lane + kLanes : lane + kStep;
    Each<kTileWords / 2>([&](auto n) {
      constexpr int kRow = decltype(n)::value / kStep * 2 * kStep + decltype(n)::value % kStep;
      const __m512i a = (__m512i)rows[kRow], b = (__m512i)rows[kRow + kStep];
      rows[kRow] = (Words)_mm512_permutex2var_epi32(a, (__m512i)upper, b);
      rows[kRow + kStep] = (Words)_mm512_permutex2var_epi32(a, (__m512i)lower, b);
    });
  });
}

// 16 indices and 32 inputs. A tile of the left factor has a row for each index, one of the right factor for each pair of
// inputs. What the array does not have is zero. Without has_rows the inputs are added to the indices' totals,
// if there are any.
template <bool is_left, bool has_rows>
void PackTile(const Factor& factor, int64_t index, int64_t input, Words* to, float* totals) {
  const int64_t indices = std::min<int64_t>(kTileWords, factor.indices - index);
  const int64_t inputs = std::min<int64_t>(kInputsOfTile, factor.inputs - input);
  const uint16_t* from = factor.from + (has_rows ? index * factor.step + input : input * factor.step + index);
  Words rows[kTileWords];
  if constexpr (has_rows) {
    const __mmask32 mask = ~uint32_t() >> (kInputsOfTile - inputs);
    Each<kTileWords>([&](auto i) {
      rows[i] = (Words)_mm512_maskz_loadu_epi16(i < indices ? mask : 0, from + i * factor.step);
    });
  } else {
    const __mmask16 mask = uint32_t(0xffff) >> (kTileWords - indices);
    const auto half = [&](int64_t at) {
      const __m256i numbers = _mm256_maskz_loadu_epi16(at < inputs ? mask : __mmask16(), from + at * factor.step);
      return (Words)_mm512_cvtepu16_epi32(numbers);
    };
    Each<kTileWords>([&](auto i) { rows[i] = half(2 * i) | half(2 * i + 1) << 16; });
    if (totals) {
      Floats even = Load(totals + index), odd = {};
      Each<kTileWords>([&](auto i) { even += Bits<Floats>(rows[i] << 16), odd += Bits<Floats>(rows[i] & 0xffff0000); });
      Store(totals + index, even + odd);
    }
  }
  if (has_rows != is_left) Transpose(rows);
  std::memcpy(to, rows, sizeof rows);
}

// The inputs from `first` to `last` of pairs of tiles. Of each pair those of 16 indices come after those of the others.
// The array is read in its order.
template <bool is_left>
void PackPairs(const Factor& factor, int64_t index, int64_t pairs, int64_t first, int64_t last, Words* to,
               float* totals = nullptr) {
  const int64_t half = (last - first) / 2, tiles = (last - first) / kInputsOfTile;
  const auto place = [=](int64_t tile, int64_t input) { return to + tile * half + input * kTileWords; };
  if (factor.has_rows) {
    for (int64_t tile = 0; tile < 2 * pairs; ++tile) {
      for (int64_t i = 0; i < tiles; ++i) {
        PackTile<is_left, true>(factor, index + tile * kTileWords, first + i * kInputsOfTile, place(tile, i), nullptr);
      }
    }
  } else {
    for (int64_t i = 0; i < tiles; ++i) {
      for (int64_t tile = 0; tile < 2 * pairs; ++tile) {
        PackTile<is_left, false>(factor, index + tile * kTileWords, first + i * kInputsOfTile, place(tile, i), totals);
      }
    }
  }
}

// 32 indices of a factor in tiles: bytes from row to row, from tile to tile of the inputs, and to the other 16 indices.
struct Pair {
  const void* from;
  int64_t row, tile, half;

  const char* At(int64_t i) const { return static_cast<const char*>(from) + i * tile; }
};

// A pair of a factor that was packed with so many inputs, from the tile that is at `from` on.
inline Pair Packed(const Words* from, int64_t inputs) {
  return {from, kTileBytes, kRowsOfTile * kTileBytes, inputs / 2 * int64_t(sizeof(Words))};
}

// 32 rows of an array, a left factor as it is.
inline Pair RowsOf(const uint16_t* from, int64_t columns) {
  return {from, columns * 2, kTileBytes, kRowsOfTile * columns * 2};
}

// The tile registers of this thread for whole tiles, where there are any.
class PairRegisters {
#if defined(GPT2_TILES)
 public:
  PairRegisters() {
    if (HasTiles()) tiles_.emplace().Shape(kRowsOfTile, kRowsOfTile);
  }

 private:
  std::optional<Tiles> tiles_;
#endif
};

// AddPairs of some of the left rows, which are `step` apart, in vectors. Some tiles of inputs are summed in registers, which
// keeps a long sum near the exact one.
template <int rows, int64_t packed_row>
void AddRows(const char* left, const Pair& lefts, const Pair& right, int64_t count, bool begins, float* sums,
             int64_t step) {
  constexpr int64_t kTilesOfSum = 4;
  constexpr int kHalves = 2;
  const int64_t row = packed_row ? packed_row : lefts.row;
  for (int64_t first = 0; first < count; first += kTilesOfSum) {
    Floats totals[rows][kHalves] = {};
    for (int64_t i = first; i < std::min(count, first + kTilesOfSum); ++i, left += lefts.tile) {
      const char* weights = right.At(i);
      for (int64_t k = 0; k < kTileWords; ++k, weights += kTileBytes) {
        const auto upper = (__m512bh)_mm512_load_si512(weights), lower = (__m512bh)_mm512_load_si512(weights + right.half);
        Each<rows>([&](auto r) {
          int32_t pair;
          std::memcpy(&pair, left + r * row + k * sizeof pair, sizeof pair);
          const auto both = (__m512bh)_mm512_set1_epi32(pair);
          totals[r][0] = (Floats)_mm512_dpbf16_ps((__m512)totals[r][0], both, upper);
          totals[r][1] = (Floats)_mm512_dpbf16_ps((__m512)totals[r][1], both, lower);
        });
      }
    }
    const bool is_first = begins && first == 0;
    Each<rows>([&](auto r) {
      Each<kHalves>([&](auto half) {
        float* to = sums + r * step + half * kLanes;
        Store(to, is_first ? totals[r][half] : Load(to) + totals[r][half]);
      });
    });
  }
}

inline void AddPairsInVectors(const Pair& left, const Pair& right, int64_t count, bool begins, float* sums,
                              int64_t step) {
  constexpr int kRows = 8;  // 16 sums, which hide the time that a product takes
  for (int64_t row = 0; row < kPair; row += kRows) {
    const char* from = left.At(0) + row / kRowsOfTile * left.half + row % kRowsOfTile * left.row;
    const auto add = left.row == kTileBytes ? AddRows<kRows, kTileBytes> : AddRows<kRows, 0>;
    add(from, left, right, count, begins, sums + row * step, step);
  }
}

#if defined(GPT2_TILES)

inline void AddPairsInTiles(const Pair& left, const Pair& right, int64_t count, bool begins, float* sums, int64_t step) {
  float *upper = sums, *lower = sums + kRowsOfTile * step;
  const int64_t bytes = step * sizeof(float);
  if (begins) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    LoadTile<0>(upper, bytes);
    LoadTile<1>(upper + kPanel, bytes);
    LoadTile<2>(lower, bytes);
    LoadTile<3>(lower + kPanel, bytes);
  }
  Written(left.from);
  for (int64_t i = 0; i < count; ++i) {
    _tile_loadd(4, left.At(i), left.row);
    _tile_loadd(6, right.At(i), right.row);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, right.At(i) + right.half, right.row);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, left.At(i) + left.half, left.row);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  StoreTile<0>(upper, bytes);
  StoreTile<1>(upper + kPanel, bytes);
  StoreTile<2>(lower, bytes);
  StoreTile<3>(lower + kPanel, bytes);
}

#endif

// sums [32, 32], in rows `step` apart, = left times right, of `count` tiles of inputs; or + left times right if not begins.
inline void AddPairs(const Pair& left, const Pair& right, int64_t count, bool begins, float* sums, int64_t step) {
#if defined(GPT2_TILES)
  if (HasTiles()) return AddPairsInTiles(left, right, count, begins, sums, step);
#endif
  AddPairsInVectors(left, right, count, begins, sums, step);
}

// 32 by 32 sums.
struct alignas(64) Sums {
  float numbers[kPair][kPair];
};

template <typename Out>
struct Result {
  const float* bias;  // of the columns, or null
  Out* y;
  int64_t rows, columns;
  float* totals;  // of the columns of the right factor, or null

  // Asks for the lines that `Put` will write.
  void Fetch(int64_t row, int64_t column) const {
    for (int64_t r = row; r < std::min(rows, row + kPair); ++r) {
      const Out* to = y + r * columns + column;
      for (int64_t i = 0; i < kPair; i += kTileBytes / sizeof(Out)) __builtin_prefetch(to + i, 1);
    }
  }

  void Put(const Sums& sums, int64_t row, int64_t column) const {
    const int64_t count = std::min(kPair, rows - row);
    for (int64_t half = column; half < std::min(columns, column + kPair); half += kLanes) {
      const int64_t lanes = std::min<int64_t>(kLanes, columns - half);
      const Floats more = bias ? LoadSome(bias + half, lanes) : Floats{};
      for (int64_t r = 0; r < count; ++r) {
        const Floats numbers = Load(sums.numbers[r] + (half - column)) + more;
        Out* to = y + (row + r) * columns + half;
        lanes == kLanes ? Store(to, numbers) : StoreSome(to, numbers, lanes);
      }
    }
  }
};

// Memory for packed tiles that the next product uses again.
inline Words* Room(std::vector<uint8_t>& memory, int64_t vectors) {
  const size_t bytes = (vectors + 1) * sizeof(Words);
  if (memory.size() < bytes) memory.resize(bytes);
  return reinterpret_cast<Words*>(RoundedUp<uintptr_t>(reinterpret_cast<uintptr_t>(memory.data()), sizeof(Words)));
}

// The product of two factors; the left one has not fewer indices than the other if holds_left.
template <bool holds_left, typename Out>
void MultiplyArrays(xla::ffi::ThreadPool& pool, const Factor& held, const Factor& taken, const Result<Out>& result) {
  static thread_local std::vector<uint8_t> memory;
  static thread_local std::vector<float> padded;  // totals of whole tiles
  float* totals = nullptr;
  if (result.totals) {
    padded.assign(RoundedUp(result.columns, kPair), 0);
    totals = padded.data();
  }
  const int64_t inputs = RoundedUp(held.inputs, kInputsOfTile), part = std::min(inputs, kInputsOfL2);
  const int64_t pairs = (taken.indices + kPair - 1) / kPair, threads = pool.num_threads();
  Words* packed = Room(memory, pairs * inputs);  // a vector holds an input of a pair
  // [part of the inputs, pair, half, tile]
  const auto place = [=](int64_t first, int64_t pair, int64_t last) {
    return packed + first * pairs + (last - first) * pair;
  };
  const int64_t share = (pairs + threads - 1) / threads;
  Share(pool, (pairs + share - 1) / share, [=](int64_t task) {
    const int64_t pair = task * share, count = std::min(share, pairs - pair);
    for (int64_t first = 0; first < inputs; first += part) {
      const int64_t last = std::min(inputs, first + part);
      PackPairs<!holds_left>(taken, pair * kPair, count, first, last, place(first, pair, last),
                             holds_left ? totals : nullptr);
    }
  });
  const int64_t most = std::max(kPair, kNumbersOfL2 / part);
  const int64_t blocks = RoundedUp((held.indices + most - 1) / most, threads);
  const int64_t block = RoundedUp((held.indices + blocks - 1) / blocks, kPair), of_block = block / kPair;
  Share(pool, (held.indices + block - 1) / block, [=](int64_t task) {
    static thread_local std::vector<uint8_t> own, sums_memory;
    const bool in_parts = part < inputs;
    Words* tiles = Room(own, of_block * part);
    Sums* sums = reinterpret_cast<Sums*>(
        Room(sums_memory, (in_parts ? pairs * of_block : 2) * int64_t(sizeof(Sums) / sizeof(Words))));
    const PairRegisters registers;
    const int64_t begin = task * block, end = std::min(held.indices, begin + block);
    for (int64_t first = 0; first < inputs; first += part) {
      const int64_t last = std::min(inputs, first + part), size = last - first;
      const int64_t held_pairs = (end - begin + kPair - 1) / kPair;
      PackPairs<holds_left>(held, begin, held_pairs, first, last, tiles, holds_left ? nullptr : totals);
      const int64_t count = pairs * held_pairs;
      const auto block_of = [&](int64_t n) {  // its sums, row and column
        const int64_t index = begin + n % held_pairs * kPair, other = n / held_pairs * kPair;
        return std::make_tuple(sums + (in_parts ? n : n & 1), holds_left ? index : other, holds_left ? other : index);
      };
      for (int64_t n = 0; n <= count; ++n) {
        if (n < count) {
          const auto [to, row, column] = block_of(n);
          const Pair mine = Packed(tiles + n % held_pairs * size, size);
          const Pair other = Packed(place(first, n / held_pairs, last), size);
          if (last == inputs) result.Fetch(row, column);
          AddPairs(holds_left ? mine : other, holds_left ? other : mine, size / kInputsOfTile, first == 0,
                   to->numbers[0], kPair);
        }
        if (n && last == inputs) {  // one behind: the processor does it during the products
          const auto [from, row, column] = block_of(n - 1);
          result.Put(*from, row, column);
        }
      }
    }
  });
  if (totals) std::copy_n(totals, result.columns, result.totals);
}

// totals: the sums of the columns of the right factor, which has no rows then; or null.
template <typename Out>
void MultiplyArrays(xla::ffi::ThreadPool& pool, const Factor& left, const Factor& right, const float* bias, Out* y,
                    float* totals) {
  const Result<Out> result{bias, y, left.indices, right.indices, totals};
  if (left.indices >= right.indices) {
    MultiplyArrays<true>(pool, left, right, result);
  } else {
    MultiplyArrays<false>(pool, right, left, result);
  }
}

#else

template <typename Out>
void MultiplyArrays(xla::ffi::ThreadPool&, const Factor&, const Factor&, const float*, Out*, float*) {}

#endif

}  // namespace gpt2

#endif  // MODELS_GPT2_NATIVE_TILE_PRODUCTS_H_
