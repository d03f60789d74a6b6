"""Data progress of runs whose batch size changes: each window is used once, in order, despite kills and resumes."""

import json
import random

import pytest

from estimator.errors import UserError
from estimator.training import progress

DATA = {"windows_per_epoch": 100, "data_seed": 0}


def spans(folder, step: int, batch: int, *, data=DATA, old=None):
    found = progress.resume(folder, step, batch_size=batch, tokens_per_window=16, data=data, old=old or {})
    progress.write(folder, found)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_every_window_is_seen_once_in_order_whatever_the_batches_and_the_kills(tmp_path, seed):
    draw, seen, step = random.Random(seed), [], 0  # seen[i]: windows of step i
    for _ in range(12):
        step = draw.randint(max(0, step - 3), step)  # the newest checkpoint of a killed run
        del seen[step:]
        batch = draw.choice([1, 3, 8])
        span = spans(tmp_path, step, batch)[-1]
        for _ in range(draw.randint(0, 6)):
            first = span.window_at(step)
            seen.append(list(range(first, first + batch)))
            step += 1
            assert span.tokens_at(step) == 16 * sum(map(len, seen))
        assert [window for windows in seen for window in windows] == list(range(sum(map(len, seen))))


def test_a_run_from_before_the_file_has_the_batch_of_its_config(tmp_path):
    span = spans(tmp_path, 10, 4, old={"train_batch_size": 8, "n_ctx": 16})[-1]
    assert (span.window_at(10), span.tokens_at(10), span.window_at(11)) == (80, 1280, 84)


def test_other_data_begin_with_their_first_window_and_tokens_go_on(tmp_path):
    spans(tmp_path, 0, 8)
    span = spans(tmp_path, 5, 8, data=DATA | {"data_seed": 1})[-1]
    assert (span.window_at(5), span.window_at(6), span.tokens_at(6)) == (0, 8, 6 * 8 * 16)
    assert spans(tmp_path, 6, 8, data=DATA | {"data_seed": 1})[-1] == span


def test_the_end_counts_what_was_really_trained_on(tmp_path):
    spans(tmp_path, 0, 8)
    span = spans(tmp_path, 10, 2)[-1]
    limits = {"max_steps": None, "max_tokens": None, "max_windows": None}
    assert span.total_steps(**limits | {"max_tokens": 100 * 16}) == 10 + 10
    assert span.total_steps(**limits | {"max_windows": 2 * 100.0}) == 10 + 60
    assert span.total_steps(**limits | {"max_steps": 12, "max_tokens": 10**9}) == 12
    assert span.total_steps(**limits | {"max_tokens": 160}) == 1


def test_a_damaged_file_is_an_error(tmp_path):
    for text in ("", "[]", json.dumps({"spans": [{"step": 1}]})):
        (tmp_path / progress.FILE_NAME).write_text(text)
        with pytest.raises(UserError, match="is damaged"):
            spans(tmp_path, 0, 8)


def test_other_documents_under_the_same_settings_begin_with_their_first_window(tmp_path):
    spans(tmp_path, 0, 8, data=DATA | {"content": "a"})
    assert spans(tmp_path, 5, 8, data=DATA | {"content": "a"})[-1].window_at(5) == 40
    assert spans(tmp_path, 5, 8, data=DATA | {"content": "b"})[-1].window_at(5) == 0


def test_runs_that_recorded_fewer_settings_continue_in_their_order(tmp_path):
    spans(tmp_path, 0, 8)
    assert spans(tmp_path, 5, 8, data=DATA | {"content": "a"})[-1].window_at(5) == 40
    assert spans(tmp_path, 6, 8, data=DATA | {"content": "b"})[-1].window_at(6) == 0


def test_other_text_to_evaluate_on_leaves_the_order_and_another_order_begins_anew(tmp_path):
    spans(tmp_path, 0, 8, data=DATA | {"content": "a"})  # as an earlier version recorded it
    now = DATA | {"content": "a", "order": "c"}
    for step, data, window in (
        (5, now, 40),
        (6, now, 48),
        (7, now | {"content": "b"}, 56),
        (8, now | {"order": "d"}, 0),
        (9, now | {"order": "d", "content": "b"}, 8),
    ):
        assert progress.is_other_order(progress.span_of(tmp_path, step + 1), data) == (window == 0)
        assert spans(tmp_path, step, 8, data=data)[-1].window_at(step) == window
    (tmp_path / "old").mkdir()
    spans(tmp_path / "old", 0, 8, data=DATA | {"content": "a"})
    assert spans(tmp_path / "old", 5, 8, data=now | {"content": "b"})[-1].window_at(5) == 0


def test_a_changed_digit_is_an_error(tmp_path):
    spans(tmp_path, 0, 8)
    path = tmp_path / progress.FILE_NAME
    path.write_text(path.read_text().replace('"windows": 0', '"windows": 4'))
    with pytest.raises(UserError, match="is damaged"):
        spans(tmp_path, 1, 8)


def test_starts_that_trained_no_step_leave_the_run_its_place(tmp_path):
    """Whatever they named: other data, then more of them, then other batches of the run's own."""
    spans(tmp_path, 0, 8)
    for data, batch, window in (
        ({"data_seed": 1}, 8, 0),
        ({"data_seed": 2}, 8, 0),
        ({}, 2, 40),
        ({"data_seed": 1}, 8, 0),
    ):
        assert spans(tmp_path, 5, batch, data=DATA | data)[-1].window_at(5) == window
    span = spans(tmp_path, 5, 8)[-1]
    assert (span.window_at(5), span.tokens_at(5), span.first_window) == (40, 5 * 8 * 16, 0)
    assert span.total_steps(max_steps=None, max_tokens=None, max_windows=200) == 25
    # Not those of other data that the run has trained on since.
    spans(tmp_path, 5, 8, data=DATA | {"data_seed": 1})
    assert spans(tmp_path, 6, 8)[-1].window_at(6) == 0


def test_a_start_says_where_it_continues_in_other_data(tmp_path):
    def said(step: int, data: dict) -> str:
        found = progress.resume(tmp_path, step, batch_size=8, tokens_per_window=16, data=DATA | data, old={})
        line = progress.change_of_order(tmp_path, found, step)
        progress.write(tmp_path, found)
        return line

    assert said(0, {}) == said(5, {}) == ""
    assert said(5, {"data_seed": 1}) == "the data or their order: training continues with the first window"
    assert said(5, {"data_seed": 1}) == ""
    assert "continues with the window after the last that they were trained on" in said(5, {})
