"""Prints the plan of a run without preparing text or touching its folder: `--dry_run`."""

from estimator import storage
from estimator.setup import Setup
from estimator.training import preflight
from estimator.training.dry_run import report


def dry_run(setup: Setup) -> None:
    """Prints the resolved keys, the parameters, memory, disk and steps, and the warnings."""
    paths = [setup.data.data_path] if isinstance(setup.data.data_path, str) else setup.data.data_path or []
    is_text = setup.data.input in ("text", "chat")
    missing = [path for path in paths if storage.is_remote(path) or not storage.glob(path)] if not is_text else []
    warnings = [f"data_path: {path} is not on this machine, so the data are not checked" for path in missing]
    data = None if missing or is_text else setup.open_data()
    if is_remote := storage.is_remote(setup.folder):
        warnings.append(f"model_path: {setup.folder} is remote and not checked")
    step = 0 if is_remote else setup.estimator().latest_step() or 0
    total_steps = setup.total_steps(data, setup.spans(data, step)[-1] if data and step else None)
    plan = setup.estimator(total_steps=total_steps).plan(total_steps=total_steps, first_step=step)
    print(report(plan, values=setup.values(), examples_per_epoch=data.train.windows_per_epoch if data else None))
    print(preflight.disk_report(plan, setup.run))
    print(setup.attention)
    warnings += preflight.memory_problems(plan) + preflight.disk_problems(plan, setup.run)
    for line in setup.warnings(total_steps) + warnings:
        print(f"warning: {line}")
