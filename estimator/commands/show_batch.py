"""Prints the training data of a step or of some windows: `--show_batch`."""

import functools
import re
import sys

from estimator.errors import UserError, require_output
from estimator.setup import Setup
from estimator.tokenization import tokenizer
from estimator.training import progress


def show_batch(setup: Setup, what: str) -> None:
    """Prints each window's number, its documents (shard, number, first token, tokens), and its text.

    what: STEP, counted from 1, or the numbers of windows, FIRST:STOP, as a run logs them.
    """
    match = re.fullmatch(r"([0-9]{1,12})(?::([0-9]{1,12}))?", what)
    if not match or (match[2] and int(match[2]) <= int(match[1])) or (not match[2] and not int(match[1])):
        raise UserError(f"--show_batch {what}: write a step (1 is the first), or windows as FIRST:STOP")
    saved = setup.newest_step()
    is_other_vocabulary = saved == 0 and setup.takes_other_vocabulary(saved)
    if not is_other_vocabulary:
        setup.note_own_vocabulary(functools.partial(print, file=sys.stderr))
    data = setup.open_data(clean=is_other_vocabulary)
    if match[2]:
        windows = range(int(match[1]), int(match[2]))
    else:
        step = int(match[1])
        trained = progress.span_of(setup.folder, step) if step <= saved else None
        span = trained or setup.spans(data, saved)[0 if step <= saved else -1]
        windows = range(span.window_at(step - 1), span.window_at(step))
        if progress.is_other_order(span, setup.order(data)):
            told = f"warning: step {step} was read from other data, or in another order, than these settings give"
            print(f"{told}; set the keys as they were then", file=sys.stderr)
    vocabulary = tokenizer.load(data.encoder) if data.encoder else None
    for window in windows:
        print(f"window {window:,}")
        for path, document, start, count in data.train.origins(window):
            print(f"  {path}, document {document:,}, tokens {start:,} to {start + count:,}")
        ids = data.train.batch([window])["tokens"][0]
        print(vocabulary.decode(ids) if vocabulary else " ".join(map(str, ids.tolist())))
    require_output()
