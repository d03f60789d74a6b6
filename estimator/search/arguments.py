"""The flags of main.py that look for settings. Loads nothing else."""

import argparse

from estimator.storage import user_paths

RANGE_STEPS = 200


def add_modes(group: argparse._MutuallyExclusiveGroup) -> None:
    """Adds the flags that choose the command."""
    group.add_argument(
        "--lr_range_test",
        type=int,
        nargs="?",
        const=RANGE_STEPS,
        metavar="STEPS",
        help=f"train with a growing learning rate ({RANGE_STEPS} steps) and suggest one; saves no checkpoint",
    )
    group.add_argument(
        "--sweep", type=user_paths.argument, metavar="FILE", help="train once for each choice of keys in FILE"
    )
