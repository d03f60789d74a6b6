"""Records in its folder what a run starts or continues with."""

from estimator.data.stages import Data
from estimator.errors import UserError
from estimator.parallel import agreement
from estimator.setup import Setup
from estimator.training import progress, run_dir, run_vocabulary
from estimator.training.data_position import DataSpan


def require_step(folder: str, step: int, *, found: int, clean: bool) -> None:
    """Raises UserError if another process has trained the run since its newest step was looked up, without the lock.

    step, found: the newest step then, and with the lock. clean: the command empties the folder.
    """
    if found != step:
        again = "without --clean" if clean else "again"
        raise UserError(
            f"{folder}: another process has just trained this run to step {found}; run the same command {again} to "
            "continue it"
        )


def recorded(setup: Setup, data: Data, history: list[DataSpan], *, step: int, total_steps: int, run: str) -> list[str]:
    """Writes progress, config, origin and vocabulary; returns lines for the console, one for each changed key first.

    history: the spans before `step`, then that of the coming steps. run: as `run_identity.chosen` returns it.
    """
    lines: list[str] = []
    setup.note_own_vocabulary(lines.append)
    origin = {**agreement.environment(), "data_path": setup.data.data_path, "data": data.notes}
    origin[run_dir.RUN] = run
    origin["content"] = data.content_digest()
    system, chosen = data.system_message(), setup.prediction.chat_system
    if system and system.text:
        origin[run_dir.SYSTEM_MESSAGE] = system.text
    if missing := progress.missing(setup.folder, history[0], step):
        lines.append(f"warning: {missing}")
    change_of_order = progress.change_of_order(setup.folder, history, step)
    if change_of_order and setup.run.max_epochs:
        change_of_order += f"; max_epochs {setup.run.max_epochs:g} counts the passes over these data alone"
    progress.write(setup.folder, history)
    known = {"vocabulary": data.tokenizer, "origin": origin, "change_of_order": change_of_order}
    lines += [f"changed since the last start: {line}" for line in run_dir.begin(setup.folder, setup.values(), **known)]
    run_vocabulary.keep(setup.folder, data.encoder, data.tokenizer)
    warnings = [f"warning: {text}" for text in setup.warnings(total_steps)]
    return [*lines, *warnings, *data.notes, *([system.note] if system and not chosen else []), setup.attention]
