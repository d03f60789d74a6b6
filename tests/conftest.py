"""Shared fixtures. Importing this module gives JAX eight fake CPU devices."""

import os
import shutil
import signal
import sys
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Background jobs of a shell ignore Ctrl-C, and their child processes inherit this: restore the default handler.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Must be set before JAX is imported. Sharding tests use all eight devices, all other tests use the first one.
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests spend more time compiling than computing, so disable LLVM optimizations.
QUICK_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {QUICK_COMPILE} {os.environ.get('XLA_FLAGS', '')}"

# Recorded runs of ConnorJL/GPT2; see tests/golden/README.md.
GOLDEN = Path(os.environ.get("GPT2_GOLDEN", ROOT / "tests" / "golden"))
# Third-party files that are not part of this repository: GPT-2's vocabulary (gpt2_encoder/encoder.json and
# vocab.bpe) and texts encoded with it.
FIXTURES = Path(os.environ.get("GPT2_FIXTURES", ROOT.parent / "shared" / "fixtures"))


# `pytest -m fast` runs these files, at least one per directory, in under two minutes on two cores.
FAST = {
    "test_inputs.py",
    "test_layers.py",
    "test_formats.py",
    "test_properties.py",
    "test_suite.py",
    "crawler/test_charsets.py",
    "faults/test_faults.py",
    "crawler/test_extraction.py",
    "crawler/test_pages.py",
    "datasets/test_train_tokenizer.py",
    "datasets/openwebtext/test_openwebtext.py",
    "estimator/test_config.py",
    "estimator/aot/test_tpu_programs.py",
    "estimator/corpus/test_chat_files.py",
    "estimator/corpus/test_documents.py",
    "estimator/corpus/test_readers.py",
    "estimator/corpus/build/test_worker_pool.py",
    "estimator/data/test_chat_packing.py",
    "estimator/data/test_splits.py",
    "estimator/evaluation/test_tasks.py",
    "estimator/plots/test_runs.py",
    "estimator/search/test_sweep.py",
    "estimator/generation/test_chat_session.py",
    "estimator/interop/test_hub.py",
    "estimator/interop/test_tf_checkpoint.py",
    "estimator/launch/test_launch.py",
    "estimator/launch/gcp/test_rest.py",
    "estimator/parallel/test_device_check.py",
    "estimator/shards/test_numpy_shards.py",
    "estimator/shards/test_tfrecord.py",
    "estimator/storage/test_files.py",
    "estimator/storage/test_user_paths.py",
    "estimator/system/test_compile_cache.py",
    "estimator/tokenization/test_tokenizer.py",
    "estimator/tokenization/test_wordpiece.py",
    "estimator/training/test_metrics_log.py",
    "estimator/training/test_progress.py",
    "estimator/training/test_run_dir.py",
    "models/test_another_model.py",
    "models/gpt2/test_golden.py",
    "models/gpt2/test_ops.py",
    "models/gpt2/attention/test_flash_tpu.py",
    "models/gpt2/convert/test_wrapped_weights.py",
    "models/gpt2/decode/test_quantized.py",
    "serving/test_registry.py",
}


# The programs of these files are compiled without MLIR's fusion emitters, three times faster. They compare tokens, or
# numbers within tolerances. Other files compare bits, which then depend on how many steps a program has, and NaNs of
# bfloat16, which change. jaxlib 0.12 does not have the option.
WITHOUT_FUSION_EMITTERS = {
    "test_optimizers.py",
    "estimator/data/test_segment_ids.py",
    "estimator/test_training.py",
    "estimator/parallel/test_mesh.py",
    "models/test_another_model.py",
    "models/gpt2/test_activations.py",
    "models/gpt2/test_cpu_kernels.py",
    "models/gpt2/test_golden.py",
    "models/gpt2/test_lora.py",
    "models/gpt2/test_model.py",
    "models/gpt2/test_model_choices.py",
    "models/gpt2/attention/test_blockwise.py",
    "models/gpt2/attention/test_flash_tpu.py",
    "models/gpt2/convert/test_export.py",
    "models/gpt2/convert/test_init_from.py",
    "models/gpt2/decode/test_quantized.py",
    "models/gpt2/decode/test_sampler.py",
    "serving/test_engine.py",
    "serving/test_engine_devices.py",
}


def pytest_configure(config: pytest.Config) -> None:
    """Shares compiled programs, and Python's bytecode, among all pytest workers and their subprocesses."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # only in the process that starts the workers
        folder = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="gpt2-tests-compiled-")
        config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(ROOT / "tests").as_posix() in FAST and not item.get_closest_marker("slow"):
            item.add_marker("fast")


@pytest.fixture(scope="module", autouse=True)
def _fusion_emitters(request: pytest.FixtureRequest):
    """Compiles the programs of some files without MLIR's fusion emitters, and keeps none of them for other files."""
    name = request.path.relative_to(ROOT / "tests").as_posix()
    if name not in WITHOUT_FUSION_EMITTERS or not version("jaxlib").startswith("0.10."):
        yield
        return
    import jax
    from jax._src import compiler

    of = compiler.get_compile_options

    def options(*arguments, env_options_overrides=None, **keywords):
        overrides = {"xla_cpu_use_fusion_emitters": False} | (env_options_overrides or {})
        return of(*arguments, env_options_overrides=overrides, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", options)
        jax.clear_caches()
        yield
        jax.clear_caches()


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Returns the directory of third-party files; skips the test if it does not exist, as in a fresh clone."""
    if not FIXTURES.is_dir():
        pytest.skip("needs GPT-2's vocabulary or files made with it; set GPT2_FIXTURES to their folder")
    return FIXTURES


@pytest.fixture(scope="session")
def gpt2_encoder(fixtures: Path) -> Path:
    return fixtures / "gpt2_encoder"


def one_device() -> list:
    """Returns a list with the first of the fake devices."""
    import jax

    return jax.devices()[:1]


@pytest.fixture(scope="session")
def google_storage():
    """Starts one service for the whole session: TensorStore and gcsfs keep the first endpoint that they are given."""
    pytest.importorskip("gcsfs", reason="no gcsfs; pip install -r requirements-gcs.txt")
    pytest.importorskip("gcp_storage_emulator", reason="no emulator; pip install -r requirements-dev.txt")
    from helpers import storage_server

    with storage_server.serve() as service:
        yield service


@pytest.fixture
def bucket(google_storage, monkeypatch):
    """Provides an empty local gs://bucket, and the faults that its server can inject; see storage_server.py."""
    from helpers import storage_server

    yield from _served(monkeypatch, google_storage, storage_server.environment(google_storage.address))


@pytest.fixture(scope="session")
def s3_storage():
    pytest.importorskip("s3fs", reason="no s3fs; pip install -r requirements-s3.txt")
    pytest.importorskip("moto.server", reason="no moto; pip install -r requirements-dev.txt")
    from helpers import storage_server

    with storage_server.serve_s3() as service:
        yield service


@pytest.fixture
def s3_bucket(s3_storage, monkeypatch):
    """Provides an empty local s3://bucket with the same faults."""
    from helpers import storage_server

    yield from _served(monkeypatch, s3_storage, storage_server.s3_environment(s3_storage.address))


@pytest.fixture
def google(monkeypatch, tmp_path):
    """Provides a fake Google Cloud (google_cloud.py) and a user with an SSH key and a project."""
    pytest.importorskip("google.auth", reason="no google-auth; pip install -r requirements-gcs.txt")
    from helpers import google_cloud

    monkeypatch.setenv("GPT2_CLUSTER", str(tmp_path / "cluster"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "me")
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519.pub").write_text("ssh-ed25519 AAAA me@here\n")
    for name in ("CLOUDSDK_CONFIG", "CLOUDSDK_ACTIVE_CONFIG_NAME", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CORE_PROJECT", google_cloud.PROJECT)
    monkeypatch.setenv("CLOUDSDK_COMPUTE_ZONE", google_cloud.ZONE)
    with google_cloud.serve() as (cloud, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield cloud


def _served(monkeypatch, service, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    service.empty()
    yield service.faults
    service.faults.clear()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Returns a directory of short documents for runs of main.py."""
    from helpers.main_runs import write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus"))
