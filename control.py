"""Commands a running training by files in its folder, here or in a bucket.

python3 control.py runs/tiny save             save a checkpoint now
python3 control.py runs/tiny evaluate         evaluate now
python3 control.py runs/tiny sample           generate the samples of sample_prompts now
python3 control.py runs/tiny lr 0.0005        scale the schedule so that its highest rate is 0.0005
python3 control.py runs/tiny pause            wait until "resume" or "stop"
python3 control.py runs/tiny stop             save and stop; the same main.py command continues
python3 control.py runs/tiny status           print the newest step, loss, learning rate and speed
"""

if __name__ == "__main__":  # before the imports that take time
    from estimator import interrupts

    interrupts.exit_quietly()

import time
from collections.abc import Callable
from pathlib import Path

from estimator import storage
from estimator.arguments import Parser, number
from estimator.errors import UserError, run_program
from estimator.storage import lease, locks, user_paths
from estimator.training import ended_run
from estimator.training.control_files import COMMANDS, Answer, ControlFolder
from estimator.training.run_lock import LOCK

LOOK_SECONDS, REMOTE_LOOK_SECONDS = 0.2, 3.0


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("run", type=user_paths.argument, metavar="RUN", help="the run's folder, its model_path")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("value", type=number, nargs="?", metavar="X", help="the learning rate of lr")
    parser.add_argument("--no-wait", action="store_true", help="write the command and do not wait for the answer")
    arguments = parser.parse_args()
    is_alive = liveness(arguments.run)
    if not is_alive():
        ended = ended_run.read(arguments.run)
        if not (arguments.command == "status" and ended.is_complete):
            raise UserError(f"{arguments.run}: no run is alive in this folder: {ended}")
        print(ended)
        return
    folder = ControlFolder(arguments.run)
    try:
        name = folder.send(arguments.command, arguments.value)
    except ValueError as error:
        raise UserError(str(error)) from None
    if arguments.no_wait:
        return
    try:
        answer = wait(folder, name, is_alive, REMOTE_LOOK_SECONDS if storage.is_remote(arguments.run) else LOOK_SECONDS)
    except KeyboardInterrupt:
        folder.withdraw(name)
        raise
    if answer is None:
        folder.withdraw(name)
        raise UserError(f"{arguments.run}: the run ended before it answered: {ended_run.read(arguments.run)}")
    if not answer.ok:
        raise UserError(answer.message)
    print(answer.message)


def liveness(run: str) -> Callable[[], bool]:
    """A function that tells whether a process trains in the folder. Raises UserError if it is not a run's."""
    path = storage.join(run, LOCK)
    if not storage.exists(run):
        raise UserError(f"{run}: no such folder; give a run's folder (model_path)")
    if not storage.is_folder(run):
        raise UserError(f"{run} is a file; give the run's folder, which is model_path in its JSON file")
    if storage.is_remote(run):
        return lease.Watch(path).is_held
    return lambda: Path(path).exists() and locks.is_held(path)


def wait(folder: ControlFolder, name: str, is_alive: Callable[[], bool], seconds: float) -> Answer | None:
    """The answer to a request, or None when the run has ended without one."""
    while True:
        ended = not is_alive()
        answer = folder.answer_to(name)
        if answer or ended:
            return answer
        time.sleep(seconds)


if __name__ == "__main__":
    run_program(main)
