// Products of few and of many rows with matrices that are packed once, in float32, bfloat16 or int8.
//
// Outputs are in panels of 16, whose weights follow each other in the order in which they are multiplied; a tile of rows
// and panels has its sums in registers. Each sum has one register lane and takes the inputs in their order, block by block,
// so a row's result has the same bits whatever rows are computed with it, and however many.

#ifndef MODELS_GPT2_NATIVE_PACKED_H_
#define MODELS_GPT2_NATIVE_PACKED_H_

#include <type_traits>
#include <vector>

#include "kinds.h"
#include "pointwise.h"
#include "tiles.h"

namespace gpt2 {

// R rows and P panels, the inputs of blocks `from` to `to`.
template <typename Kind, int R, int P>
void Tile(const Product<Kind>& p, int64_t row, int64_t panel, int64_t from, int64_t to) {
  constexpr int V = P * kVectors;
  const int64_t blocks = p.width / kBlock;
  const auto* weights = p.matrix + (panel * p.width + from * kBlock) * kPanel;
  const auto* x = p.x + row * p.width + from * kBlock;
  Floats totals[R][V] = {};
  const auto each = [&](auto task) {  // of the tile's vectors of y, and how many of its lanes there are
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) {
        const int64_t column = panel * kPanel + v * kLanes;
        task(totals[r][v], p.y + (row + r) * p.outputs + column, column, std::min<int64_t>(kLanes, p.outputs - column));
      }
    }
  };
  if (from) {
    each([](Floats& total, const float* y, int64_t, int64_t count) {
      if (count > 0) total = count == kLanes ? Load(y) : LoadSome(y, count);
    });
  }
  for (int64_t block = from; block < to; ++block) {
    typename Kind::Sums sums[R * V];
    Each<R>([&](auto r) {
      Each<V>([&](auto v) {
        sums[r * V + v] = typename Kind::Sums{};
        if constexpr (Kind::kScaled) sums[r * V + v] += Kind::kZero ? p.x_offsets[(row + r) * blocks + block] : 0;
      });
    });
    for (int step = 0; step < kBlock / Kind::kDepth; ++step) {
      Each<P>([&](auto q) {
        const auto* at = weights + q * p.width * kPanel;
        __builtin_prefetch(reinterpret_cast<const char*>(at) + kAhead, 0, 2);  // into the second cache
        const auto read = Kind::Read(at);
        Each<R>([&](auto r) {
          Each<kVectors>([&](auto v) {
            auto& sum = sums[r * V + q * kVectors + v];
            sum = Kind::Add(sum, read, v, x + r * p.width);
          });
        });
      });
      weights += Kind::kDepth * kPanel;
      x += Kind::kDepth;
    }
    Each<R>([&](auto r) {
      Each<V>([&](auto v) {
        if constexpr (Kind::kScaled) {
          const float* scales = p.scales + ((panel + v / kVectors) * blocks + block) * kPanel + v % kVectors * kLanes;
          const Floats scale = Load(scales) * p.x_scales[(row + r) * blocks + block];
          totals[r][v] = MultiplyAdd(__builtin_convertvector(sums[r * V + v], Floats), scale, totals[r][v]);
        } else {
          totals[r][v] += sums[r * V + v];
        }
      });
    });
  }
  const float* bias = to == blocks ? p.bias : nullptr;
  each([bias](Floats& total, float* y, int64_t column, int64_t count) {
    if (bias && count > 0) total += count == kLanes ? Load(bias + column) : LoadSome(bias + column, count);
    if (count > 0) count == kLanes ? Store(y, total) : StoreSome(y, total, count);
  });
}

// The panels of a tile of so many rows.
template <typename Kind>
constexpr int TilePanels(int rows) {
  if (!kMany) return rows <= 3 ? 2 : 1;
  return Kind::kScaled ? 1 : rows <= 4 ? 6 : 3;
}

template <typename Kind, int R, int P = TilePanels<Kind>(R)>
void TilePanelsOf(const Product<Kind>& p, int64_t row, int64_t panel, int64_t end, int64_t from, int64_t to) {
  for (; panel + P <= end; panel += P) Tile<Kind, R, P>(p, row, panel, from, to);
  if constexpr (P > 1) TilePanelsOf<Kind, R, 1>(p, row, panel, end, from, to);
}

template <typename Kind, int R = Kind::kTile>
void TileOf(int rows, const Product<Kind>& p, int64_t row, int64_t panel, int64_t end, int64_t from, int64_t to) {
  if (rows == R) {
    TilePanelsOf<Kind, R>(p, row, panel, end, from, to);
  } else if constexpr (R > 1) {
    TileOf<Kind, R - 1>(rows, p, row, panel, end, from, to);
  }
}

// The panels from `first` to `last`: parts of the inputs that stay in the processor's caches, for all rows in turn.
template <typename Kind>
void MultiplyPanels(const Product<Kind>& p, int64_t first, int64_t last) {
  constexpr int64_t kGroup = kMany ? 6 : 2, kPart = 16, kPartOfMany = 4, kRows = 384, kFew = 1 << 18;
  const int64_t blocks = p.width / kBlock;
  const auto of_group = [&p, last](int64_t panel, int64_t row, int64_t end, int64_t from, int64_t to) {
    for (int64_t tiles = (end - row + Kind::kTile - 1) / Kind::kTile; tiles > 0; --tiles) {
      const int64_t size = (end - row + tiles - 1) / tiles;
      TileOf<Kind>(int(size), p, row, panel, std::min(last, panel + kGroup), from, to);
      row += size;
    }
  };
  if (p.rows <= Kind::kTile) {
    for (int64_t panel = first; panel < last; panel += kGroup) of_group(panel, 0, p.rows, 0, blocks);
  } else if (p.rows * p.width * int64_t(sizeof(typename Kind::Left)) <= kFew) {
    for (int64_t panel = first; panel < last; panel += kGroup) {
      for (int64_t part = 0; part < blocks; part += kPart) {
        of_group(panel, 0, p.rows, part, std::min(blocks, part + kPart));
      }
    }
  } else {
    for (int64_t row = 0; row < p.rows; row += kRows) {
      for (int64_t part = 0; part < blocks; part += kPartOfMany) {
        for (int64_t panel = first; panel < last; panel += kGroup) {
          of_group(panel, row, std::min(p.rows, row + kRows), part, std::min(blocks, part + kPartOfMany));
        }
      }
    }
  }
}

// A row as its kind of matrix multiplies it: `width` numbers, of x those that it has, and zeros.
inline void Prepare(const float* x, int64_t count, int64_t width, float* to, float*, int32_t*) {
  std::copy_n(x, count, to);
  std::fill(to + count, to + width, 0.0f);
}

inline void Prepare(const float* x, int64_t count, int64_t width, uint16_t* to, float*, int32_t*) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(to + i, Load(x + i));
  if (i < count) StoreSome(to + i, LoadSome(x + i, count - i), count - i);
  std::fill(to + count, to + width, uint16_t(0));
}

// To the nearest integers, of which the largest number of each block is kMost.
template <typename T>
void Prepare(const float* x, int64_t count, int64_t width, T* to, float* scales, int32_t* offsets) {
  static_assert(std::is_integral<T>::value);
  const float kRound = 12582912.0f;  // 1.5 2^23: what is added to it loses its fraction
  for (int64_t at = 0; at < width; at += kBlock, to += kBlock) {
    float block[kBlock] = {};
    std::copy_n(x + at, std::max<int64_t>(0, std::min(kBlock, count - at)), block);
    Floats most = {}, none = {};
    for (int64_t i = 0; i < kBlock; i += kLanes) {
      const Floats numbers = Load(block + i);
      most = Larger(most, Larger(numbers, -numbers));
      none += numbers * 0.0f;  // not a number if one is infinite or not a number: the scale passes it on
    }
    const float largest = Largest(most) + Sum(none), factor = largest > 0 ? Int8::kMost / largest : 0;
    Ints sums = {};
    for (int64_t i = 0; i < kBlock; i += kLanes) {
      const Ints numbers = Bits<Ints>(Load(block + i) * factor + kRound) - Bits<int32_t>(kRound);
      const auto narrow = __builtin_convertvector(numbers, typename Vector<T>::type);
      std::memcpy(to + i, &narrow, sizeof narrow);
      sums += numbers;
    }
    int32_t sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += sums[i];
    scales[at / kBlock] = largest / Int8::kMost;
    offsets[at / kBlock] = -Int8::kZero * sum;
  }
}

// y = x [rows, inputs], or its GELU, times a packed matrix, and bias if it is not null.
template <typename Kind>
void Multiply(xla::ffi::ThreadPool& pool, const float* x, int64_t inputs, bool is_gelu, Product<Kind> p) {
  constexpr int64_t kTask = 131072, kPrepared = 16;  // bytes of a matrix that a thread takes at a time, and rows
  using Left = typename Kind::Left;
  static thread_local std::vector<char> memory;  // the caller's, and kept: fresh pages cost more than the work
  const int64_t blocks = p.width / kBlock, rows = (p.rows + kPrepared - 1) / kPrepared * kPrepared, kLine = 64;
  const int64_t numbers = rows * p.width, of_scales = Kind::kScaled ? rows * blocks : 0;
  const bool in_tiles = kInTiles<Kind> && HasTiles();
  if (std::is_same<Left, float>::value && inputs == p.width && !is_gelu) {
    p.x = reinterpret_cast<const Left*>(x);
  } else {
    const int64_t size = numbers * int64_t(sizeof(Left)) + of_scales * 8 + kLine;
    if (int64_t(memory.size()) < size) memory.resize(size);
    Left* to = reinterpret_cast<Left*>((reinterpret_cast<uintptr_t>(memory.data()) + kLine - 1) / kLine * kLine);
    float* scales = reinterpret_cast<float*>(to + numbers);
    int32_t* offsets = reinterpret_cast<int32_t*>(scales + of_scales);
    p.x = to, p.x_scales = scales, p.x_offsets = offsets;
    Share(pool, rows / kPrepared, [=](int64_t task) {
      std::vector<Left> line(in_tiles ? p.width : 0);
      std::vector<float> activated(is_gelu ? inputs : 0);
      for (int64_t row = task * kPrepared; row < std::min(p.rows, (task + 1) * kPrepared); ++row) {
        Left* end = in_tiles ? line.data() : to + row * p.width;
        const float* from = x + row * inputs;
        if (is_gelu) {
          Gelu(from, activated.data(), inputs);
          from = activated.data();
        }
        Prepare(from, inputs, p.width, end, scales + row * blocks, offsets + row * blocks);
        if (in_tiles) PutIntoTiles(line.data(), p.width, row, to);
      }
    });
  }
  // As many tasks for each thread, so that none is left over, and of as many panels as a tile has.
  const int64_t panels = p.panels(), bytes = panels * kPanel * p.width * int64_t(sizeof(typename Kind::Stored));
  const int64_t threads = pool.num_threads(), share = in_tiles && p.rows > 2 * kPrepared ? 8 * kTask : kTask;
  const int64_t tasks = (bytes + threads * share - 1) / (threads * share) * threads;
  const int64_t step = in_tiles ? 4 : TilePanels<Kind>(int(std::min<int64_t>(p.rows, Kind::kTile)));
  const int64_t most = (panels + threads - 1) / threads, even = ((panels + tasks - 1) / tasks + step - 1) / step * step;
  const int64_t size = bytes <= kTask ? panels : std::min(most, even);
  Share(pool, (panels + size - 1) / size, [=](int64_t task) {
    const int64_t first = task * size, last = std::min(panels, first + size);
    if constexpr (kInTiles<Kind>) {
      if (in_tiles) {
        MultiplyTiles(p, first, last);
        return;
      }
    }
    MultiplyPanels(p, first, last);
  });
}

// A matrix to be packed: entry (input, output) is at from[input * input_step + output * output_step].
struct Entries {
  const float* from;
  int64_t inputs, outputs, input_step, output_step;

  float at(int64_t input, int64_t output) const {
    return input < inputs && output < outputs ? from[input * input_step + output * output_step] : 0;
  }
};

template <typename Kind>
int64_t PlaceInPanel(int64_t input, int64_t output) {
  return input / Kind::kDepth * Kind::kDepth * kPanel + output * Kind::kDepth + input % Kind::kDepth;
}

// A panel of the packed matrix. int8 is symmetric, by the largest of each block (Dettmers et al. 2022, section 2).
template <typename Kind>
void PackPanel(const Entries& entries, int64_t panel, int64_t width, typename Kind::Stored* to, float* scales) {
  for (int64_t at = 0; at < width; at += kBlock, to += kBlock * kPanel, scales += kPanel) {
    float block[kPanel][kBlock];
    for (int64_t input = 0; input < kBlock; ++input) {
      for (int64_t output = 0; output < kPanel; ++output) {
        block[output][input] = entries.at(at + input, panel * kPanel + output);
      }
    }
    for (int64_t output = 0; output < kPanel; ++output) {
      typename Kind::Stored packed[kBlock];
      if constexpr (Kind::kScaled) {
        float most = 0;
        for (float number : block[output]) most = std::max(most, std::abs(number));
        const float scale = most / 127;
        for (int i = 0; i < kBlock; ++i) {
          const int number = scale > 0 ? int(std::nearbyint(block[output][i] / scale)) : 0;
          packed[i] = typename Kind::Stored(number + Kind::kZero);
        }
        scales[output] = scale;
      } else {
        for (int i = 0; i < kBlock; i += kLanes) Store(packed + i, Load(block[output] + i));
      }
      for (int64_t i = 0; i < kBlock; ++i) to[PlaceInPanel<Kind>(i, output)] = packed[i];
    }
  }
}

// The weights of an output as floats, `count` of them.
template <typename Kind>
void Unpack(const typename Kind::Stored* matrix, const float* scales, int64_t width, int64_t output, int64_t count,
            float* to) {
  const int64_t panel = output / kPanel, blocks = width / kBlock;
  for (int64_t i = 0; i < count; ++i) {
    const auto stored = matrix[panel * kPanel * width + PlaceInPanel<Kind>(i, output % kPanel)];
    if constexpr (Kind::kScaled) {
      to[i] = float(int8_t(stored - Kind::kZero)) * scales[(panel * blocks + i / kBlock) * kPanel + output % kPanel];
    } else {
      to[i] = ToFloat(stored);
    }
  }
}

}  // namespace gpt2

#endif  // MODELS_GPT2_NATIVE_PACKED_H_
