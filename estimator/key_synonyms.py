"""Maps keys of other programs (nanoGPT, Hugging Face, gpt-neo, relatives of ConnorJL/GPT2) to ours."""

import json
from collections.abc import Callable
from typing import Any

SAME = {
    "lr": "learning_rate max_lr peak_lr base_lr",
    "lr_min": "min_lr end_lr final_lr",
    "warmup_steps": "warmup_iters num_warmup_steps lr_warmup_steps",
    "grad_clip": "gradient_clipping max_grad_norm clip_grad gradient_clip_val clip_grad_norm",
    "epsilon": "adam_epsilon ada_epsilon adam_eps eps",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "weight_decay": "wd l2",
    "train_batch_size": "batch_size global_batch_size total_batch_size",
    "micro_batch_size": "per_device_train_batch_size device_batch_size tokens_per_mb_per_replica",
    "eval_batch_size": "per_device_eval_batch_size",
    "n_ctx": "block_size seq_len seq_length sequence_length context_length context_size max_seq_len max_length"
    " n_positions max_position_embeddings",
    "n_vocab": "vocab_size padded_vocab_size",
    "n_embd": "hidden_size d_model embed_dim embedding_size dim emb_dim",
    "n_layer": "num_layers num_hidden_layers n_layers layers depth",
    "n_head": "num_heads num_attention_heads n_heads heads",
    "n_inner": "intermediate_size ffn_dim d_ff ff_dim",
    "max_steps": "max_iters train_iters total_steps num_steps training_steps num_train_steps",
    "max_epochs": "epochs num_epochs num_train_epochs n_epochs",
    "train_steps": "eval_interval eval_every evaluation_steps steps_per_eval",
    "eval_steps": "eval_iters eval_batches num_eval_steps",
    "log_steps": "log_interval logging_steps log_every",
    "sample_steps": "sample_interval sample_every",
    "save_steps": "save_interval checkpoint_interval steps_per_checkpoint save_every save_checkpoints_steps",
    "keep_checkpoints": "save_total_limit max_to_keep keep_last max_checkpoints keep_checkpoint_max",
    "patience": "early_stopping_patience",
    "model_path": "output_dir out_dir save_dir checkpoint_dir run_dir logdir model_dir",
    "data_path": "data_dir train_file dataset_path train_data input_file",
    "encoder_path": "tokenizer tokenizer_path tokenizer_name vocab_path tokenizer_name_or_path",
    "init_from": "model_name_or_path pretrained restore_from init_checkpoint pretrained_model_name_or_path",
    "data_seed": "shuffle_seed",
    "eval_split": "val_split validation_split val_fraction test_size",
    "length": "max_new_tokens max_tokens_to_generate gen_length",
    "num_samples": "nsamples num_return_sequences",
    "predict_batch_size": "sample_batch_size",
    "attn_dropout": "attention_dropout attn_pdrop attention_probs_dropout_prob",
    "res_dropout": "resid_pdrop hidden_dropout hidden_dropout_prob residual_dropout",
    "embed_dropout": "embd_pdrop emb_dropout",
    "text_key": "text_column text_field",
    "activation": "activation_function hidden_act",
}
SYNONYMS = {other: ours for ours, others in SAME.items() for other in others.split()}


def _optimizer(value: Any) -> str:
    near = next((name for name in ("adafactor", "adam", "muon", "sgd") if name in str(value).lower()), None)
    return _write(opt_name=near) if near else "opt_name"


def _schedule(value: Any) -> str:
    if isinstance(value, bool):  # nanoGPT's decay_lr
        return _write(schedule="cosine" if value else "constant")
    return _write(schedule=value) if value in ("cosine", "linear", "constant") else 'schedule, such as "cosine"'


def _mesh(value: Any) -> str:
    sizes = [int(part.split(":")[1]) for part in str(value).replace(" ", "").split(",") if part[-1:].isdigit()]
    axes = dict(zip(("data", "tensor"), sizes, strict=False))
    return _write(mesh=axes) if axes else 'mesh, as {"data": -1, "fsdp": 1, "tensor": 1}'


def _datasets(value: Any) -> str:
    names = [part[0] if isinstance(part, list) and part else part for part in value] if isinstance(value, list) else []
    files = f"; {', '.join(map(str, names))} were names of gpt-neo's own files" if names else ""
    return f'data_path with the files or their folder, or "input": "generic_text" with dataset for weights{files}'


def _remat(value: Any) -> str:
    return _write(remat="full" if value in (True, 1) else "none")


def _precision(value: Any) -> str:
    name = str(value)
    if name == "auto":
        return _write(precision=name)
    return _write(precision="bfloat16" if _is_on(value) or "bf" in name else "float16" if "16" in name else "float32")


def _is_on(value: Any) -> bool:
    """Also in DeepSpeed's spelling, {"enabled": true}."""
    return (value.get("enabled") if isinstance(value, dict) else value) is True


def _trackers(value: Any) -> str:
    named = ["wandb"] if value is True else [name for name in ("wandb", "mlflow", "trackio") if name in str(value)]
    return _write(trackers=named)


_IN_THE_RUN = "nothing: what a run logs is in its folder, model_path"
_BY_STEPS = "nothing: train_steps, save_steps and log_steps count steps"
_CONTINUES = "nothing: the same command continues a run"
_SHARDED = "nothing: what does not fit on one device is sharded; mesh says over which"

CONVERTED: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(("optimizer", "optim", "optimizer_type"), _optimizer),
    "lr_decay": _schedule,
    "decay_lr": _schedule,
    "lr_scheduler_type": _schedule,
    "lr_schedule": _schedule,
    "lr_decay_iters": lambda value: "nothing: schedules end with the run, at max_steps",
    "lr_decay_end": lambda value: "nothing: schedules end with the run, at max_steps",
    "recompute_grad": _remat,
    "gradient_checkpointing": _remat,
    "activation_checkpointing": _remat,
    "mesh_shape": _mesh,
    "layout": lambda value: "nothing: mesh says which axes there are, the rest follows",
    "datasets": _datasets,
    "dropout": lambda value: _write(embed_dropout=value, attn_dropout=value, res_dropout=value),
    **dict.fromkeys(("dtype", "torch_dtype", "mixed_precision", "bf16"), _precision),
    "fp16": lambda value: _write(precision="float16" if _is_on(value) else "float32"),
    "tie_word_embeddings": lambda value: _write(untied_head=value in (False, 0)),
    "gradient_accumulation_steps": lambda value: (
        "train_batch_size, the batch of a step with all its parts; micro_batch_size is what a device computes at a time"
    ),
    "attention_types": lambda value: "nothing: every layer's attention is global, as in GPT-2",
    **dict.fromkeys(("log_path", "log_dir", "logging_dir", "tensorboard_dir"), lambda value: _IN_THE_RUN),
    **dict.fromkeys(("report_to", "wandb_log", "use_wandb"), _trackers),
    **dict.fromkeys(("resume", "resume_from_checkpoint"), lambda value: _CONTINUES),
    **dict.fromkeys(
        ("evaluation_strategy", "eval_strategy", "save_strategy", "logging_strategy"), lambda value: _BY_STEPS
    ),
    "load_best_model_at_end": lambda value: _write(keep_best=value, load_best=value),
    **dict.fromkeys(("deepspeed", "fsdp"), lambda value: _SHARDED),
    "stop_at_token": lambda value: "nothing: samples end at the end of text",
    "compile": lambda value: "nothing: every run is compiled",
    "device": lambda value: "nothing: all devices are used; JAX_PLATFORMS=cpu takes the CPU",
}

NAMES = (*SYNONYMS, *CONVERTED)  # all keys of other programs


def _write(**values: Any) -> str:
    return ", ".join(f'"{key}": {json.dumps(value, default=str)}' for key, value in values.items())


def hint(key: str, value: Any) -> str:
    """Suggests our key for another program's key and value; "" for unknown keys."""
    name = key.strip().lower().replace("-", "_")
    if name in CONVERTED:
        return CONVERTED[name](value)
    if name not in SYNONYMS:
        return ""
    is_plain = isinstance(value, (bool, int, float, str)) and len(str(value)) < 60
    return _write(**{SYNONYMS[name]: value}) if is_plain else SYNONYMS[name]
