// The kernels as XLA calls them on CPUs. Arguments and results are described where they are called from.

#include "attention.h"
#include "few_rows.h"
#include "pointwise.h"
#include "vectors.h"

namespace {

namespace ffi = xla::ffi;
using namespace gpt2;

using F32 = ffi::Buffer<ffi::F32>;
using S32 = ffi::Buffer<ffi::S32>;
using Any = ffi::AnyBuffer;

template <typename T>
T* To(ffi::Result<Any>& result) {
  return static_cast<T*>(result->untyped_data());
}

// y [rows, outputs] = x [rows, width] times the rows of matrix [outputs, width], a multiple of kBlock wide.
ffi::Error Product(ffi::ThreadPool pool, F32 x, Any matrix, F32 scales, ffi::ResultBuffer<ffi::F32> y) {
  const FewRows p{x.typed_data(),      scales.typed_data(), y->typed_data(), x.dimensions()[0],
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

// out [rows, heads, width] of queries of the same shape, already divided by sqrt(width), to the slots up to their own
// position [rows] of k and v [rows * heads, slots, width].
ffi::Error Queries(ffi::ThreadPool pool, F32 q, F32 k, F32 v, S32 positions, ffi::ResultBuffer<ffi::F32> out) {
  const int64_t rows = q.dimensions()[0], heads = q.dimensions()[1], width = q.dimensions()[2];
  const int64_t slots = k.dimensions()[1];
  const float *qs = q.typed_data(), *ks = k.typed_data(), *vs = v.typed_data();
  const int32_t* last = positions.typed_data();
  float* outs = out->typed_data();
  Share(pool, rows * heads, [=](int64_t n) {
    const int64_t filled = std::min<int64_t>(slots, last[n / heads] + 1), from = n * width;
    AttendOne(qs + from, ks + from * slots, vs + from * slots, outs + from, width, filled);
  });
  return ffi::Error::Success();
}

Shape ShapeOf(const Any& q) { return {q.dimensions()[0], q.dimensions()[1], q.dimensions()[2], q.dimensions()[3]}; }

Dropout DropoutOf(const ffi::Buffer<ffi::U32>& seeds, float rate) {
  const double threshold = std::min(std::nearbyint(double(rate) * 4294967296.0), 4294967295.0);
  return {seeds.typed_data()[0], seeds.typed_data()[1], uint32_t(threshold), 1 / (1 - rate)};
}

template <typename T>
const T* As(const Any& buffer) {
  return static_cast<const T*>(buffer.untyped_data());
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

ffi::Error Attention(ffi::ThreadPool pool, Any q, Any k, Any v, S32 first, ffi::Buffer<ffi::U32> seeds,
                     ffi::Result<Any> out, ffi::ResultBuffer<ffi::F32> log_sums, float dropout) {
  const Shape shape = ShapeOf(q);
  const Dropout drop = DropoutOf(seeds, dropout);
  return ByType(q.element_type(), [&](auto number) {
    using T = decltype(number);
    const T *qs = As<T>(q), *ks = As<T>(k), *vs = As<T>(v);
    const int32_t* firsts = first.typed_data();
    T* outs = To<T>(out);
    float* sums = log_sums->typed_data();
    Share(pool, shape.rows * shape.heads, [=](int64_t n) {
      Attend(shape, n, qs, ks, vs, firsts + n / shape.heads * shape.tokens, drop, outs, sums);
    });
  });
}

ffi::Error AttentionBackward(ffi::ThreadPool pool, Any q, Any k, Any v, S32 first, ffi::Buffer<ffi::U32> seeds, Any out,
                             F32 log_sums, Any d_out, ffi::Result<Any> dq, ffi::Result<Any> dk, ffi::Result<Any> dv,
                             float dropout) {
  const Shape shape = ShapeOf(q);
  const Dropout drop = DropoutOf(seeds, dropout);
  return ByType(q.element_type(), [&](auto number) {
    using T = decltype(number);
    const T *qs = As<T>(q), *ks = As<T>(k), *vs = As<T>(v), *outs = As<T>(out), *d_outs = As<T>(d_out);
    const int32_t* firsts = first.typed_data();
    const float* sums = log_sums.typed_data();
    T *dqs = To<T>(dq), *dks = To<T>(dk), *dvs = To<T>(dv);
    Share(pool, shape.rows * shape.heads, [=](int64_t n) {
      AttendBackward(shape, n, qs, ks, vs, firsts + n / shape.heads * shape.tokens, drop, outs, sums, d_outs, dqs, dks,
                     dvs);
    });
  });
}

int64_t Parts(int64_t count, int64_t size) { return (count + size - 1) / size; }

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

// d_gain and d_bias: [tasks, width], what each kRowsOfTask rows add to them.
ffi::Error NormBackward(ffi::ThreadPool pool, Any x, F32 gain, Any dy, ffi::Result<Any> dx,
                        ffi::ResultBuffer<ffi::F32> d_gain, ffi::ResultBuffer<ffi::F32> d_bias) {
  const int64_t width = gain.dimensions()[0], rows = x.element_count() / width;
  if (d_gain->dimensions()[0] != Parts(rows, kRowsOfTask)) return ffi::Error::InvalidArgument("tasks of a layer norm");
  return ByType(x.element_type(), [&](auto number) {
    using T = decltype(number);
    const T *xs = As<T>(x), *dys = As<T>(dy);
    const float* gains = gain.typed_data();
    T* dxs = To<T>(dx);
    float *d_gains = d_gain->typed_data(), *d_biases = d_bias->typed_data();
    Share(pool, Parts(rows, kRowsOfTask), [=](int64_t task) {
      float *d_g = d_gains + task * width, *d_b = d_biases + task * width;
      std::fill(d_g, d_g + width, 0.0f);
      std::fill(d_b, d_b + width, 0.0f);
      const int64_t end = std::min(rows, (task + 1) * kRowsOfTask);
      for (int64_t r = task * kRowsOfTask; r < end; ++r) {
        LayerNormBackward(xs + r * width, gains, dys + r * width, dxs + r * width, d_g, d_b, width);
      }
    });
  });
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

ffi::Error ActivationBackward(ffi::ThreadPool pool, Any x, Any dy, ffi::Result<Any> dx) {
  const int64_t count = x.element_count();
  return ByType(x.element_type(), [&](auto number) {
    using T = decltype(number);
    const T *xs = As<T>(x), *dys = As<T>(dy);
    T* dxs = To<T>(dx);
    Share(pool, Parts(count, kNumbersOfTask), [=](int64_t task) {
      const int64_t first = task * kNumbersOfTask;
      GeluBackward(xs + first, dys + first, dxs + first, std::min(kNumbersOfTask, count - first));
    });
  });
}

// nll [rows] and the logarithms of the sums [rows], of scores [rows, width], of which the first n_vocab count.
ffi::Error Loss(ffi::ThreadPool pool, F32 scores, S32 targets, ffi::ResultBuffer<ffi::F32> nll,
                ffi::ResultBuffer<ffi::F32> log_sums, int32_t n_vocab) {
  const int64_t rows = targets.element_count(), width = scores.element_count() / rows;
  const float* from = scores.typed_data();
  const int32_t* chosen = targets.typed_data();
  float *losses = nll->typed_data(), *sums = log_sums->typed_data();
  Share(pool, rows, [=](int64_t row) {
    const bool known = chosen[row] >= 0 && chosen[row] < width;  // what is not shows in the loss
    sums[row] = LogSum(from + row * width, n_vocab);
    losses[row] = known ? sums[row] - from[row * width + chosen[row]] : std::nanf("");
  });
  return ffi::Error::Success();
}

ffi::Error LossBackwardAll(ffi::ThreadPool pool, F32 scores, S32 targets, F32 log_sums, F32 d_nll,
                           ffi::Result<Any> d_scores, int32_t n_vocab) {
  const int64_t rows = targets.element_count(), width = scores.element_count() / rows;
  return ByType(d_scores->element_type(), [&](auto number) {
    using T = decltype(number);
    const float *from = scores.typed_data(), *sums = log_sums.typed_data(), *ds = d_nll.typed_data();
    const int32_t* chosen = targets.typed_data();
    T* to = To<T>(d_scores);
    Share(pool, rows, [=](int64_t row) {
      LossBackward(from + row * width, chosen[row], sums[row], ds[row], n_vocab, width, to + row * width);
    });
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(gpt2_nll, Loss,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<S32>()
                                  .Ret<F32>()
                                  .Ret<F32>()
                                  .Attr<int32_t>("n_vocab"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(gpt2_nll_backward, LossBackwardAll,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<S32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Ret<Any>()
                                  .Attr<int32_t>("n_vocab"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    gpt2_layer_norm, Norm, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Any>().Arg<F32>().Arg<F32>().Ret<Any>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    gpt2_layer_norm_backward, NormBackward,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Any>().Arg<F32>().Arg<Any>().Ret<Any>().Ret<F32>().Ret<F32>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(gpt2_gelu, Activation, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Any>().Ret<Any>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    gpt2_gelu_backward, ActivationBackward,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Any>().Arg<Any>().Ret<Any>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    gpt2_few_rows, Product,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<F32>().Arg<Any>().Arg<F32>().Ret<F32>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    gpt2_few_queries, Queries,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<F32>().Arg<F32>().Arg<F32>().Arg<S32>().Ret<F32>());

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
                                  .Attr<float>("dropout"));

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
                                  .Attr<float>("dropout"));
