"""Generates text with a run's newest checkpoint: `--predict_text`, `_file` and `_lines`, and `--interactive`."""

import argparse
import secrets
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax

from estimator import storage
from estimator.corpus.chat_template import Template
from estimator.errors import UserError, require_output
from estimator.generation import completion, interactive, prompt_files
from estimator.generation.chat_session import ChatSession
from estimator.generation.completion import Completer, PredictionConfig
from estimator.parallel import agreement, distributed
from estimator.setup import Setup
from estimator.storage import user_paths
from estimator.tokenization import special_text
from estimator.tokenization import tokenizer as tokenizers
from estimator.tokenization.tokenizer import Tokenizer
from estimator.training import run_dir

MAX_SEED = 2**32 - 1


class Model(NamedTuple):
    """A checkpoint with its vocabulary. template: of a chat model. reply_tokens: kept free for a reply by default."""

    sampler: Any
    tokenizer: Tokenizer
    template: Template | None
    reply_tokens: int
    note: Callable[[str], None]

    def sampler_options(self) -> dict[str, Any]:
        """Arguments of a `predictor`: the token that ends a text, and how many tokens are known."""
        end = self.template.end if self.template else self.tokenizer.end_of_text
        return {"end_of_text": end, "n_known": self.tokenizer.n_vocab}

    def session(self, config: PredictionConfig, seed: int, before: Any = None) -> ChatSession | Completer:
        """A session with these settings; before: one whose conversation continues."""
        stream = partial(self.sampler.stream, settings=config.settings, length=config.length, seed=seed)
        if self.template:
            most = self.sampler.longest_prompt(config.length or self.reply_tokens)
            history = before.history if before else None
            return ChatSession(
                self.template, self.tokenizer, stream, config, most=most, note=self.note, history=history
            )
        seen = partial(self.sampler.seen, length=config.length)
        return Completer(self.tokenizer, stream, config, seen=seen, note=self.note)


def predict(setup: Setup, arguments: argparse.Namespace) -> None:
    """Writes samples to stdout and predict_path; notes go to stderr. UserError without a checkpoint or vocabulary.

    Of several processes, the first one writes.
    """
    if arguments.interactive and jax.process_count() > 1:
        raise UserError("--interactive goes with one process; start it without the variables that connect several")
    config = setup.prediction
    path = None if arguments.interactive else setup.predict_path
    read = [arguments.model, arguments.predict_file, arguments.predict_lines]
    user_paths.require_output(path, "predict_path", inputs=filter(None, read), makes_folder=True)
    run_dir.require_foreign(path, "predict_path", setup.folder)
    lines = _prompts(arguments)
    is_json = (path or "").endswith(prompt_files.SUFFIX)
    if arguments.logprobs and lines is None and not is_json:
        raise UserError(
            "--logprobs goes with --predict_lines FILE, --predict_file FILE.jsonl, or a .jsonl predict_path"
        )
    if arguments.best_of and arguments.interactive:
        raise UserError("--best_of does not go with --interactive, which shows a sample while it is generated")
    prompt = completion.typed(arguments.predict_text or "")
    if arguments.predict_file is not None and lines is None:
        prompt = completion.read_prompt(arguments.predict_file)
    if is_json and lines is None:
        lines = [prompt_files.Prompt(prompt, {})]  # text among the objects of predict_path would spoil it
    if lines is not None and not is_json:
        path = None  # objects among the text of predict_path would spoil it
    model = load(setup)
    if arguments.predict_lines is not None and lines and prompt_files.are_objects(lines):
        model.note(
            f"--predict_lines {arguments.predict_lines}: each line is a JSON object and is continued as it is written; "
            '--predict_file, with a name in .jsonl, continues their "prompt"'
        )
    if not (is_first := distributed.is_first()):
        path = None
    if path:
        model.note(f"appending samples to {path}")
    seed = agreement.from_first(lambda: _seed(arguments.seed))
    if config.temperature:  # at 0 all seeds give the same text
        model.note(f"seed {seed}: --seed {seed} repeats this")

    def show(text: str) -> None:
        if not is_first:
            return
        print(text, end="", flush=True)
        if not path:
            require_output()

    if arguments.interactive:
        ask = interactive.line_reader()
        talk = interactive.Interactive(model.session, config, seed, show=show, note=model.note)
        model.note(
            "type a message; /help shows the commands" if model.template else "type text; /help shows the commands"
        )
        talk.run(lambda mark: completion.typed(ask(mark)))
    elif lines is not None:
        _complete_lines(model, config, lines, seed=seed, with_logprobs=arguments.logprobs, path=path, show=show)
    else:
        session = model.session(config, seed)
        replies = _best(model, session, prompt, seed) if config.best_of else session.replies(prompt)
        shown = f"{prompt}\n" if model.template else prompt
        completion.write_samples(shown, replies, path=path, show=show)


def _prompts(arguments: argparse.Namespace) -> list[prompt_files.Prompt] | None:
    """The prompts of --predict_lines or of a .jsonl; None for other commands."""
    if arguments.predict_lines is not None:
        return prompt_files.read(arguments.predict_lines, is_json=False)
    if arguments.predict_file is not None and arguments.predict_file.lower().endswith(prompt_files.SUFFIX):
        return prompt_files.read(arguments.predict_file, is_json=True)
    return None


def scored(model: Model, config: PredictionConfig, seed: int) -> prompt_files.Generate:
    settings = config.settings
    return partial(model.sampler.generate, settings=settings, length=config.length, seed=seed, with_logprobs=True)


def _best(model: Model, session: ChatSession | Completer, prompt: str, seed: int) -> Any:
    """The continuations of one prompt, each the best of `best_of`."""
    count = session.config.model_copy(update={"num_samples": session.config.samples})
    (samples,) = prompt_files.complete(
        [session.encode(prompt)], model.tokenizer, scored(model, session.config, seed), count
    )
    return (sample.text for sample in samples)


def _complete_lines(
    model: Model,
    config: PredictionConfig,
    prompts: list[prompt_files.Prompt],
    *,
    seed: int,
    with_logprobs: bool,
    path: str | None,
    show: Callable[[str], None],
) -> None:
    """Writes one JSON line per prompt to stdout and to `path`."""
    session = model.session(config, seed)
    tokens = [session.encode(prompt.text) for prompt in prompts]
    results = prompt_files.complete(tokens, model.tokenizer, scored(model, config, seed), session.config)
    for prompt, samples in zip(prompts, results, strict=True):
        line = prompt_files.output_line(prompt, samples, with_logprobs=with_logprobs)
        if path:
            storage.append(path, line)
        show(line)


def _seed(given: int | None) -> int:
    """The seed of --seed, or a random one."""
    seed = secrets.randbelow(2**31) if given is None else given
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"--seed {seed}: write a number from 0 to {MAX_SEED:,}")
    return seed


def load(setup: Setup) -> Model:
    """The newest checkpoint with its vocabulary and template."""
    note = partial(print, file=sys.stderr) if distributed.is_first() else lambda line: None
    estimator = setup.estimator()
    estimator.require_checkpoint()
    model = without_sampler(setup, note)
    sampler = estimator.predictor(**model.sampler_options())
    note(sampler.note)
    setup.note_other_function(note)
    setup.note_system_message(note)
    return model._replace(sampler=sampler)


def without_sampler(setup: Setup, note: Callable[[str], None]) -> Model:
    """The run's vocabulary and, for input chat, its template. Raises UserError without a vocabulary."""
    setup.note_own_vocabulary(note)
    tokenizer = tokenizers.load(setup.vocabulary())
    run_dir.check_vocabulary(setup.folder, tokenizer.digest)
    completion.require_known_ids(setup.prediction, tokenizer)
    template = Template(tokenizer, source=setup.folder) if setup.data.input == "chat" else None
    if not template:
        tokenizer = special_text.reading(tokenizer, setup.data.special or ())
    return Model(None, tokenizer, template, setup.model_config.n_ctx // 4, note)
