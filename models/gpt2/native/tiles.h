// Products with the tile registers of AMX, 16 rows by 16 outputs at a time: the packed matrices are laid out as its
// instructions take them. Intel, Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.

#ifndef MODELS_GPT2_NATIVE_TILES_H_
#define MODELS_GPT2_NATIVE_TILES_H_

#include <type_traits>
#include <vector>

#include "kinds.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define GPT2_PAIRS  // the products of tile_products.h, with AMX or without
#endif

#if defined(GPT2_PAIRS) && defined(__linux__) && defined(__AMX_TILE__) && defined(__AMX_BF16__) && \
    defined(__AMX_INT8__) && defined(__AVX512VNNI__)
#define GPT2_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace gpt2 {

constexpr int64_t kRowsOfTile = 16, kTileBytes = 64;  // of a row of a tile

#if defined(GPT2_PAIRS)
constexpr bool kHasPairs = true;
#else
constexpr bool kHasPairs = false;
#endif

}  // namespace gpt2

#if defined(GPT2_TILES)

namespace gpt2 {

constexpr int64_t kTilePart = 4 * kBlock;  // inputs of a pair of panels that the first cache holds
constexpr int64_t kTileChunk = 1 << 20;    // bytes of rows that the second cache holds

template <typename Kind>
constexpr bool kInTiles = std::is_same<Kind, Bfloat16>::value || std::is_same<Kind, Int8>::value;

// Linux gives a process these registers when it asks.
inline bool HasTiles() {
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool has = syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  return has;
}

// Makes GCC write what is at a place before the next instruction: it does not know that tiles are read from memory.
inline void Written(const void* place) { asm volatile("" : : "r"(place) : "memory"); }

// The tiles of this thread: sums in 0 to 3, of two times 16 rows and two panels, or of 16 rows and four panels; rows of x
// in 4 and 5; weights in 6 and 7.
class Tiles {
 public:
  Tiles() = default;
  Tiles(const Tiles&) = delete;
  ~Tiles() { _tile_release(); }

  // rows: of the first and of the second tile of x, which may have none.
  void Shape(int64_t first, int64_t second) {
    if (first == first_ && second == second_) return;
    first_ = first, second_ = second;
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    const int64_t below = second ? second : first;
    const int64_t rows[] = {first, first, below, below, first, second, kRowsOfTile, kRowsOfTile};
    for (int tile = 0; tile < 8; ++tile) {
      if (rows[tile]) shape.bytes[tile] = kTileBytes, shape.rows[tile] = uint8_t(rows[tile]);
    }
    Written(&shape);
    _tile_loadconfig(&shape);
  }

 private:
  int64_t first_ = -1, second_ = -1;
};

// The intrinsics take digits only.

template <int tile>
void LoadTile(const void* from, int64_t step) {
  Written(from);
  if constexpr (tile == 0) _tile_loadd(0, from, step);
  if constexpr (tile == 1) _tile_loadd(1, from, step);
  if constexpr (tile == 2) _tile_loadd(2, from, step);
  if constexpr (tile == 3) _tile_loadd(3, from, step);
}

template <int tile>
void StoreTile(void* to, int64_t step) {
  if constexpr (tile == 0) _tile_stored(0, to, step);
  if constexpr (tile == 1) _tile_stored(1, to, step);
  if constexpr (tile == 2) _tile_stored(2, to, step);
  if constexpr (tile == 3) _tile_stored(3, to, step);
}

// The sums of the tiles 0 to 3.
struct alignas(64) TileSums {
  float numbers[4][kRowsOfTile][kPanel];
};

// A row of x into the tiles that it belongs to.
template <typename T>
void PutIntoTiles(const T* x, int64_t width, int64_t row, T* tiles) {
  constexpr int64_t kCount = kTileBytes / sizeof(T);
  T* to = tiles + row / kRowsOfTile * kRowsOfTile * width + row % kRowsOfTile * kCount;
  for (int64_t i = 0; i < width; i += kCount) std::memcpy(to + i * kRowsOfTile, x + i, kTileBytes);
}

// Where the tiles of x begin that have a row, a multiple of 16. They follow each other, those of the same rows first.
template <typename Kind>
const typename Kind::Left* TilesOf(const Product<Kind>& p, int64_t row) {
  return p.x + row * p.width;
}

// Adds the inputs from `from` to `to` to the sums of 16 rows and P panels, or of 32 rows and two panels at most if is_tall.
template <bool is_tall, int P>
void AddTiles(const Product<Bfloat16>& p, int64_t row, int64_t panel, int64_t from, int64_t to, TileSums& sums) {
  static_assert(P * (1 + is_tall) <= 4);
  if (from) {
    LoadTile<0>(sums.numbers[0], kTileBytes);
    LoadTile<1>(sums.numbers[1], kTileBytes);
    LoadTile<2>(sums.numbers[2], kTileBytes);
    LoadTile<3>(sums.numbers[3], kTileBytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const int64_t size = p.width * kPanel;
  const uint16_t *x = TilesOf(p, row), *weights = p.matrix + panel * size;
  for (int64_t k = from; k < to; k += kTileBytes / 2) {
    const uint16_t* at = weights + k * kPanel;
    _tile_loadd(4, x + k * kRowsOfTile, kTileBytes);
    _tile_loadd(6, at, kTileBytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (P > 1) {
      _tile_loadd(7, at + size, kTileBytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (P > 2) {
      _tile_loadd(6, at + 2 * size, kTileBytes);
      _tile_dpbf16ps(2, 4, 6);
      _tile_loadd(7, at + 3 * size, kTileBytes);
      _tile_dpbf16ps(3, 4, 7);
    }
    if constexpr (is_tall) {
      _tile_loadd(5, x + kRowsOfTile * (p.width + k), kTileBytes);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (P > 1) _tile_dpbf16ps(3, 5, 7);
    }
  }
  StoreTile<0>(sums.numbers[0], kTileBytes);
  StoreTile<1>(sums.numbers[1], kTileBytes);
  StoreTile<2>(sums.numbers[2], kTileBytes);
  StoreTile<3>(sums.numbers[3], kTileBytes);
}

// The sums of `rows` rows and of the panels from `panel` to `last`, plus the bias, to y.
inline void PutSums(const Product<Bfloat16>& p, const TileSums& sums, int64_t row, int64_t rows, int64_t panel,
                    int64_t last) {
  const int64_t wide = rows > kRowsOfTile ? 2 : 4;  // panels of 16 rows
  for (int64_t tile = 0; tile < 4; ++tile) {
    const int64_t first = tile / wide * kRowsOfTile, column = (panel + tile % wide) * kPanel;
    if (panel + tile % wide >= last) continue;
    const int64_t count = std::min(kPanel, p.outputs - column), end = std::min(kRowsOfTile, rows - first);
    const Floats bias = p.bias ? LoadSome(p.bias + column, count) : Floats{};
    float* y = p.y + (row + first) * p.outputs + column;
    for (int64_t r = 0; r < end; ++r, y += p.outputs) {
      const Floats total = p.bias ? Load(sums.numbers[tile][r]) + bias : Load(sums.numbers[tile][r]);
      count == kPanel ? Store(y, total) : StoreSome(y, total, count);
    }
  }
}

// The panels from `first` to `last`. Sums go on where they were, so their bits do not depend on rows or parts.
inline void MultiplyTiles(const Product<Bfloat16>& p, int64_t first, int64_t last) {
  constexpr int64_t kTall = 2 * kRowsOfTile;
  static thread_local std::vector<TileSums> sums;
  const int64_t part = p.rows <= kTall ? p.width : kTilePart;
  const int64_t most = std::max(kTall, kTileChunk / (p.width * int64_t(sizeof(uint16_t))) / kTall * kTall);
  const int64_t pairs = (std::min(most, p.rows) + kTall - 1) / kTall;
  if (int64_t(sums.size()) < pairs) sums.resize(pairs);
  Tiles tiles;
  for (int64_t chunk = 0; chunk < p.rows; chunk += most) {
    const int64_t end = std::min(p.rows, chunk + most);
    for (int64_t panel = first, panels; panel < last; panel += panels) {
      panels = p.rows <= kRowsOfTile && last - panel >= 4 ? 4 : std::min<int64_t>(2, last - panel);
      for (int64_t from = 0; from < p.width; from += part) {
        const int64_t to = std::min(p.width, from + part);
        for (int64_t row = chunk; row < end; row += kTall) {
          const int64_t rows = std::min(end - row, kTall), upper = std::min(rows, kRowsOfTile), lower = rows - upper;
          const auto add = lower > 0    ? panels > 1 ? AddTiles<true, 2> : AddTiles<true, 1>
                           : panels > 2 ? AddTiles<false, 4>
                           : panels > 1 ? AddTiles<false, 2>
                                        : AddTiles<false, 1>;
          tiles.Shape(upper, lower);
          add(p, row, panel, from, to, sums[(row - chunk) / kTall]);
          // One behind: what was just stored would have to be waited for.
          if (to == p.width && row > chunk) {
            PutSums(p, sums[(row - chunk) / kTall - 1], row - kTall, kTall, panel, panel + panels);
          }
        }
      }
      const int64_t row = chunk + (end - chunk - 1) / kTall * kTall;
      PutSums(p, sums[(row - chunk) / kTall], row, end - row, panel, panel + panels);
    }
  }
}

// At most R rows and one panel. The integers of a block are exact, so the bits are those of `Tile`. Of missing rows the
// scales are read and the sums not written.
template <int R>
void TileProduct(Tiles& tiles, const Product<Int8>& p, int64_t row, int64_t rows, int64_t panel) {
  tiles.Shape(rows, 0);
  const int64_t blocks = p.width / kBlock, column = panel * kPanel, count = std::min(kPanel, p.outputs - column);
  const int8_t *x = TilesOf(p, row), *weights = p.matrix + panel * p.width * kPanel;
  const float* scales = p.scales + panel * blocks * kPanel;
  Floats totals[R] = {};
  alignas(64) int32_t sums[2][R][kPanel];
  const auto add = [&](int64_t block) {
    const Floats scale = Load(scales + block * kPanel);
    Each<R>([&](auto r) {
      const int64_t of = (row + r) * blocks + block;
      const Ints exact = Bits<Ints>(_mm512_load_si512(sums[block & 1][r])) + p.x_offsets[of];
      totals[r] = MultiplyAdd(__builtin_convertvector(exact, Floats), scale * p.x_scales[of], totals[r]);
    });
  };
  for (int64_t block = 0; block < blocks; ++block) {
    _tile_zero(0);
    _tile_loadd(4, x + block * kBlock * kRowsOfTile, kTileBytes);
    _tile_loadd(6, weights + block * kBlock * kPanel, kTileBytes);
    _tile_dpbsud(0, 4, 6);
    _tile_stored(0, sums[block & 1], kTileBytes);
    if (block) add(block - 1);  // one behind: what was just stored would have to be waited for
  }
  add(blocks - 1);
  const Floats bias = p.bias ? LoadSome(p.bias + column, count) : Floats{};
  Each<R>([&](auto r) {
    if (r >= rows) return;
    float* y = p.y + (row + r) * p.outputs + column;
    const Floats total = p.bias ? totals[r] + bias : totals[r];
    count == kPanel ? Store(y, total) : StoreSome(y, total, count);
  });
}

inline void MultiplyTiles(const Product<Int8>& p, int64_t first, int64_t last) {
  Tiles tiles;
  for (int64_t chunk = 0; chunk < p.rows; chunk += kTileChunk) {
    const int64_t end = std::min(p.rows, chunk + kTileChunk);
    for (int64_t panel = first; panel < last; ++panel) {
      for (int64_t row = chunk; row < end; row += kRowsOfTile) {
        const int64_t rows = std::min(end - row, kRowsOfTile);
        const auto product = rows > 8 ? TileProduct<16> : rows > 4 ? TileProduct<8> : TileProduct<4>;
        product(tiles, p, row, rows, panel);
      }
    }
  }
}

}  // namespace gpt2

#else

namespace gpt2 {

template <typename Kind>
constexpr bool kInTiles = false;

inline bool HasTiles() { return false; }

template <typename T>
void PutIntoTiles(const T*, int64_t, int64_t, T*) {}

}  // namespace gpt2

#endif

#endif  // MODELS_GPT2_NATIVE_TILES_H_
