"""Prints the plan of a run without preparing text or touching its folder: `--dry_run`."""

import contextlib
import json

from estimator import storage
from estimator.data import text_input
from estimator.data.stages import Data
from estimator.errors import UserError
from estimator.format_version import NEWEST_SPLIT
from estimator.setup import Setup
from estimator.training import preflight, run_dir
from estimator.training.dry_run import parameter_table, report


def dry_run(setup: Setup) -> None:
    """Prints parameters, memory, disk, steps and tokens, the warnings, and below them each parameter and the keys."""
    is_remote = storage.is_remote(setup.folder)
    step = 0 if is_remote else setup.newest_step()
    is_other_vocabulary = not is_remote and setup.takes_other_vocabulary(step)
    if not (is_other_vocabulary or is_remote):
        setup.note_own_vocabulary(print)
    data, warnings = _data(setup, clean=is_other_vocabulary)
    if is_remote:
        warnings.append(f"model_path: {setup.folder} is remote and not checked")
    total_steps = setup.total_steps(data, setup.spans(data, step)[-1] if data and step else None)
    plan = setup.estimator(total_steps=total_steps).plan(total_steps=total_steps, first_step=step)
    examples = data.train.windows_per_pass if data else None
    encoded = {"known_once": "a run has encoded the text, as it does at its start"}
    options = encoded if text_input.is_text(setup.data) else {}
    print(report(plan, examples_per_epoch=examples, max_epochs=setup.run.max_epochs, **options))
    print(preflight.disk_report(plan, setup.run))
    print(setup.attention)
    warnings += preflight.memory_problems(plan) + preflight.disk_problems(plan, setup.run)
    for line in setup.warnings(total_steps) + warnings:
        print(f"warning: {line}")
    print(f"\n{parameter_table(plan.spec)}")
    print(f"\nkeys with other values than their defaults: {json.dumps(setup.values(defaults=False), indent=2)}")


def _data(setup: Setup, *, clean: bool) -> tuple[Data | None, list[str]]:
    """The data, if they are on this machine and ready to train on; a warning for each path that cannot be checked.

    clean: ignore the vocabulary of the run in the folder.
    """
    if text_input.is_text(setup.data):
        if storage.is_remote(str(setup.values().get("init_from") or "")):
            return None, []  # its vocabulary, and with it the cache, is known when the weights are copied
        n_vocab, own = setup.model_config.n_vocab, None if clean else setup.own_vocabulary()
        config, notes = setup.data_with_vocabulary(own)
        rules = NEWEST_SPLIT if clean else run_dir.split_rules(setup.folder)
        is_ready = text_input.is_prepared(config, n_vocab=n_vocab, cache=setup.cache, vocabulary=own, rules=rules)
        data = setup.open_data(clean=clean) if is_ready else None
        if data is None:
            with contextlib.suppress(UserError, OSError):  # without the text
                notes += text_input.warnings(config, rules=rules)
        if notes := data.notes if data else notes:
            print("\n".join(notes))
        return data, []
    paths = [setup.data.data_path] if isinstance(setup.data.data_path, str) else setup.data.data_path or []
    missing = [path for path in paths if storage.is_remote(path) or not storage.glob(path)]
    warnings = [f"data_path: {path} is not on this machine, so the data are not checked" for path in missing]
    return None if missing else setup.open_data(clean=clean), warnings
