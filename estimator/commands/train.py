"""Trains a run, evaluating in turn; continues from its newest checkpoint."""

from estimator.commands import start_of_run
from estimator.data.batches import Batches
from estimator.errors import EXIT_INTERRUPTED, EXIT_STOPPED, UserError
from estimator.generation import training_samples
from estimator.parallel import agreement, device_check, distributed
from estimator.plots import report
from estimator.setup import Setup
from estimator.training import preflight, run_dir, run_identity, run_vocabulary, tracker_process
from estimator.training.checkpoint_reader import OtherStateError
from estimator.training.data_position import DataPosition, DataSpan
from estimator.training.metrics_writers import Console


def train(setup: Setup, *, clean: bool, profiled: range | None = None) -> int:
    """Returns the exit code: 0 when the run is complete, 130 when a signal stopped it early, 4 when a command did.

    clean: empty the run's folder first. profiled: steps to trace. Raises DivergedError when the loss or the weights are
    lost.
    """
    device_check.check_products()
    tracker_process.require(agreement.from_first(lambda: tracker_process.missing(setup.run.trackers)))
    agreement.from_first(lambda: preflight.require_place(setup.folder))
    if not clean:
        agreement.from_first(lambda: run_dir.require_layout(setup.folder))
    step = 0 if clean else setup.newest_step()
    if not step:  # before text is prepared, which may take hours
        agreement.from_first(setup.estimator().check_initial)
    is_other_vocabulary = not clean and agreement.from_first(lambda: setup.takes_other_vocabulary(step))
    data = setup.open_data(clean=clean or is_other_vocabulary)
    agreement.require_equal(lambda: {"data": data.content_digest(), "vocabulary": data.tokenizer})
    if clean and distributed.is_first():
        run_dir.clean(setup.folder)
    if is_other_vocabulary and distributed.is_first():
        run_vocabulary.forget(setup.folder)
    agreement.from_first(lambda: run_dir.require_layout(setup.folder))
    agreement.from_first(lambda: run_dir.check_vocabulary(setup.folder, data.tokenizer))
    history = [DataSpan(*span) for span in agreement.from_first(lambda: setup.spans(data, step))]
    windows = setup.evaluation_batches(data)
    position = DataPosition(history, evaluation=windows.digest if windows else "")
    total_steps = setup.total_steps(data, history[-1])
    if profiled and not range(max(step, profiled.start), min(total_steps, profiled.stop)):
        raise UserError(
            f"--profile {profiled.start}:{profiled.stop}: none of these steps is left; the run is at step {step} of "
            f"{total_steps}"
        )
    console = Console(total_steps=total_steps) if distributed.is_first() else None
    estimator = setup.estimator(total_steps=total_steps, console=console, profile=profiled)

    def begin(first_step: int) -> None:
        if not console:
            return
        start_of_run.require_step(setup.folder, step, found=first_step, clean=clean)
        run = run_identity.chosen(setup.folder, step)
        for line in start_of_run.recorded(setup, data, history, step=step, total_steps=total_steps, run=run):
            console.note(line)

    host, hosts = estimator.process_slice
    batches = Batches(
        data.train,
        batch_size=setup.run.train_batch_size,
        host_index=host,
        host_count=hosts,
        window_at=position.window_at,
    )
    evaluation = setup.evaluation(data, estimator)
    if evaluation is None and (setup.run.keep_best or setup.run.patience):
        raise UserError("keep_best and patience need text to evaluate on; set eval_split, or leave them out")
    try:
        finished = estimator.train(
            batches,
            total_steps=total_steps,
            evaluation=evaluation,
            sampling=training_samples.sampling(setup, estimator, console.note if console else print),
            begin=begin,
            position=position,
        )
    except OtherStateError as error:
        raise setup.explained(error) from None
    if console:
        if finished:
            for line in report.conclusion(setup.folder, is_written=setup.run.report):
                console.note(line)
        console.close()
    return 0 if finished else EXIT_STOPPED if estimator.was_commanded_to_stop else EXIT_INTERRUPTED
