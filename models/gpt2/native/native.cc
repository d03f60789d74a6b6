// The kernels as XLA calls them on CPUs. Arguments and results are described where they are called from.

#include "attention.h"
#include "packed.h"
#include "pointwise.h"
#include "tile_attention.h"
#include "tile_products.h"
#include "vectors.h"

namespace {

namespace ffi = xla::ffi;
using namespace gpt2;

using F32 = ffi::Buffer<ffi::F32>;
using S32 = ffi::Buffer<ffi::S32>;
using BF16 = ffi::Buffer<ffi::BF16>;
using Any = ffi::AnyBuffer;

int64_t Parts(int64_t count, int64_t size) { return (count + size - 1) / size; }

template <typename T>
const T* As(const Any& buffer) {
  return static_cast<const T*>(buffer.untyped_data());
}

template <typename T>
T* To(ffi::Result<Any>& result) {
  return static_cast<T*>(result->untyped_data());
}

// The kind of a packed matrix, by the type of its numbers.
template <typename Task>
ffi::Error ByKind(ffi::DataType type, Task task) {
  switch (type) {
    case ffi::F32:
      task(Float32());
      return ffi::Error::Success();
    case ffi::U16:
      task(Bfloat16());
      return ffi::Error::Success();
    case ffi::S8:
      task(Int8());
      return ffi::Error::Success();
    default:
      return ffi::Error::InvalidArgument("type of a matrix");
  }
}

template <typename Task>
ffi::Error ByType(ffi::DataType type, Task task) {
  switch (type) {
    case ffi::F32:
      task(float());
      return ffi::Error::Success();
    case ffi::BF16:
      task(uint16_t());
      return ffi::Error::Success();
    default:
      return ffi::Error::InvalidArgument("type of an array");
  }
}

// numbers [panels * kPanel, width] and scales = matrix [inputs, outputs], or [outputs, inputs] if is_table, packed.
ffi::Error Pack(ffi::ThreadPool pool, F32 matrix, ffi::Result<Any> numbers, ffi::ResultBuffer<ffi::F32> scales,
                bool is_table) {
  const int64_t rows = matrix.dimensions()[0], columns = matrix.dimensions()[1], width = numbers->dimensions()[1];
  const Entries entries = is_table ? Entries{matrix.typed_data(), columns, rows, 1, columns}
                                   : Entries{matrix.typed_data(), rows, columns, columns, 1};
  float* scale = scales->typed_data();
  return ByKind(numbers->element_type(), [&](auto kind) {
    using Kind = decltype(kind);
    auto* to = static_cast<typename Kind::Stored*>(numbers->untyped_data());
    Share(pool, numbers->dimensions()[0] / kPanel, [=](int64_t panel) {
      PackPanel<Kind>(entries, panel, width, to + panel * kPanel * width, scale + panel * width / kBlock * kPanel);
    });
  });
}

// weights [count, inputs] of some outputs of a packed matrix; none of an output that it does not have.
ffi::Error Unpacked(ffi::ThreadPool pool, Any matrix, F32 scales, S32 outputs, ffi::ResultBuffer<ffi::F32> weights) {
  const int64_t rows = matrix.dimensions()[0], width = matrix.dimensions()[1], inputs = weights->dimensions()[1];
  const int32_t* output = outputs.typed_data();
  const float* scale = scales.typed_data();
  float* to = weights->typed_data();
  return ByKind(matrix.element_type(), [&](auto kind) {
    using Kind = decltype(kind);
    const auto* from = static_cast<const typename Kind::Stored*>(matrix.untyped_data());
    Share(pool, Parts(outputs.element_count(), kRowsOfTask), [=, count = int64_t(outputs.element_count())](int64_t task) {
      for (int64_t i = task * kRowsOfTask; i < std::min(count, (task + 1) * kRowsOfTask); ++i) {
        const int64_t row = std::min<int64_t>(std::max<int64_t>(output[i], 0), rows - 1);
        Unpack<Kind>(from, scale, width, row, inputs, to + i * inputs);
      }
    });
  });
}

// y [rows, outputs] = x [rows, inputs], or its GELU, times a packed matrix + bias [outputs], which may be empty.
ffi::Error PackedProduct(ffi::ThreadPool pool, F32 x, Any matrix, F32 scales, F32 bias, ffi::ResultBuffer<ffi::F32> y,
                         bool is_gelu) {
  const int64_t rows = x.dimensions()[0], inputs = x.dimensions()[1], outputs = y->dimensions()[1];
  const int64_t width = matrix.dimensions()[1];
  if (width % kBlock || width < inputs || matrix.dimensions()[0] < outputs) {
    return ffi::Error::InvalidArgument("dimensions of a matrix");
  }
  const float* biases = bias.element_count() ? bias.typed_data() : nullptr;
  return ByKind(matrix.element_type(), [&](auto kind) {
    using Kind = decltype(kind);
    const auto* numbers = static_cast<const typename Kind::Stored*>(matrix.untyped_data());
    Multiply<Kind>(pool, x.typed_data(), inputs, is_gelu,
                   {nullptr, nullptr, nullptr, numbers, scales.typed_data(), biases, y->typed_data(), rows, width, outputs});
  });
}

// y [rows, outputs] = a [rows, inputs] times b [inputs, outputs] + bias [outputs]; a is transposed if by_input, b if
// by_output. totals [outputs] = sums over the rows of b, if not by_output. Both bias and totals may be empty.
ffi::Error ArrayProduct(ffi::ThreadPool pool, BF16 a, BF16 b, F32 bias, ffi::Result<Any> y, ffi::ResultBuffer<ffi::F32> totals, bool by_input, bool by_output) {
  const auto factor = [](const BF16& array, bool is_transposed) {
    const int64_t rows = array.dimensions()[0], columns = array.dimensions()[1];
    const auto* from = static_cast<const uint16_t*>(array.untyped_data());
    return is_transposed ? Factor{from, columns, rows, columns, false} : Factor{from, rows, columns, columns, true};
  };
  const Factor left = factor(a, by_input), right = factor(b, !by_output);
  float* sums = totals->element_count() ? totals->typed_data() : nullptr;
  if (left.inputs != right.inputs || (sums && by_output) || !kHasPairs) return ffi::Error::InvalidArgument("factors of a product");
  return ByType(y->element_type(), [&](auto number) {
    using T = decltype(number);
    const float* biases = bias.element_count() ? bias.typed_data() : nullptr;
    MultiplyArrays(pool, left, right, biases, To<T>(y), sums);
  });
}

// Tokens of many sequences, each with a slot of the caches [slots, heads, length, width]: their keys and values [tokens,
// heads, width] are put at their positions, then out = attention of their queries to their own slot up to their position.
// is_prompt: tokens in turn with one slot and rising positions are computed as a run, with the bits of whole prompts.
// Tokens of slot -1 are padding.
ffi::Error CachedAttention(ffi::ThreadPool pool, Any q, Any k, Any v, Any, Any, S32 slots, S32 positions,
                           ffi::Result<Any> out, ffi::Result<Any> k_cache, ffi::Result<Any> v_cache, bool is_prompt,
                           bool in_tiles) {
  const int64_t tokens = q.dimensions()[0], heads = q.dimensions()[1], width = q.dimensions()[2];
  const int64_t n_slots = k_cache->dimensions()[0], length = k_cache->dimensions()[2], step = heads * width;
  const int32_t *slot = slots.typed_data(), *position = positions.typed_data();
  std::vector<int64_t> starts;
  for (int64_t t = 0; t < tokens; ++t) {
    if (slot[t] >= n_slots || (slot[t] >= 0 && (position[t] < 0 || position[t] >= length))) {
      return ffi::Error::InvalidArgument("slot or position of a token");
    }
    const bool follows = t && is_prompt && slot[t] == slot[t - 1] && position[t] == position[t - 1] + 1;
    if (!follows) starts.push_back(t);
  }
  const int64_t runs = starts.size();
  starts.push_back(tokens);
  return ByType(q.element_type(), [&](auto number) {
    using T = decltype(number);
    const T *qs = As<T>(q), *ks = As<T>(k), *vs = As<T>(v);
    T *outs = To<T>(out), *k_to = To<T>(k_cache), *v_to = To<T>(v_cache);
    Share(pool, runs * heads, [=, &starts](int64_t task) {
      const int64_t first = starts[task / heads], count = starts[task / heads + 1] - first, head = task % heads;
      const int64_t from = first * step + head * width;
      if (slot[first] < 0) {
        for (int64_t t = 0; t < count; ++t) std::fill_n(outs + from + t * step, width, T());
        return;
      }
      const int64_t past = position[first], to = (slot[first] * heads + head) * length * width;
      for (int64_t t = 0; t < count; ++t) {
        std::copy_n(ks + from + t * step, width, k_to + to + (past + t) * width);
        std::copy_n(vs + from + t * step, width, v_to + to + (past + t) * width);
      }
      if (!is_prompt) return AttendOne(qs + from, k_to + to, v_to + to, outs + from, width, past + 1);
      if constexpr (std::is_same<T, uint16_t>::value) {
        if (in_tiles && kHasPairs) {
          return AttendRunInTiles(qs + from, step, count, past, k_to + to, v_to + to, width, outs + from);
        }
      }
      AttendRun(qs + from, step, count, past, k_to + to, v_to + to, width, outs + from);
    });
  });
}

Shape ShapeOf(const Any& q) { return {q.dimensions()[0], q.dimensions()[1], q.dimensions()[2], q.dimensions()[3]}; }

Dropout DropoutOf(const ffi::Buffer<ffi::U32>& seeds, float rate) {
  const double threshold = std::min(std::nearbyint(double(rate) * 4294967296.0), 4294967295.0);
  return {seeds.typed_data()[0], seeds.typed_data()[1], uint32_t(threshold), 1 / (1 - rate)};
}

ffi::Error Attention(ffi::ThreadPool pool, Any q, Any k, Any v, S32 first, ffi::Buffer<ffi::U32> seeds,
                     ffi::Result<Any> out, ffi::ResultBuffer<ffi::F32> log_sums, float dropout, bool in_tiles) {
  const Shape shape = ShapeOf(q);
  const Dropout drop = DropoutOf(seeds, dropout);
  return ByType(q.element_type(), [&](auto number) {
    using T = decltype(number);
    const T *qs = As<T>(q), *ks = As<T>(k), *vs = As<T>(v);
    const int32_t* firsts = first.typed_data();
    T* outs = To<T>(out);
    float* sums = log_sums->typed_data();
    Share(pool, shape.rows * shape.heads, [=](int64_t n) {
      const int32_t* first = firsts + n / shape.heads * shape.tokens;
      if constexpr (std::is_same<T, uint16_t>::value) {
        if (in_tiles && kHasPairs) return AttendInTiles(shape, n, qs, ks, vs, first, drop, outs, sums);
      }
      Attend(shape, n, qs, ks, vs, first, drop, outs, sums);
    });
  });
}

ffi::Error AttentionBackward(ffi::ThreadPool pool, Any q, Any k, Any v, S32 first, ffi::Buffer<ffi::U32> seeds, Any out,
                             F32 log_sums, Any d_out, ffi::Result<Any> dq, ffi::Result<Any> dk, ffi::Result<Any> dv,
                             float dropout, bool in_tiles) {
  const Shape shape = ShapeOf(q);
  const Dropout drop = DropoutOf(seeds, dropout);
  return ByType(q.element_type(), [&](auto number) {
    using T = decltype(number);
    const T *qs = As<T>(q), *ks = As<T>(k), *vs = As<T>(v), *outs = As<T>(out), *d_outs = As<T>(d_out);
    const int32_t* firsts = first.typed_data();
    const float* sums = log_sums.typed_data();
    T *dqs = To<T>(dq), *dks = To<T>(dk), *dvs = To<T>(dv);
    Share(pool, shape.rows * shape.heads, [=](int64_t n) {
      const int32_t* first = firsts + n / shape.heads * shape.tokens;
      if constexpr (std::is_same<T, uint16_t>::value) {
        if (in_tiles && kHasPairs) {
          return AttendBackwardInTiles(shape, n, qs, ks, vs, first, drop, outs, sums, d_outs, dqs, dks, dvs);
        }
      }
      AttendBackward(shape, n, qs, ks, vs, first, drop, outs, sums, d_outs, dqs, dks, dvs);
    });
  });
}

// y = layer norm of x, both [rows, width].
ffi::Error Norm(ffi::ThreadPool pool, Any x, F32 gain, F32 bias, ffi::Result<Any> y) {
  const int64_t width = gain.dimensions()[0], rows = x.element_count() / width;
  return ByType(x.element_type(), [&](auto number) {
    using T = decltype(number);
    const T* xs = As<T>(x);
    const float *gains = gain.typed_data(), *biases = bias.typed_data();
    T* ys = To<T>(y);
    Share(pool, Parts(rows, kRowsOfTask), [=](int64_t task) {
      const int64_t end = std::min(rows, (task + 1) * kRowsOfTask);
      for (int64_t r = task * kRowsOfTask; r < end; ++r) {
        LayerNorm(xs + r * width, gains, biases, ys + r * width, width);
      }
    });
  });
}

// d_gain and d_bias: [width]. y is the layer norm again, or empty.
ffi::Error NormBackward(ffi::ThreadPool pool, Any x, F32 gain, F32 bias, Any dy, ffi::Result<Any> dx,
                        ffi::ResultBuffer<ffi::F32> d_gain, ffi::ResultBuffer<ffi::F32> d_bias, ffi::Result<Any> y) {
  const int64_t width = gain.dimensions()[0], rows = x.element_count() / width, tasks = Parts(rows, kRowsOfTask);
  std::vector<float> parts(2 * tasks * width);  // what each task adds to both: their order does not depend on threads
  float* of_tasks = parts.data();
  const ffi::Error error = ByType(x.element_type(), [&](auto number) {
    using T = decltype(number);
    const T *xs = As<T>(x), *dys = As<T>(dy);
    const float *gains = gain.typed_data(), *biases = bias.typed_data();
    T *dxs = To<T>(dx), *ys = y->element_count() ? To<T>(y) : nullptr;
    Share(pool, tasks, [=](int64_t task) {
      float *d_g = of_tasks + 2 * task * width, *d_b = d_g + width;
      const int64_t end = std::min(rows, (task + 1) * kRowsOfTask);
      for (int64_t r = task * kRowsOfTask; r < end; ++r) {
        LayerNormBackward(xs + r * width, gains, dys + r * width, dxs + r * width, d_g, d_b, width);
        if (ys) LayerNorm(xs + r * width, gains, biases, ys + r * width, width);
      }
    });
  });
  float *d_gains = d_gain->typed_data(), *d_biases = d_bias->typed_data();
  std::fill_n(d_gains, width, 0.0f);
  std::fill_n(d_biases, width, 0.0f);
  for (int64_t task = 0; task < tasks; ++task) {
    const float *d_g = of_tasks + 2 * task * width, *d_b = d_g + width;
    for (int64_t i = 0; i < width; ++i) d_gains[i] += d_g[i], d_biases[i] += d_b[i];
  }
  return error;
}

ffi::Error Activation(ffi::ThreadPool pool, Any x, ffi::Result<Any> y) {
  const int64_t count = x.element_count();
  return ByType(x.element_type(), [&](auto number) {
    using T = decltype(number);
    const T* xs = As<T>(x);
    T* ys = To<T>(y);
    Share(pool, Parts(count, kNumbersOfTask), [=](int64_t task) {
      const int64_t first = task * kNumbersOfTask;
      Gelu(xs + first, ys + first, std::min(kNumbersOfTask, count - first));
    });
  });
}

// y is the activation again, or empty.
ffi::Error ActivationBackward(ffi::ThreadPool pool, Any x, Any dy, ffi::Result<Any> dx, ffi::Result<Any> y) {
  const int64_t count = x.element_count();
  return ByType(x.element_type(), [&](auto number) {
    using T = decltype(number);
    const T *xs = As<T>(x), *dys = As<T>(dy);
    T *dxs = To<T>(dx), *ys = y->element_count() ? To<T>(y) : nullptr;
    Share(pool, Parts(count, kNumbersOfTask), [=](int64_t task) {
      const int64_t first = task * kNumbersOfTask;
      GeluBackward(xs + first, dys + first, dxs + first, ys ? ys + first : nullptr,
                   std::min(kNumbersOfTask, count - first));
    });
  });
}

// nll [rows] of scores [rows, width], of which the first n_vocab count, and their gradient, if it is not null.
template <typename T>
void LossOf(ffi::ThreadPool& pool, int64_t rows, int64_t width, int64_t n_vocab, const float* scores,
            const int32_t* targets, float* nll, T* gradient) {
  Share(pool, rows, [=](int64_t row) {
    const int32_t target = targets[row];
    const bool known = target >= 0 && target < width;  // what is not shows in the loss
    const float sum = LogSum(scores + row * width, n_vocab);
    nll[row] = known ? sum - scores[row * width + target] : std::nanf("");
    if (gradient) LossBackward(scores + row * width, target, sum, n_vocab, width, gradient + row * width);
  });
}

// gradient: with respect to the scores [rows, width], or empty.
ffi::Error Loss(ffi::ThreadPool pool, F32 scores, S32 targets, ffi::ResultBuffer<ffi::F32> nll, ffi::Result<Any> gradient,
                int32_t n_vocab) {
  const int64_t rows = targets.element_count(), width = scores.element_count() / rows;
  return ByType(gradient->element_type(), [&](auto number) {
    using T = decltype(number);
    LossOf(pool, rows, width, n_vocab, scores.typed_data(), targets.typed_data(), nll->typed_data(),
           gradient->element_count() ? To<T>(gradient) : nullptr);
  });
}

// The same of scores = hidden [rows, inputs] times head [width, inputs] transposed, in tiles. scores: room for those of
// some rows, which take turns.
ffi::Error TileLoss(ffi::ThreadPool pool, BF16 hidden, BF16 head, S32 targets, ffi::ResultBuffer<ffi::F32> nll,
                    ffi::ResultBuffer<ffi::BF16> gradient, ffi::ResultBuffer<ffi::F32> scores, int32_t n_vocab) {
  const int64_t rows = targets.element_count(), inputs = hidden.dimensions()[1], width = head.dimensions()[0];
  const int64_t most = scores->dimensions()[0];
  if (!kHasPairs || head.dimensions()[1] != inputs) return ffi::Error::InvalidArgument("factors of a loss");
  const auto* from = static_cast<const uint16_t*>(hidden.untyped_data());
  const Factor right{static_cast<const uint16_t*>(head.untyped_data()), width, inputs, inputs, true};
  auto* to = gradient->element_count() ? static_cast<uint16_t*>(gradient->untyped_data()) : nullptr;
  for (int64_t row = 0; row < rows; row += most) {
    const int64_t count = std::min(most, rows - row);
    MultiplyArrays<float>(pool, {from + row * inputs, count, inputs, inputs, true}, right, nullptr, scores->typed_data(),
                          nullptr);
    LossOf(pool, count, width, n_vocab, scores->typed_data(), targets.typed_data() + row, nll->typed_data() + row,
           to ? to + row * width : nullptr);
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(gpt2_nll, Loss,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<S32>()
                                  .Ret<F32>()
                                  .Ret<Any>()
                                  .Attr<int32_t>("n_vocab"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(gpt2_tile_nll, TileLoss,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<BF16>()
                                  .Arg<BF16>()
                                  .Arg<S32>()
                                  .Ret<F32>()
                                  .Ret<ffi::Buffer<ffi::BF16>>()
                                  .Ret<F32>()
                                  .Attr<int32_t>("n_vocab"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    gpt2_layer_norm, Norm, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Any>().Arg<F32>().Arg<F32>().Ret<Any>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    gpt2_layer_norm_backward, NormBackward,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Any>().Arg<F32>().Arg<F32>().Arg<Any>().Ret<Any>().Ret<F32>().Ret<F32>()
        .Ret<Any>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(gpt2_gelu, Activation, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Any>().Ret<Any>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    gpt2_gelu_backward, ActivationBackward,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Any>().Arg<Any>().Ret<Any>().Ret<Any>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    gpt2_pack, Pack, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<F32>().Ret<Any>().Ret<F32>().Attr<bool>("is_table"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    gpt2_unpacked, Unpacked,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Any>().Arg<F32>().Arg<S32>().Ret<F32>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(gpt2_packed_product, PackedProduct,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<Any>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Ret<F32>()
                                  .Attr<bool>("is_gelu"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(gpt2_tile_product, ArrayProduct,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<BF16>()
                                  .Arg<BF16>()
                                  .Arg<F32>()
                                  .Ret<Any>()
                                  .Ret<F32>()
                                  .Attr<bool>("by_input")
                                  .Attr<bool>("by_output"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(gpt2_cached_attention, CachedAttention,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Any>()
                                  .Arg<Any>()
                                  .Arg<Any>()
                                  .Arg<Any>()
                                  .Arg<Any>()
                                  .Arg<S32>()
                                  .Arg<S32>()
                                  .Ret<Any>()
                                  .Ret<Any>()
                                  .Ret<Any>()
                                  .Attr<bool>("is_prompt")
                                  .Attr<bool>("in_tiles"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(gpt2_attention, Attention,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Any>()
                                  .Arg<Any>()
                                  .Arg<Any>()
                                  .Arg<S32>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Ret<Any>()
                                  .Ret<F32>()
                                  .Attr<float>("dropout")
                                  .Attr<bool>("in_tiles"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(gpt2_attention_backward, AttentionBackward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Any>()
                                  .Arg<Any>()
                                  .Arg<Any>()
                                  .Arg<S32>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<Any>()
                                  .Arg<F32>()
                                  .Arg<Any>()
                                  .Ret<Any>()
                                  .Ret<Any>()
                                  .Ret<Any>()
                                  .Attr<float>("dropout")
                                  .Attr<bool>("in_tiles"));

extern "C" int gpt2_has_tiles() { return gpt2::kHasPairs; }
