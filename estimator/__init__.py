"""A small Estimator on JAX: trains, evaluates and predicts with any `model_fn`, from one device to many.

Its subpackages know no model; `main.py` and the other programs use them. The names below load JAX, so they are imported
on first use: encoding, downloading and launching start without it.
"""

TYPE_CHECKING = False  # as typing's; every program waits for this module, and typing takes longer than all else in it
if TYPE_CHECKING:
    from estimator.estimator import Estimator, EstimatorSpec, Mode

__all__ = ["Estimator", "EstimatorSpec", "Mode"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from estimator import estimator

    return getattr(estimator, name)
