"""The flags of main.py that launch and control runs on other machines: `--tpu NAME` and related flags.

They are apart from `cli`, which carries them out, so that parsing a command line loads neither the launcher nor JAX.
"""

import argparse
import os
from collections.abc import Mapping

from estimator import invocation
from estimator.launch.job import MARK
from estimator.storage import user_paths

MAY_BE_EMPTY = ("model", "predict_text", "tpu_ssh")  # a missing model has a message of its own
# Set on each machine where a scheduler has already started one process per worker.
STARTED_BY_OTHERS = ("JAX_NUM_PROCESSES", "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags, all optional."""
    group = parser.add_argument_group("other machines", "see docs/pods.md")
    group.add_argument(
        "--tpu", type=str, metavar="NAME", help="run on all workers of NAME: local:N, ssh:HOST,HOST, HOSTS.json, a TPU"
    )
    group.add_argument("--tpu_status", type=str, metavar="NAME", help="show the status of the runs on NAME")
    group.add_argument("--tpu_logs", type=str, metavar="NAME", help="follow the log of the run on NAME until it ends")
    group.add_argument(
        "--tpu_stop", type=str, metavar="NAME", help="save and stop the run on NAME; NAME itself is kept"
    )
    group = parser.add_argument_group("Google Cloud", f"see docs/pods.md; needs {invocation.requirements('gcs')}")
    group.add_argument("--tpu_project", metavar="P", help="project of NAME (default: gcloud's project)")
    group.add_argument("--tpu_zone", metavar="Z", help="zone of NAME (default: gcloud's zone)")
    group.add_argument("--tpu_ssh", type=str, metavar="OPTIONS", help='more arguments for ssh: "-l me -i KEY"')
    group.add_argument("--tpu_internal", action="store_true", help="use and create no external addresses")
    group.add_argument(
        "--tpu_create", metavar="TYPE", help="with --tpu: create NAME, such as a v6e-16, if it does not exist; it is "
        "deleted when the run is finished",
    )  # fmt: skip
    group.add_argument("--spot", action="store_true", help="with --tpu_create: create spot capacity")
    group.add_argument(
        "--tpu_replace", action="store_true", help="with --tpu_create: when NAME is preempted, replace it even if it "
        "was not created from this machine",
    )  # fmt: skip
    group.add_argument("--tpu_api", choices=["compute", "tpu"], help="with --tpu_create: Compute Engine or the TPU API")
    group.add_argument("--tpu_image", metavar="I", help="with --tpu_create: image, or TPU software version")
    group.add_argument("--tpu_network", metavar="N", help="with --tpu_create: NETWORK or NETWORK/SUBNETWORK")
    group.add_argument(
        "--tpu_delete", type=str, metavar="NAME", help="delete NAME, if it was created from this machine"
    )


def with_model(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parses the command line; --model may be missing only with flags that control a run."""
    arguments = parser.parse_args()
    for flag, value in vars(arguments).items():  # otherwise `--tpu "$UNSET"` would train here
        if value == "" and flag not in MAY_BE_EMPTY:
            parser.error(f"--{flag}: empty; give a value, or leave it out (is a variable unset?)")
    if not (arguments.model or _controls(arguments)):
        parser.error("the following arguments are required: --model")
    if arguments.model:
        arguments.model = user_paths.config_file(arguments.model)
    if arguments.model and os.path.isfile(file := os.path.join(arguments.model, "config.json")):
        arguments.model = file  # of a run's folder
    if not (arguments.tpu and arguments.tpu_create):
        for flag in ("spot", "tpu_replace", "tpu_api", "tpu_image", "tpu_network"):
            if getattr(arguments, flag):
                parser.error(f"--{flag} goes with --tpu NAME --tpu_create TYPE")
        if arguments.tpu_create:
            parser.error("--tpu_create goes with --tpu NAME")
    return arguments


def asked(arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process launches or controls processes on other workers; on a worker, it does not."""
    if _controls(arguments):
        return True
    return bool(arguments.tpu) and not any(environment.get(name) for name in (MARK, *STARTED_BY_OTHERS))


def _controls(arguments: argparse.Namespace) -> bool:
    """Whether a flag that needs no JSON file is given."""
    return bool(arguments.tpu_status or arguments.tpu_logs or arguments.tpu_stop or arguments.tpu_delete)
