"""Checkpoints: snapshots that training may overwrite, and checksums that do not depend on how they are computed."""

import contextlib
import errno
import os
import signal
import sys
import threading
from concurrent.futures import wait
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from estimator.errors import CHECKPOINT_READER, UserError
from estimator.training import abandoned, checkpoint_reader, checkpoints
from estimator.training.checkpoint_reader import restore
from estimator.training.checkpoints import Checkpoints


def bits(shape, dtype):
    size = int(np.prod(shape)) * jnp.dtype(dtype).itemsize
    drawn = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    return jnp.asarray(drawn.view(jnp.dtype(dtype)).reshape(shape))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
@pytest.mark.parametrize("shape", [(), (7,), (16, 3, 5)])
def test_checksums_on_the_host_are_those_of_the_devices(shape, dtype):
    tree = {"x": bits(shape, dtype)}
    expected = np.asarray(checkpoints._checksums_on_devices(tree)["x"])
    assert np.array_equal(checkpoints._checksum_here(tree["x"]), expected)
    if shape and shape[0] % len(jax.devices()) == 0:
        mesh = jax.make_mesh((len(jax.devices()),), ("data",))
        divided = jax.device_put(tree["x"], NamedSharding(mesh, PartitionSpec("data")))
        assert np.array_equal(checkpoints._checksum_here(divided), expected)


def test_what_is_saved_stays_as_it_was_while_training_overwrites_it(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    placed = NamedSharding(mesh, PartitionSpec())
    x = jax.device_put(jnp.zeros((512, 1024)), placed)
    with closing(Checkpoints(tmp_path, writer=True)) as written:
        for number in range(1, 4):
            x = step(x)
            written.save(number, {"params": {"x": x}})
            for _ in range(5):
                x = step(x)
        written.wait()
        template = {"params": {"x": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed)}}
        for number, value in ((1, 1.0), (2, 7.0), (3, 13.0)):
            read = restore(written, template, step=number)["params"]["x"]
            assert np.all(np.asarray(read) == value)


def placed(values):
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    return jax.device_put(jnp.asarray(values), NamedSharding(mesh, PartitionSpec()))


def template(x):
    return {"params": {"x": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)}}


def saved(folder, *steps):
    """Saves a checkpoint per step, whose array x is filled with the step number."""
    with closing(Checkpoints(folder, writer=True, keep_last=2)) as written:
        for step in steps:
            written.save(step, {"params": {"x": placed(np.full(5, step, np.float32))}})
    return placed(np.zeros(5, np.float32))


@pytest.mark.parametrize("name", ["lr[0.1]", "runs\\a", "project [old]/run", "a\nb", "a\udce4b"])
def test_what_is_written_to_a_path_of_any_name_can_be_read(tmp_path, name):
    folder = tmp_path / name / "checkpoints"
    x = saved(folder, 7)
    assert [path.name for path in folder.iterdir()] == ["7"]
    with closing(Checkpoints(folder)) as read:
        assert np.all(np.asarray(restore(read, template(x))["params"]["x"]) == 7)


def test_a_checkpoint_without_its_manifest_is_noticed_when_it_is_written_and_when_it_is_read(tmp_path, monkeypatch):
    x = saved(tmp_path, 7, 8)
    (tmp_path / "8" / "state" / "manifest.ocdbt").unlink()
    with closing(Checkpoints(tmp_path)) as read, pytest.raises(UserError, match=r"manifest.ocdbt is missing") as told:
        restore(read, template(x))
    assert "continue from step 7" in str(told.value)
    assert "remove" not in str(told.value)
    monkeypatch.setattr(checkpoints, "REQUIRED_FILES", ("state/nothing_of_this_name",))
    written = Checkpoints(tmp_path, writer=True)
    written.save(9, {"params": {"x": x}})
    with pytest.raises(UserError, match="was written without state/nothing_of_this_name"):
        written.close()


@pytest.mark.parametrize(
    "description",
    [
        '{"perfor}ance_metrics": {}, "custom_metadata": {"format": 1}}',
        "[]",
        "3",
        '{"metrics": 3}',
        '{"commit_timestamp_nsecs": "x"}',
        '{"commit_timestamp_nsecs": 999999999999999999999999999999}',
        '{"performance_metrics": {"x": 1.0}}',
        '{"x": ' + "[" * 100_000,
    ],
)
def test_a_checkpoint_whose_description_is_damaged_is_named_with_the_fix(tmp_path, description):
    """Orbax's own error would name none, and end every program that opens the folder."""
    x = saved(tmp_path, 7, 8)
    whole = (tmp_path / "8" / "_CHECKPOINT_METADATA").read_bytes()
    with closing(Checkpoints(tmp_path)) as read:
        (tmp_path / "8" / "_CHECKPOINT_METADATA").write_text(description)
        with pytest.raises(UserError, match=r"/8 could not be read: its description.*damaged \(.*from step 7"):
            Checkpoints(tmp_path)
        with contextlib.suppress(UserError):  # a reader that has it open may do without
            assert np.all(np.asarray(restore(read, template(x))["params"]["x"]) == 8)
    (tmp_path / "7" / "_CHECKPOINT_METADATA").write_text("no JSON, without which Orbax does")
    with pytest.raises(UserError, match=r"/8 could not be read.*from step 7"):
        Checkpoints(tmp_path)
    (tmp_path / "8" / "_CHECKPOINT_METADATA").write_bytes(whole)
    with closing(Checkpoints(tmp_path)) as read:
        assert np.all(np.asarray(restore(read, template(x))["params"]["x"]) == 8)


@pytest.mark.parametrize(
    ("pattern", "content", "fault"),
    [
        ("_METADATA", b"{", "state/_METADATA is damaged: not a JSON object"),
        ("_METADATA", b'{"a": 1}', "its arrays cannot be listed: one of state/manifest.ocdbt"),
        ("_sharding", b"3", "state/_sharding is damaged: not a JSON object"),
        ("_sharding", b'{"eA==": "{XX"}', "state/_sharding is damaged: a value in it is not JSON"),
        ("array_metadatas/process_0", b"", "state/array_metadatas/process_0 is damaged: not a JSON object"),
        ("array_metadatas/process_0", b"null", "state/array_metadatas/process_0 is damaged: not a JSON object"),
        ("manifest.ocdbt", b"x", "its arrays cannot be listed: one of state/manifest.ocdbt"),
        ("d/*", b"x", "its arrays cannot be listed: one of state/manifest.ocdbt"),
    ],
)
def test_a_damaged_file_of_a_checkpoint_is_named(tmp_path, pattern, content, fault):
    x = saved(tmp_path, 7, 8)
    (path,) = (tmp_path / "8" / "state").glob(pattern)
    path.write_bytes(content)
    with closing(Checkpoints(tmp_path)) as read, pytest.raises(UserError) as told:
        restore(read, template(x))
    assert f"/8 could not be read: {fault}" in str(told.value)
    assert "continue from step 7" in str(told.value)
    assert "NoneType" not in str(told.value)


def test_an_interrupt_while_a_checkpoint_is_read_is_an_interrupt(tmp_path, monkeypatch):
    x = saved(tmp_path, 7)
    with closing(Checkpoints(tmp_path)) as read:

        def interrupted(*_):
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as error:
                raise RuntimeError("a thread of Orbax ended") from error

        monkeypatch.setattr(read.checkpointer, "load", interrupted)
        with pytest.raises(KeyboardInterrupt):
            restore(read, template(x))


def test_an_interrupt_that_the_library_swallows_is_no_damage(tmp_path, monkeypatch):
    x = saved(tmp_path, 7)
    handler = signal.getsignal(signal.SIGINT)
    with closing(Checkpoints(tmp_path)) as read:

        def swallowed(*_):
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(read.checkpointer, "load", swallowed)  # returns None, so reading the state fails
        with pytest.raises(KeyboardInterrupt):
            restore(read, template(x))
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("how", ["TensorStore", "Orbax"])
def test_a_disk_that_fails_while_a_checkpoint_is_read_is_no_damage(tmp_path, monkeypatch, how):
    x = saved(tmp_path, 7)
    fails = iter([True, False, True, True])
    with closing(Checkpoints(tmp_path)) as read:
        load = read.checkpointer.load

        def failing(*arguments):
            if not next(fails):
                return load(*arguments)
            if how == "Orbax":  # which takes a description that it cannot read for an empty one
                raise TypeError("'NoneType' object is not subscriptable")
            raise ValueError("UNKNOWN: Error opening \"zarr3\" driver: [source locations=a.cc:1] [os_error_code='5']")

        def no_read(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

        monkeypatch.setattr(read.checkpointer, "load", failing)
        assert np.all(np.asarray(restore(read, template(x))["params"]["x"]) == 7)  # the second time
        if how == "Orbax":
            monkeypatch.setattr(checkpoint_reader.Path, "read_bytes", no_read)
        with pytest.raises(UserError, match=r"could not be read: Input/output error; .*run the same command") as told:
            restore(read, template(x))
    assert "out of the run" not in str(told.value)


def test_a_reader_takes_the_newest_checkpoint_when_the_one_it_had_found_is_gone(tmp_path):
    x = saved(tmp_path, 7)
    with closing(Checkpoints(tmp_path)) as read:
        saved(tmp_path, 8, 9)
        assert not (tmp_path / "7").exists()
        assert np.all(np.asarray(restore(read, template(x))["params"]["x"]) == 9)


def test_a_failed_save_is_raised_without_waiting_for_the_next(tmp_path, monkeypatch):
    written = Checkpoints(tmp_path, writer=True)
    written.raise_failure()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(written, "_write", full)
    written.save(1, {"params": {"x": placed([1.0])}})
    wait([written._pending])
    with pytest.raises(UserError, match="No space left on device"):
        written.raise_failure()
    written.close()


def test_a_write_that_waits_for_a_time_before_the_clock_was_set_back_is_given_up(tmp_path, monkeypatch):
    may_end = threading.Event()
    monkeypatch.setattr(abandoned, "SLOW_SECONDS", 0.1)
    written = Checkpoints(tmp_path, writer=True)
    monkeypatch.setattr(written, "_write", lambda *_: may_end.wait())
    written.save(1, {"params": {"x": placed([1.0])}})
    threading.Timer(0.5, may_end.set).start()  # a slow disk
    written.wait()
    may_end.clear()
    written.save(2, {"params": {"x": placed([1.0])}})
    monkeypatch.setattr(abandoned, "_STARTED", abandoned._STARTED + 3600)
    try:
        with pytest.raises(UserError, match=r"the system's clock was set back by 3,600 s, .* run the same command"):
            written.wait()
        written.close()
    finally:
        may_end.set()


def test_a_read_that_waits_for_a_time_before_the_clock_was_set_back_is_given_up(tmp_path, monkeypatch):
    may_end, restore = threading.Event(), checkpoint_reader._restore
    state = {"params": {"x": placed([1.0])}}
    written = Checkpoints(tmp_path, writer=True)
    written.save(1, state)
    written.wait()
    monkeypatch.setattr(abandoned, "SLOW_SECONDS", 0.1)
    monkeypatch.setattr(checkpoint_reader, "_restore", lambda *of, **at: restore(*of, **at) if may_end.wait() else None)
    threading.Timer(0.5, may_end.set).start()  # a slow disk
    assert checkpoint_reader.restore(written, state)["params"]["x"].tolist() == [1.0]
    may_end.clear()
    monkeypatch.setattr(abandoned, "_STARTED", abandoned._STARTED + 3600)
    try:
        with pytest.raises(UserError, match=r"set back by 3,600 s, .* being read does not end; run the same command"):
            checkpoint_reader.restore(written, state)
        written.close()
    finally:
        may_end.set()
        for thread in threading.enumerate():
            if thread.name == CHECKPOINT_READER:
                thread.join()


def test_nothing_is_written_into_a_folder_that_is_another_one_now(tmp_path):
    def replaced():
        raise UserError("the folder was replaced")

    written = Checkpoints(tmp_path, writer=True, guard=replaced)
    with pytest.raises(UserError, match="was replaced"):
        written.save(1, {"params": {"x": placed([1.0])}})
    written.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_failed_read_abandons_is_not_printed_when_it_is_collected(tmp_path, monkeypatch):
    """Orbax's coroutines may outlive the read, which has raised its error."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(str(unraisable.exc_value)))
    program = "async def read():\n try:\n  await forever\n finally:\n  raise ValueError(__name__)\n"

    class Forever:
        def __await__(self):
            yield

    saved(tmp_path, 7)
    for name, file in (("theirs", "site-packages/orbax/checkpoint/serialization.py"), ("ours", "ours.py")):
        names = {"forever": Forever(), "__name__": name}
        exec(compile(program, file, "exec"), names)
        coroutine = names["read"]()
        coroutine.send(None)
        with closing(Checkpoints(tmp_path)):  # which silences Orbax
            del coroutine
    assert told == ["ours"]


@pytest.mark.parametrize("name", ["a*", "a?b", "lr[1]", "a\\b"])
def test_names_that_are_patterns_are_refused_in_buckets_and_linked_here(name, tmp_path, monkeypatch):
    """In a bucket, removing an old checkpoint would remove those of each run that the pattern matches."""
    monkeypatch.setattr(checkpoints.backends, "prepare", lambda path: None)
    with pytest.raises(UserError, match=r"or removed; choose another name"):
        Checkpoints(f"gs://bucket/{name}/checkpoints")
    other = tmp_path / "aXb" / "checkpoints"
    saved(other, 1)
    saved(tmp_path / name / "checkpoints", *range(1, 9))
    assert [path.name for path in other.iterdir() if path.name.isdigit()] == ["1"]
    with closing(Checkpoints(tmp_path / name / "checkpoints")) as read:
        assert read.latest_step == 8
