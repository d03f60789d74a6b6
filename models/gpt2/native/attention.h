// Causal attention and its gradient, a head at a time, block of queries by block of queries (Dao et al. 2022): scores
// stay in the processor's cache, and what lies after a block is not computed.

#ifndef MODELS_GPT2_NATIVE_ATTENTION_H_
#define MODELS_GPT2_NATIVE_ATTENTION_H_

#include <limits>
#include <vector>

#include "kinds.h"

namespace gpt2 {

constexpr int kTileRows = 6;  // of a product that registers hold at a time,
constexpr int kTileVectors = kRegisters / 8;  // and its columns in vectors
constexpr int64_t kQueries = 8 * kTileRows;  // of a block

inline int64_t Padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// A matrix as it lies in memory: entry (i, j) is at start[i * row + j * column].
struct Matrix {
  const float* start;
  int64_t row, column;
};

template <int R, int V>
inline void Tile(Matrix a, const float* b, int64_t b_row, float* c, int64_t c_row, int64_t depth, bool add) {
  Floats sums[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) sums[r][v] = add ? Load(c + r * c_row + v * kLanes) : Floats{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    Floats right[V];
    for (int v = 0; v < V; ++v) right[v] = Load(b + k * b_row + v * kLanes);
    for (int r = 0; r < R; ++r) {
      const Floats left = Broadcast(a.start[r * a.row + k * a.column]);
      for (int v = 0; v < V; ++v) sums[r][v] = MultiplyAdd(left, right[v], sums[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) Store(c + r * c_row + v * kLanes, sums[r][v]);
  }
}

template <int V, int R = kTileRows>
inline void TileRows(int64_t rows, Matrix a, const float* b, int64_t b_row, float* c, int64_t c_row, int64_t depth,
                     bool add) {
  if constexpr (R > 0) {
    for (; rows >= R; rows -= R) {
      Tile<R, V>(a, b, b_row, c, c_row, depth, add);
      a.start += R * a.row;
      c += R * c_row;
    }
    TileRows<V, R - 1>(rows, a, b, b_row, c, c_row, depth, add);
  }
}

template <int V = kTileVectors>
inline void TileColumns(int64_t rows, int64_t columns, Matrix a, const float* b, int64_t b_row, float* c,
                        int64_t c_row, int64_t depth, bool add) {
  if constexpr (V > 0) {
    for (; columns >= V * kLanes; columns -= V * kLanes) {
      TileRows<V>(rows, a, b, b_row, c, c_row, depth, add);
      b += V * kLanes;
      c += V * kLanes;
    }
    TileColumns<V - 1>(rows, columns, a, b, b_row, c, c_row, depth, add);
  }
}

// c [rows, columns] = a b, or c + a b; columns is a multiple of kLanes.
inline void Multiply(int64_t rows, int64_t columns, int64_t depth, Matrix a, const float* b, int64_t b_row, float* c,
                     int64_t c_row, bool add = false) {
  TileColumns(rows, columns, a, b, b_row, c, c_row, depth, add);
}

struct Shape {
  int64_t rows, tokens, heads, width;  // of queries, keys and values: [rows, tokens, heads, width]

  int64_t token() const { return heads * width; }
  int64_t head(int64_t n) const { return (n / heads * tokens * heads + n % heads) * width; }
};

// Weights that are left out: those of the places whose hash is below a threshold, as models/gpt2/layers.py has it for
// an array [rows, heads, tokens, tokens].
struct Dropout {
  uint32_t row_seed, column_seed, threshold;
  float scale;  // of what is kept; 1 if all is

  template <typename T>
  static T Mixed(T x) {
    x = (x ^ x >> 16) * 0x7feb352d;
    x = (x ^ x >> 15) * 0x846ca68b;
    return x ^ x >> 16;
  }

  uint32_t Row(int64_t row) const { return Mixed(Mixed(uint32_t(row) ^ row_seed) ^ column_seed); }

  // `numbers`, those of a row from column `first` on, scaled, or 0.
  Floats Apply(Floats numbers, uint32_t row, Ints columns) const {
    const Words hashes = Mixed((Bits<Words>(columns) * 0x9e3779b9) ^ row);
    return hashes >= threshold ? numbers * scale : Floats{};
  }
};

// A head's [tokens, width] as floats, in rows of Padded(width), times a factor.
template <typename T>
void Read(const T* from, int64_t step, int64_t tokens, int64_t width, float factor, float* to) {
  for (int64_t t = 0; t < tokens; ++t, from += step, to += Padded(width)) {
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) Store(to + i, Load(from + i) * factor);
    if (i < width) Store(to + i, LoadSome(from + i, width - i) * factor);
  }
}

// The reverse, from rows `row` apart.
template <typename T>
void Write(const float* from, int64_t row, int64_t tokens, int64_t width, float factor, T* to, int64_t step) {
  for (int64_t t = 0; t < tokens; ++t, from += row, to += step) {
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) Store(to + i, Load(from + i) * factor);
    if (i < width) StoreSome(to + i, Load(from + i) * factor, width - i);
  }
}

// [tokens, width] in rows of Padded(width) as [width, tokens] in rows of Padded(tokens).
inline void Transpose(const float* from, int64_t tokens, int64_t width, float* to) {
  const int64_t row = Padded(width), out = Padded(tokens);
  for (int64_t t = 0; t < tokens; t += kLanes) {
    const int64_t count = std::min<int64_t>(kLanes, tokens - t);
    for (int64_t i = 0; i < width; ++i) {
      float lanes[kLanes] = {};
      for (int64_t j = 0; j < count; ++j) lanes[j] = from[(t + j) * row + i];
      std::memcpy(to + i * out + t, lanes, sizeof lanes);
    }
  }
}

// Memory that a thread keeps from head to head.
class Scratch {
 public:
  explicit Scratch(int64_t size) : next_(0) {
    if (int64_t(Memory().size()) < size) Memory().resize(size);
  }
  float* Take(int64_t size) {
    float* taken = Memory().data() + next_;
    next_ += size;
    return taken;
  }

 private:
  static std::vector<float>& Memory() {
    static thread_local std::vector<float> memory;
    return memory;
  }
  int64_t next_;
};

// The columns of the scores of a block of queries that are computed: from the first key of its first query's segment,
// in whole vectors.
struct Block {
  int64_t start, queries, low, columns;

  Block(int64_t start, int64_t tokens, const int32_t* first) : start(start) {
    queries = std::min(kQueries, tokens - start);
    low = first[start] / kLanes * kLanes;
    columns = Padded(start + queries) - low;
  }
};

// Turns a query's scores of `columns` keys, the first of which is number `low`, times a factor, into weights of the keys
// from `from` to `to` and zeros; returns the logarithm of the sum of exponentials.
template <typename T>
float Softmax(float* row, float factor, int64_t low, int64_t columns, int32_t from, int32_t to, const Dropout& drop,
              uint32_t hash, T* weights) {
  const Floats none = Floats{} - std::numeric_limits<float>::infinity();
  Floats most = none;
  for (int64_t j = 0; j < columns; j += kLanes) {
    const Ints numbers = From(low + j);
    const Floats seen = numbers >= from & numbers <= to ? Load(row + j) * factor : none;
    Store(row + j, seen);
    most = Larger(most, seen);
  }
  const float largest = Largest(most);
  Floats total = {};
  for (int64_t j = 0; j < columns; j += kLanes) {
    const Floats seen = Load(row + j);
    const Floats weight = seen > none ? Exp(seen - largest) : Floats{};
    total += weight;
    Store(row + j, drop.threshold ? drop.Apply(weight, hash, From(low + j)) : weight);
  }
  const float sum = Sum(total);
  for (int64_t j = 0; j < columns; j += kLanes) Store(weights + j, Load(row + j) * (1 / sum));
  return largest + std::log(sum);
}

template <typename T>
void Attend(const Shape& s, int64_t n, const T* q, const T* k, const T* v, const int32_t* first, const Dropout& drop,
            T* out, float* log_sums) {
  const int64_t wide = Padded(s.width), at = s.head(n);
  Scratch scratch(s.tokens * wide * 2 + Padded(s.tokens) * (s.width + kQueries) + kQueries * wide * 2);
  float* keys = scratch.Take(s.tokens * wide);
  float* values = scratch.Take(s.tokens * wide);
  float* keys_t = scratch.Take(Padded(s.tokens) * s.width);
  float* scores = scratch.Take(Padded(s.tokens) * kQueries);
  float* queries = scratch.Take(kQueries * wide);
  float* result = scratch.Take(kQueries * wide);
  Read(k + at, s.token(), s.tokens, s.width, 1, keys);
  Read(v + at, s.token(), s.tokens, s.width, 1, values);
  Transpose(keys, s.tokens, s.width, keys_t);
  for (int64_t start = 0; start < s.tokens; start += kQueries) {
    const Block b(start, s.tokens, first);
    Read(q + at + start * s.token(), s.token(), b.queries, s.width, 1 / std::sqrt(float(s.width)), queries);
    Multiply(b.queries, b.columns, s.width, {queries, wide, 1}, keys_t + b.low, Padded(s.tokens), scores, b.columns);
    for (int64_t i = 0; i < b.queries; ++i) {
      const int32_t to = int32_t(start + i);
      float* row = scores + i * b.columns;
      log_sums[n * s.tokens + to] =
          Softmax(row, 1, b.low, b.columns, first[start + i], to, drop, drop.Row(n * s.tokens + to), row);
    }
    const int64_t depth = std::min(b.columns, s.tokens - b.low);
    Multiply(b.queries, wide, depth, {scores, b.columns, 1}, values + b.low * wide, wide, result, wide);
    Write(result, wide, b.queries, s.width, 1, out + at + start * s.token(), s.token());
  }
}

// The same of `count` queries and results, `step` apart, at the positions from `past` on, to the keys and values
// [past + count, width] of a cache. A query's result has the bits that Attend gives it.
template <typename T>
void AttendRun(const T* q, int64_t step, int64_t count, int64_t past, const T* k, const T* v, int64_t width, T* out) {
  const int64_t wide = Padded(width), filled = past + count, long_row = Padded(filled);
  Scratch scratch(2 * filled * wide + long_row * (width + kQueries) + kQueries * wide * 2);
  float* keys = scratch.Take(filled * wide);
  float* values = scratch.Take(filled * wide);
  float* keys_t = scratch.Take(long_row * width);
  float* scores = scratch.Take(long_row * kQueries);
  float* queries = scratch.Take(kQueries * wide);
  float* result = scratch.Take(kQueries * wide);
  Read(k, width, filled, width, 1, keys);
  Read(v, width, filled, width, 1, values);
  Transpose(keys, filled, width, keys_t);
  for (int64_t start = 0; start < count; start += kQueries) {
    const int64_t block = std::min(kQueries, count - start), seen = past + start + block, columns = Padded(seen);
    Read(q + start * step, step, block, width, 1 / std::sqrt(float(width)), queries);
    Multiply(block, columns, width, {queries, wide, 1}, keys_t, long_row, scores, columns);
    for (int64_t i = 0; i < block; ++i) {
      float* row = scores + i * columns;
      Softmax(row, 1, 0, columns, 0, int32_t(past + start + i), Dropout{0, 0, 0, 1}, 0, row);
    }
    Multiply(block, wide, seen, {scores, columns, 1}, values, wide, result, wide);
    Write(result, wide, block, width, 1, out + start * step, step);
  }
}

// The values [filled, width] in `count` vectors of the width, each value times its weight.
template <int count, typename T>
inline void AddValues(const float* weights, int64_t filled, const T* v, int64_t width, T* out) {
  Floats sums[count] = {};
  for (int64_t s = 0; s < filled; ++s) {
    const Floats weight = Broadcast(weights[s]);
    Each<count>([&](auto i) { sums[i] = MultiplyAdd(weight, Load(v + s * width + i * kLanes), sums[i]); });
  }
  Each<count>([&](auto i) { Store(out + i * kLanes, sums[i]); });
}

// One head of one query: out [width] = softmax(q k / sqrt(width)) v over the first `filled` rows of k and v.
template <typename T>
void AttendOne(const T* q, const T* k, const T* v, T* out, int64_t width, int64_t filled) {
  const int64_t columns = Padded(filled), whole = width / kLanes * kLanes, rest = width - whole;
  Scratch scratch(columns);
  float* weights = scratch.Take(columns);
  for (int64_t s = 0; s < filled; ++s) {
    const T *key = k + s * width, *value = v + s * width;
    Floats sums = {};
    for (int64_t i = 0; i < whole; i += kLanes) {
      __builtin_prefetch(value + i);  // the values come next
      sums = MultiplyAdd(Load(q + i), Load(key + i), sums);
    }
    if (rest) sums = MultiplyAdd(LoadSome(q + whole, rest), LoadSome(key + whole, rest), sums);
    weights[s] = Sum(sums);
  }
  std::fill(weights + filled, weights + columns, 0.0f);
  Softmax(weights, 1 / std::sqrt(float(width)), 0, columns, 0, int32_t(filled - 1), Dropout{0, 0, 0, 1}, 0, weights);
  int64_t at = 0;
  for (; at + 4 * kLanes <= width; at += 4 * kLanes) AddValues<4>(weights, filled, v + at, width, out + at);
  for (; at < whole; at += kLanes) AddValues<1>(weights, filled, v + at, width, out + at);
  if (rest) {
    Floats sums = {};
    for (int64_t s = 0; s < filled; ++s) {
      sums = MultiplyAdd(Broadcast(weights[s]), LoadSome(v + s * width + whole, rest), sums);
    }
    StoreSome(out + whole, sums, rest);
  }
}

// From a query's scores, times a factor, and the gradient dp of its weights: the weights that were applied, and the
// gradient of the scores before the factor. delta = sum(do o) in the formulas below.
template <typename T>
void SoftmaxBackward(const float* scores, const float* dp_row, float factor, int64_t low, int64_t columns, int32_t from,
                     int32_t to, const Dropout& drop, uint32_t hash, float log_sum, float delta, T* weights,
                     T* d_scores) {
  for (int64_t j = 0; j < columns; j += kLanes) {
    const Ints numbers = From(low + j);
    const Floats p = numbers >= from & numbers <= to ? Exp(Load(scores + j) * factor - log_sum) : Floats{};
    Floats dp = Load(dp_row + j), applied = p;
    if (drop.threshold) {
      dp = drop.Apply(dp, hash, numbers);
      applied = drop.Apply(p, hash, numbers);
    }
    Store(weights + j, applied);
    Store(d_scores + j, p * (dp - delta) * factor);
  }
}

// With weights p = softmax(s) and result o = p v: dp = do v^T, ds = p (dp - sum(do o)), dq = ds k, dk = ds^T q,
// dv = p^T do (appendix B.2 there); dropout multiplies p in o and dv, and dp, by the same numbers.
template <typename T>
void AttendBackward(const Shape& s, int64_t n, const T* q, const T* k, const T* v, const int32_t* first,
                    const Dropout& drop, const T* out, const float* log_sums, const T* d_out, T* dq, T* dk, T* dv) {
  const int64_t wide = Padded(s.width), at = s.head(n), size = s.tokens * wide, long_row = Padded(s.tokens);
  const float scale = 1 / std::sqrt(float(s.width));
  Scratch scratch(5 * size + 2 * long_row * s.width + 2 * kQueries * long_row + 4 * kQueries * wide);
  float* keys = scratch.Take(size);
  float* values = scratch.Take(size);
  float* d_keys = scratch.Take(size);
  float* d_values = scratch.Take(size);
  float* keys_t = scratch.Take(long_row * s.width);
  float* values_t = scratch.Take(long_row * s.width);
  float* weights = scratch.Take(kQueries * long_row);
  float* d_scores = scratch.Take(kQueries * long_row);
  float* queries = scratch.Take(kQueries * wide);
  float* results = scratch.Take(kQueries * wide);
  float* d_results = scratch.Take(kQueries * wide);
  float* d_queries = scratch.Take(kQueries * wide);
  Read(k + at, s.token(), s.tokens, s.width, 1, keys);
  Read(v + at, s.token(), s.tokens, s.width, 1, values);
  Transpose(keys, s.tokens, s.width, keys_t);
  Transpose(values, s.tokens, s.width, values_t);
  std::fill(d_keys, d_keys + size, 0.0f);
  std::fill(d_values, d_values + size, 0.0f);
  for (int64_t start = 0; start < s.tokens; start += kQueries) {
    const Block b(start, s.tokens, first);
    const int64_t from_query = at + start * s.token(), depth = std::min(b.columns, s.tokens - b.low);
    Read(q + from_query, s.token(), b.queries, s.width, scale, queries);
    Read(out + from_query, s.token(), b.queries, s.width, 1, results);
    Read(d_out + from_query, s.token(), b.queries, s.width, 1, d_results);
    Multiply(b.queries, b.columns, s.width, {queries, wide, 1}, keys_t + b.low, long_row, weights, b.columns);
    Multiply(b.queries, b.columns, s.width, {d_results, wide, 1}, values_t + b.low, long_row, d_scores, b.columns);
    for (int64_t i = 0; i < b.queries; ++i) {
      Floats along = {};
      for (int64_t j = 0; j < wide; j += kLanes) along += Load(results + i * wide + j) * Load(d_results + i * wide + j);
      const int32_t to = int32_t(start + i);
      float *weight_row = weights + i * b.columns, *d_row = d_scores + i * b.columns;
      SoftmaxBackward(weight_row, d_row, 1, b.low, b.columns, first[start + i], to, drop, drop.Row(n * s.tokens + to),
                      log_sums[n * s.tokens + to], Sum(along), weight_row, d_row);
    }
    Multiply(b.queries, wide, depth, {d_scores, b.columns, 1}, keys + b.low * wide, wide, d_queries, wide);
    Write(d_queries, wide, b.queries, s.width, scale, dq + from_query, s.token());
    Multiply(depth, wide, b.queries, {d_scores, 1, b.columns}, queries, wide, d_keys + b.low * wide, wide, true);
    Multiply(depth, wide, b.queries, {weights, 1, b.columns}, d_results, wide, d_values + b.low * wide, wide, true);
  }
  Write(d_keys, wide, s.tokens, s.width, 1, dk + at, s.token());
  Write(d_values, wide, s.tokens, s.width, 1, dv + at, s.token());
}

}  // namespace gpt2

#endif  // MODELS_GPT2_NATIVE_ATTENTION_H_
