"""Keys of the JSON file that an optimizer or a schedule does not read."""

from estimator.config import Section


def unread_keys(config: Section, *, optimizer: str, schedule: str, decay_type: str, decays: bool) -> list[str]:
    """The keys of `config` that differ from their defaults and have no effect with this optimizer and schedule.

    decay_type: of Adafactor. decays: whether weights decay.
    """
    readers = {
        "beta1": optimizer != "sgd",
        "beta2": optimizer in ("adam", "muon") or (optimizer == "adafactor" and decay_type == "adam"),
        "epsilon": optimizer in ("adam", "muon"),
        "decay_type": optimizer == "adafactor",
        "decay_exponent": optimizer == "adafactor" and decay_type == "pow",
        "relative_lr": optimizer == "adafactor",
        "momentum": optimizer in ("sgd", "muon"),
        "ns_steps": optimizer == "muon",
        "neuron_beta2": optimizer == "muon",
        "lr_min": schedule != "constant",
        "restart_steps": schedule == "cosine_restarts",
        "decay_fraction": schedule == "wsd",
        "decay_all": decays,
    }
    defaults = type(config).model_fields
    return [key for key, is_read in readers.items() if not is_read and getattr(config, key) != defaults[key].default]
