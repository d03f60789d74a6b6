"""Checks all that a run needs without touching its folder: `--check`."""

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from estimator import storage
from estimator.data import text_input
from estimator.data.stages import Data
from estimator.errors import EXIT_ERROR, UserError, message, require_output
from estimator.format_version import NEWEST_SPLIT
from estimator.parallel import device_check
from estimator.quantities import numbered
from estimator.setup import Setup
from estimator.storage import cache_root
from estimator.training import missing_checkpoints, preflight, run_dir, tracker_process
from estimator.training.dry_run import summary
from estimator.training.run_checkpoints import CHECKPOINTS

MANY_EPOCHS = 200  # Muennighoff et al. 2023 (arXiv:2305.16264): repeats beyond about 40 have no value
PREPARED_BYTES = 16e6  # text of up to this size is prepared as a run would, in a temporary folder
T = TypeVar("T")


def check(setup: Setup) -> int:
    """Prints a report and every problem found; returns the exit code, 2 if the run would fail."""
    problems: list[str] = []

    def attempt(action: Callable[[], T]) -> T | None:
        try:
            return action()
        except (UserError, OSError) as error:
            if message(error) not in problems:  # several attempts may meet it
                problems.append(message(error))
        return None

    attempt(device_check.check_devices)
    attempt(device_check.check_products)
    attempt(partial(run_dir.require_layout, setup.folder))
    attempt(lambda: tracker_process.require(tracker_process.missing(setup.run.trackers)))
    step = attempt(setup.newest_step) or 0
    if not step:
        attempt(lambda: missing_checkpoints.require_none(setup.folder, storage.join(setup.folder, CHECKPOINTS)))
    takes_other_vocabulary = attempt(lambda: setup.takes_other_vocabulary(step))  # None: a run would refuse to
    clean = bool(takes_other_vocabulary)
    attempt(partial(_look_at_vocabulary, setup, clean=clean))
    with tempfile.TemporaryDirectory(prefix="gpt2-check-") as scratch:
        data = attempt(partial(_look_at_data, setup, Path(scratch), clean=clean))
    if data and data.tokenizer and not clean:
        attempt(partial(run_dir.check_vocabulary, setup.folder, data.tokenizer))
    if takes_other_vocabulary is False:
        setup.note_own_vocabulary(print)
    total_steps = attempt(lambda: setup.total_steps(data, setup.spans(data, step)[-1] if data else None))
    estimator = setup.estimator(total_steps=total_steps or 1, clean=clean)
    if step:
        attempt(estimator.restore)
    else:
        for warning in attempt(estimator.check_initial) or []:
            print(f"warning: {warning}")
    if step and attempt(lambda: estimator.spec("predict").initial):
        print(f"init_from: not read, as the run continues from step {step}; for another start, set another model_path")
    if total_steps:
        if plan := attempt(partial(estimator.plan, total_steps=total_steps, first_step=step)):
            unknown_end = None if data else setup.run.max_epochs
            print(f"{summary(plan, max_epochs=unknown_end)}\n{preflight.disk_report(plan, setup.run)}")
            problems += preflight.memory_problems(plan) + preflight.disk_problems(plan, setup.run)
            attempt(lambda: print(setup.attention))
        epochs = total_steps * setup.run.train_batch_size / data.train.windows_per_pass if data else 0
        if epochs > MANY_EPOCHS:
            passes = f"{epochs:,.0f} passes over the text"
            print(f"warning: {setup.run.limits}: {passes}; beyond some 40, it teaches nothing more")
        for line in setup.warnings(total_steps):
            print(f"warning: {line}")
    written = {"model_path": setup.folder, "predict_path": setup.predict_path}
    places = [str(setup.cache), str(cache_root.root())]  # of prepared text: the second where the first is read-only
    if text_input.is_text(setup.data) and all(preflight.write_problems([("cache", place)]) for place in places):
        written["cache"] = places[0]
    problems += preflight.write_problems((key, path) for key, path in written.items() if path)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(numbered(len(problems), "problem") if problems else "all is well")
    require_output()
    return EXIT_ERROR if problems else 0


def _look_at_vocabulary(setup: Setup, *, clean: bool) -> None:
    """Reads the vocabulary in encoder_path, unless a run that has begun has its own. clean: ignore that one."""
    if clean or not setup.own_vocabulary():
        text_input.check_vocabulary(setup.data_with_vocabulary(None)[0], n_vocab=setup.model_config.n_vocab)


def _look_at_data(setup: Setup, scratch: Path, *, clean: bool) -> Data | None:
    """Opens shards. Text that a run would prepare is prepared in `scratch`, or only sampled if it is large.

    clean: ignore the vocabulary of the run in the folder.
    """
    if not text_input.is_text(setup.data):
        data = setup.open_data(clean=clean)
    else:
        n_bytes, line = text_input.look(setup.data)
        is_large = n_bytes > PREPARED_BYTES
        read = ", of which only the beginnings are read here" if is_large else ""
        place = text_input.folder(setup.data, n_vocab=setup.model_config.n_vocab, cache=setup.cache).parent
        print(f"{line}{read}; a run prepares it in {place}, unless it is there")
        if is_large:
            rules = NEWEST_SPLIT if clean else run_dir.split_rules(setup.folder)
            for warning in text_input.warnings(setup.data, rules=rules):
                print(warning)
            return None
        with contextlib.redirect_stdout(io.StringIO()):
            data = setup.open_data(clean=clean, cache=scratch)
    print("\n".join(map(str, data.notes)))
    return data
