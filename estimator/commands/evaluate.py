"""Evaluates a run's checkpoint on its held-out text or on files (`--evaluate`), and scores tokens (`--score`)."""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from estimator.commands import evaluation_log
from estimator.corpus import documents
from estimator.data import text_input
from estimator.data.stages import Data
from estimator.errors import UserError, require_output
from estimator.estimator import Estimator
from estimator.evaluation import perplexity, token_table
from estimator.evaluation.detokenizers import CONVENTIONS, Convention
from estimator.evaluation.perplexity import Losses, Text
from estimator.evaluation.scorer import Scorer
from estimator.parallel import distributed
from estimator.setup import EvaluationBatches, Setup
from estimator.storage import user_paths
from estimator.tokenization import special_text
from estimator.tokenization import tokenizer as tokenizers
from estimator.tokenization.tokenizer import Tokenizer
from estimator.tokenization.vocab_files import utf8
from estimator.training import run_dir
from estimator.training.metrics_writers import readable


def evaluate(setup: Setup, arguments: argparse.Namespace) -> None:
    """Prints losses in nats per token, perplexities and bits per byte, and appends them to the run's evaluations.jsonl.

    Raises UserError for a run without a checkpoint or data to evaluate on.
    """
    if (file := arguments.score or next(iter(arguments.evaluate or ()), None)) and setup.data.text_format == "tokens":
        raise UserError(
            f"text_format: {file} would be scored as plain text, not as lines of tokens; for the loss of such lines "
            "write --evaluate --set eval_split=FILE, for that of plain text add --set text_format=plain"
        )
    estimator = setup.estimator()
    estimator.require_checkpoint()
    setup.note_own_vocabulary(partial(print, file=sys.stderr))
    setup.note_other_function(partial(print, file=sys.stderr))
    if arguments.score is not None:
        _score(setup, estimator, arguments)
    elif arguments.evaluate:
        _evaluate_files(setup, estimator, arguments)
    else:
        _evaluate_split(setup, estimator)


def _evaluate_split(setup: Setup, estimator: Estimator) -> None:
    """The held-out windows, as training evaluates them."""
    data = setup.open_data()
    run_dir.check_vocabulary(setup.folder, data.tokenizer)
    evaluation = setup.evaluation(data, estimator)
    if evaluation is None:
        raise UserError("--evaluate: eval_split or eval_steps is 0; name the data: --set eval_split=FILE")
    if distributed.is_first():
        for change in run_dir.other_split(setup.folder, setup.values(), content=data.content_digest()):
            print(f"warning: {change}, so text that was trained on may be evaluated on", file=sys.stderr)
    step, params = estimator.restore()
    if estimator.spec("eval").score is None:
        metrics = evaluation(params) or {}
    else:
        metrics = _windows(setup, data, estimator, params).metrics()
    _report(setup, step, {"task": "eval_split"}, metrics)


def _windows(setup: Setup, data: Data, estimator: Estimator, params: Any) -> Losses:
    size, steps = setup.run.eval_batch_size or setup.run.train_batch_size, setup.run.eval_steps
    indices = EvaluationBatches(data, batch_size=size, steps=steps).windows
    with evaluation_log.progress(len(indices) * setup.model_config.n_ctx) as progress:
        scorer = Scorer(estimator, params, n_ctx=setup.model_config.n_ctx, progress=progress)
        return perplexity.of_windows(scorer, data.evaluation, indices, token_bytes=data.token_bytes)


def _evaluate_files(setup: Setup, estimator: Estimator, arguments: argparse.Namespace) -> None:
    """Each file alone; its documents do not see each other."""
    tokenizer, context = _tokenizer(setup), _context(setup, arguments)
    texts = {
        path: _texts(setup, path, tokenizer, CONVENTIONS[arguments.detokenizer], begins=not arguments.no_bos)
        for path in arguments.evaluate
    }
    step, params = estimator.restore()
    for path, documents_of_file in texts.items():
        with evaluation_log.progress(sum(len(text.tokens) - 1 for text in documents_of_file)) as progress:
            scorer = Scorer(estimator, params, n_ctx=setup.model_config.n_ctx, progress=progress)
            losses = perplexity.of_texts(scorer, documents_of_file, context=context, stride=arguments.stride)
        how = {"context": context, "stride": arguments.stride, "bos": documents_of_file[0].begins}
        _report(setup, step, {"file": path, **how, "detokenizer": arguments.detokenizer}, losses.metrics())


def _tokenizer(setup: Setup) -> Tokenizer:
    tokenizer = tokenizers.load(setup.vocabulary())
    run_dir.check_vocabulary(setup.folder, tokenizer.digest)
    return special_text.reading(tokenizer, setup.data.special or ())


def _context(setup: Setup, arguments: argparse.Namespace) -> int:
    n_ctx = setup.model_config.n_ctx
    context = n_ctx if arguments.context is None else arguments.context
    if not 1 <= context <= n_ctx:
        raise UserError(f"--context {context}: write a number from 1 to n_ctx, {n_ctx}")
    if arguments.stride is not None:
        perplexity.spans_of(1, context=context, stride=arguments.stride)  # checks it
    return context


def _texts(setup: Setup, path: str, tokenizer: Tokenizer, convention: Convention, *, begins: bool) -> list[Text]:
    """The documents of a file, tokenized; those with nothing to score are left out."""
    begin = [tokenizer.end_of_text] if begins and tokenizer.end_of_text is not None else []
    originals = [document.text for document in documents.whole(path, reading=text_input.reading(setup.data))]
    if convention.detokenize is not str and any("\r\n" in text for text in originals) and distributed.is_first():
        fault = f"{path}: its lines end with CR LF, which the rules of --detokenizer do not know"
        print(f"warning: {fault}, so its numbers do not compare with published ones; convert it to LF", file=sys.stderr)
    tokens = tokenizer.encode_utf8([utf8(convention.detokenize(text)) for text in originals])
    texts = [
        perplexity.text_of(
            text, ids, tokenizer, begin=begin, special=setup.data.special or (), n_words=convention.count
        )
        for text, ids in zip(originals, tokens, strict=True)
    ]
    texts = [text for text in texts if len(text.tokens) > 1]
    if not texts:
        if begin:
            raise UserError(f"{path}: no document has a token to score; name a file with text")
        cause = "a vocabulary without end-of-text scores none of one"
        if tokenizer.end_of_text is not None:
            cause = "with --no_bos a document's first is not scored; leave --no_bos out"
        raise UserError(f"{path}: no document has two tokens, and {cause}")
    return texts


def _score(setup: Setup, estimator: Estimator, arguments: argparse.Namespace) -> None:
    """Writes a row for each token of a file."""
    tokenizer, context = _tokenizer(setup), _context(setup, arguments)
    user_paths.require_output(arguments.out, "--out", inputs=[arguments.score])
    run_dir.require_foreign(arguments.out, "--out", setup.folder)
    texts = _texts(setup, arguments.score, tokenizer, CONVENTIONS["none"], begins=not arguments.no_bos)
    step, params = estimator.restore()
    stride = arguments.stride or max(1, context // 2)
    with evaluation_log.progress(sum(len(text.tokens) - 1 for text in texts)) as progress:
        scorer = Scorer(estimator, params, n_ctx=setup.model_config.n_ctx, progress=progress)
        rows = token_table.rows(scorer, texts, tokenizer, context=context, stride=stride)
        if not distributed.is_first():
            for _ in rows:  # computing is a collective
                pass
            return
        token_table.write(rows, arguments.out)
    if arguments.out:
        print(f"step {step}: {arguments.out}", file=sys.stderr)
    require_output()


def _report(setup: Setup, step: int, what: dict[str, Any], metrics: dict[str, Any]) -> None:
    if not distributed.is_first():
        return
    print("\n".join(_lines(step, what, metrics)))
    evaluation_log.append(setup.folder, {"step": step, **what, **metrics})
    require_output()


def _lines(step: int, what: dict[str, Any], metrics: dict[str, Any]) -> Iterator[str]:
    """The numbers of one evaluation as text."""
    where = f"step {step}, {what['file']}" if "file" in what else f"step {step}"
    names = ("loss", "perplexity", "bits_per_byte", "bits_per_character", "word_perplexity")
    is_ascii = metrics.get("bytes") == metrics.get("characters")
    shown = [name for name in names if name in metrics and not (name == "bits_per_character" and is_ascii)]
    yield f"{where}: " + ", ".join(f"{name} {readable(metrics[name], 4)}" for name in shown)
    if "tokens" not in metrics:
        return
    counts = [
        f"{metrics[name]:,} {name if metrics[name] != 1 else name[:-1]}"
        for name in ("tokens", "words", "bytes", "documents")
        if name in metrics
    ]
    error = [f"standard error of the loss {metrics['loss_stderr']:.4f}"] if "loss_stderr" in metrics else []
    yield "  " + ", ".join([*counts, *error])
    yield from evaluation_log.table("context", metrics["loss_by_position"])
    if len(metrics["loss_by_document_length"]) > 1:
        yield from evaluation_log.table("document", metrics["loss_by_document_length"])
