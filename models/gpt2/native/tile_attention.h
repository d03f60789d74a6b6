// Attention and its gradient in bfloat16 with the products of tile_products.h. Sums are float32; weights and gradients of scores
// are rounded to bfloat16 where they are multiplied, as in FlashAttention (Dao et al. 2022).

#ifndef MODELS_GPT2_NATIVE_TILE_ATTENTION_H_
#define MODELS_GPT2_NATIVE_TILE_ATTENTION_H_

#include "attention.h"
#include "tile_products.h"

namespace gpt2 {

#if defined(GPT2_PAIRS)

constexpr int64_t kQueriesInTiles = 2 * kPair;  // of a block

// Arrays of a thread, whose rows are whole cache lines.
class Arrays {
 public:
  explicit Arrays(int64_t lines) : next_(Room(Memory(), lines)) {}

  template <typename T>
  T* Take(int64_t numbers) {
    T* taken = reinterpret_cast<T*>(next_);
    next_ += RoundedUp<int64_t>(numbers * sizeof(T), sizeof(Words)) / int64_t(sizeof(Words));
    return taken;
  }
  Words* Tiles(int64_t indices, int64_t inputs) { return reinterpret_cast<Words*>(Take<uint16_t>(indices * inputs)); }

 private:
  static std::vector<uint8_t>& Memory() {
    static thread_local std::vector<uint8_t> memory;
    return memory;
  }
  Words* next_;
};

// A head, its dims in whole pairs of tiles, and its arrays as factors: a row for each token, or for each place of the
// width.
struct Head {
  const Shape& shape;
  int64_t at, wide, tokens;

  Head(const Shape& shape, int64_t n)
      : shape(shape), at(shape.head(n)), wide(RoundedUp(shape.width, kPair)), tokens(RoundedUp(shape.tokens, kPair)) {}

  Factor ByToken(const uint16_t* x) const { return {x + at, shape.tokens, shape.width, shape.token(), true}; }
  Factor ByWidth(const uint16_t* x, int64_t first, int64_t count) const {
    return {x + at + first * shape.token(), shape.width, count, shape.token(), false};
  }
};

// A block of queries, and the columns of their scores that are computed, as in `Block`.
struct TileBlock {
  int64_t start, queries, pairs, low, columns;

  TileBlock(int64_t start, int64_t tokens, const int32_t* first)
      : start(start), queries(std::min(kQueriesInTiles, tokens - start)), pairs((queries + kPair - 1) / kPair),
        low(first ? first[start] / kPair * kPair : 0), columns(RoundedUp(start + queries, kPair) - low) {}
};

// y [rows, columns], 32 by 32 at a time, = left times right, of `inputs`. left(i) and right(i) are their pairs.
template <typename Left, typename Right>
void MultiplyPairs(int64_t rows, Left left, int64_t columns, Right right, int64_t inputs, float* y, bool begins = true) {
  for (int64_t r = 0; r < rows; r += kPair) {
    for (int64_t c = 0; c < columns; c += kPair) {
      AddPairs(left(r / kPair), right(c / kPair), inputs / kInputsOfTile, begins, y + r * columns + c, columns);
    }
  }
}

// The pairs of a factor that was packed with so many inputs, from input `first` on.
inline auto PairsOf(const Words* tiles, int64_t inputs, int64_t first = 0) {
  return [=](int64_t i) { return Packed(tiles + i * inputs + first / 2, inputs); };
}

inline auto PairsOfRows(const uint16_t* from, int64_t columns) {
  return [=](int64_t i) { return RowsOf(from + i * kPair * columns, columns); };
}

// q and k have a row for each token, v one for each place of the width; the queries are those of the last tokens. `first`
// and log_sums may be null: all keys up to a query's own are seen, and no sums wanted.
// row: of the first key's token in the array of weights.
inline void AttendInTiles(const Factor& q, const Factor& k, const Factor& v, const int32_t* first, const Dropout& drop,
                          int64_t row, uint16_t* out, int64_t step, float* log_sums) {
  const int64_t width = q.inputs, past = k.indices - q.indices, filled = k.indices;
  const int64_t wide = RoundedUp(width, kPair), tokens = RoundedUp(filled, kPair);
  const float factor = 1 / std::sqrt(float(width));
  Arrays arrays((tokens + kQueriesInTiles) * (2 * wide + 2 * kQueriesInTiles) / 16);
  Words* keys = arrays.Tiles(tokens, wide);
  Words* values = arrays.Tiles(wide, tokens);
  Words* queries = arrays.Tiles(kQueriesInTiles, wide);
  float* scores = arrays.Take<float>(kQueriesInTiles * tokens);
  uint16_t* weights = arrays.Take<uint16_t>(kQueriesInTiles * tokens);
  float* result = arrays.Take<float>(kQueriesInTiles * wide);
  PackPairs<false>(k, 0, tokens / kPair, 0, wide, keys);
  PackPairs<false>(v, 0, wide / kPair, 0, tokens, values);
  const PairRegisters registers;
  for (int64_t start = past; start < filled; start += kQueriesInTiles) {
    const TileBlock b(start, filled, first);
    const int64_t rows = b.pairs * kPair;
    PackPairs<true>(q, start - past, b.pairs, 0, wide, queries);
    MultiplyPairs(rows, PairsOf(queries, wide), b.columns, PairsOf(keys + b.low / kPair * wide, wide), wide, scores);
    for (int64_t i = 0; i < b.queries; ++i) {
      const int32_t to = int32_t(start + i);
      const float log_sum = Softmax(scores + i * b.columns, factor, b.low, b.columns, first ? first[to] : 0, to, drop,
                                    drop.Row(row + to), weights + i * b.columns);
      if (log_sums) log_sums[to] = log_sum;
    }
    std::fill(weights + b.queries * b.columns, weights + rows * b.columns, 0);
    MultiplyPairs(rows, PairsOfRows(weights, b.columns), wide, PairsOf(values, tokens, b.low), b.columns, result);
    Write(result, wide, b.queries, width, 1, out + (start - past) * step, step);
  }
}

inline void AttendInTiles(const Shape& s, int64_t n, const uint16_t* q, const uint16_t* k, const uint16_t* v,
                          const int32_t* first, const Dropout& drop, uint16_t* out, float* log_sums) {
  const Head head(s, n);
  AttendInTiles(head.ByToken(q), head.ByToken(k), head.ByWidth(v, 0, s.tokens), first, drop, n * s.tokens,
                out + head.at, s.token(), log_sums + n * s.tokens);
}

// As AttendRun, with the bits of AttendInTiles.
inline void AttendRunInTiles(const uint16_t* q, int64_t step, int64_t count, int64_t past, const uint16_t* k,
                             const uint16_t* v, int64_t width, uint16_t* out) {
  const int64_t filled = past + count;
  AttendInTiles({q, count, width, step, true}, {k, filled, width, width, true}, {v, width, filled, width, false}, nullptr,
                Dropout{0, 0, 0, 1}, 0, out, step, nullptr);
}

inline void AttendBackwardInTiles(const Shape& s, int64_t n, const uint16_t* q, const uint16_t* k, const uint16_t* v,
                                  const int32_t* first, const Dropout& drop, const uint16_t* out, const float* log_sums,
                                  const uint16_t* d_out, uint16_t* dq, uint16_t* dk, uint16_t* dv) {
  const Head head(s, n);
  const int64_t wide = head.wide, tokens = head.tokens;
  const float factor = 1 / std::sqrt(float(s.width));
  Arrays arrays((tokens + kQueriesInTiles) * (4 * wide + 5 * kQueriesInTiles) / 16);
  Words* keys = arrays.Tiles(tokens, wide);
  Words* values = arrays.Tiles(tokens, wide);
  Words* keys_by_width = arrays.Tiles(wide, tokens);
  float* d_keys = arrays.Take<float>(tokens * wide);
  float* d_values = arrays.Take<float>(tokens * wide);
  Words* queries = arrays.Tiles(kQueriesInTiles, wide);
  Words* queries_by_width = arrays.Tiles(wide, kQueriesInTiles);
  Words* d_results = arrays.Tiles(kQueriesInTiles, wide);
  Words* d_results_by_width = arrays.Tiles(wide, kQueriesInTiles);
  float* scores = arrays.Take<float>(kQueriesInTiles * tokens);
  float* d_weights = arrays.Take<float>(kQueriesInTiles * tokens);
  uint16_t* weights = arrays.Take<uint16_t>(kQueriesInTiles * tokens);
  uint16_t* d_scores = arrays.Take<uint16_t>(kQueriesInTiles * tokens);
  Words* by_key = arrays.Tiles(tokens, kQueriesInTiles);
  float* d_queries = arrays.Take<float>(kQueriesInTiles * wide);
  PackPairs<false>(head.ByToken(k), 0, tokens / kPair, 0, wide, keys);
  PackPairs<false>(head.ByToken(v), 0, tokens / kPair, 0, wide, values);
  PackPairs<false>(head.ByWidth(k, 0, s.tokens), 0, wide / kPair, 0, tokens, keys_by_width);
  std::fill(d_keys, d_keys + tokens * wide, 0.0f);
  std::fill(d_values, d_values + tokens * wide, 0.0f);
  const PairRegisters registers;
  for (int64_t start = 0; start < s.tokens; start += kQueriesInTiles) {
    const TileBlock b(start, s.tokens, first);
    const int64_t rows = b.pairs * kPair, from_query = head.at + start * s.token(), of_low = b.low / kPair * wide;
    PackPairs<true>(head.ByToken(q), start, b.pairs, 0, wide, queries);
    PackPairs<true>(head.ByToken(d_out), start, b.pairs, 0, wide, d_results);
    PackPairs<false>(head.ByWidth(q, start, b.queries), 0, wide / kPair, 0, rows, queries_by_width);
    PackPairs<false>(head.ByWidth(d_out, start, b.queries), 0, wide / kPair, 0, rows, d_results_by_width);
    MultiplyPairs(rows, PairsOf(queries, wide), b.columns, PairsOf(keys + of_low, wide), wide, scores);
    MultiplyPairs(rows, PairsOf(d_results, wide), b.columns, PairsOf(values + of_low, wide), wide, d_weights);
    for (int64_t i = 0; i < b.queries; ++i) {
      const uint16_t *result = out + from_query + i * s.token(), *d_result = d_out + from_query + i * s.token();
      Floats along = {};
      for (int64_t j = 0; j < s.width; j += kLanes) {
        const int64_t count = std::min<int64_t>(kLanes, s.width - j);
        along += LoadSome(result + j, count) * LoadSome(d_result + j, count);
      }
      const int32_t to = int32_t(start + i);
      SoftmaxBackward(scores + i * b.columns, d_weights + i * b.columns, factor, b.low, b.columns, first[start + i], to,
                      drop, drop.Row(n * s.tokens + to), log_sums[n * s.tokens + to], Sum(along),
                      weights + i * b.columns, d_scores + i * b.columns);
    }
    std::fill(weights + b.queries * b.columns, weights + rows * b.columns, 0);
    std::fill(d_scores + b.queries * b.columns, d_scores + rows * b.columns, 0);
    MultiplyPairs(rows, PairsOfRows(d_scores, b.columns), wide, PairsOf(keys_by_width, tokens, b.low), b.columns,
                  d_queries);
    Write(d_queries, wide, b.queries, s.width, 1, dq + from_query, s.token());
    const auto add = [&](const uint16_t* by_query, const Words* right, float* sums) {
      PackPairs<true>({by_query, b.columns, rows, b.columns, false}, 0, b.columns / kPair, 0, rows, by_key);
      MultiplyPairs(b.columns, PairsOf(by_key, rows), wide, PairsOf(right, rows), rows, sums + b.low * wide, false);
    };
    add(d_scores, queries_by_width, d_keys);
    add(weights, d_results_by_width, d_values);
  }
  Write(d_keys, wide, s.tokens, s.width, 1, dk + head.at, s.token());
  Write(d_values, wide, s.tokens, s.width, 1, dv + head.at, s.token());
}

#else

inline void AttendInTiles(const Shape&, int64_t, const uint16_t*, const uint16_t*, const uint16_t*, const int32_t*,
                          const Dropout&, uint16_t*, float*) {}

inline void AttendRunInTiles(const uint16_t*, int64_t, int64_t, int64_t, const uint16_t*, const uint16_t*, int64_t,
                             uint16_t*) {}

inline void AttendBackwardInTiles(const Shape&, int64_t, const uint16_t*, const uint16_t*, const uint16_t*,
                                  const int32_t*, const Dropout&, const uint16_t*, const float*, const uint16_t*,
                                  uint16_t*, uint16_t*, uint16_t*) {}

#endif

}  // namespace gpt2

#endif  // MODELS_GPT2_NATIVE_TILE_ATTENTION_H_
