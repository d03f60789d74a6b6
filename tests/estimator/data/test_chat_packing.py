"""Chat packing: isolated conversations, no lost tokens, loss only on replies, and random access to any step."""

import numpy as np
import pytest

from estimator.data.batches import Batches
from estimator.data.chat_packing import ChatTokens, ChatWindows, best_fit, cut
from estimator.data.token_stream import Documents
from estimator.errors import UserError
from estimator.shards.tfrecord import ShardWriter, open_shard

IDS = ChatTokens(end_of_text=0, system=1, user=2, assistant=3, end=4)
S, U, A, E = IDS[1:]
PINNED = [480, 100]


def turn(role: int, length: int, value: int) -> list[int]:
    """Returns a message of `length` tokens, including its header and end token."""
    return [role, *[value] * (length - 2), E]


def conversation(*lengths: int, head: int = 0, value: int = 10) -> list[int]:
    """Returns a conversation of alternating user and assistant messages."""
    turns = [turn(S, head, value)] if head else []
    turns += [turn(A if i % 2 else U, length, value + i) for i, length in enumerate(lengths)]
    return [token for each in turns for token in each]


def documents(folder, conversations) -> Documents:
    path = folder / "chat_0.tfrecords"
    with ShardWriter(path, tokenizer=None) as writer:
        for number, ids in enumerate(conversations):
            writer.write(b"%d" % number, np.array(ids, np.int32))
    return Documents([open_shard(path)])


@pytest.fixture
def many(tmp_path):
    """Returns sixty conversations with distinct token values."""
    random = np.random.default_rng(0)
    chats = [conversation(*random.integers(3, 12, 2 * random.integers(1, 4)), value=10 * n) for n in range(1, 61)]
    return documents(tmp_path, chats), chats


def windows(of, *, n_ctx=63, loss="replies", seed=5) -> ChatWindows:
    return ChatWindows(of, n_ctx=n_ctx, tokens=IDS, loss=loss, seed=seed)


def segments_of(batch):
    """Yields the (tokens, target weights) pair of each segment in all rows, except for padding."""
    for tokens, segments, weights in zip(batch["tokens"], batch["segments"], batch["weights"], strict=True):
        weights = np.insert(weights, 0, 0)
        for number in range(1, segments.max() + 1):
            inside = segments == number
            if (tokens[inside] != IDS.end_of_text).any():
                yield tokens[inside].tolist(), weights[inside].tolist()


def expected_weights(ids: list[int], loss: str) -> list[float]:
    """Computes the expected weights with a state machine over the tokens."""
    weights, inside = [], False
    for token in ids:
        weights.append(float(loss == "all" or inside))
        inside = token == A or (inside and token != E)
    return weights


@pytest.mark.parametrize("loss", ["replies", "all"])
@pytest.mark.parametrize("epoch", [0, 3])
def test_every_conversation_is_in_an_epoch_once_and_whole_and_learnt_as_it_should(many, loss, epoch):
    source = windows(many[0], loss=loss)
    batch = source.batch(range(epoch * len(source), (epoch + 1) * len(source)))
    assert batch["tokens"].shape == batch["segments"].shape == (len(source), 64)
    assert batch["tokens"].dtype == batch["segments"].dtype == np.int32
    assert batch["weights"].shape == (len(source), 63)
    assert (np.diff(batch["segments"], axis=1) >= 0).all()
    found = sorted(segments_of(batch))
    assert found == sorted(([0, *ids], [0.0, *expected_weights(ids, loss)]) for ids in many[1])
    assert batch["weights"].sum() == sum(sum(weights) for _, weights in found)  # padding has no weight


def test_epochs_are_shuffled_and_evaluation_is_not(many):
    source = windows(many[0])
    first, second = (source.batch(range(e * len(source), (e + 1) * len(source)))["tokens"] for e in range(2))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, windows(many[0], seed=6).batch(range(len(source)))["tokens"])
    fixed = windows(many[0], seed=None)
    np.testing.assert_array_equal(fixed[0], fixed[len(fixed)])


def test_any_step_is_the_same_on_any_number_of_hosts_and_in_any_order(many):
    whole = Batches(windows(many[0]), batch_size=4)
    for step in (1000, 0, 7):
        parts = [Batches(windows(many[0]), batch_size=4, host_index=i, host_count=2)(step) for i in range(2)]
        for name, rows in whole(step).items():
            np.testing.assert_array_equal(rows, np.concatenate([part[name] for part in parts]))


def test_the_order_never_changes(many):
    """A change of these numbers breaks the resuming of existing runs, so it has to be announced."""
    batch = windows(many[0]).batch([0, 100])
    assert batch["tokens"][:, 2].tolist() == PINNED


def test_packing_leaves_little_room_and_says_how_much(many):
    source = windows(many[0])
    tokens = sum(len(ids) + 1 for ids in many[1])
    share = 1 - tokens / (64 * len(source))
    assert len(source) <= 1.1 * tokens / 64 + 1
    assert source.notes == [f"packing: 60 conversations in {len(source)} windows, {share:.1%} padding"]


def test_best_fit_takes_the_fullest_bin_with_room():
    assert best_fit(np.array([6, 5, 4, 3, 2]), capacity=10).tolist() == [0, 1, 0, 1, 1]
    lengths = -np.sort(-np.random.default_rng(0).integers(1, 101, 2000))
    bins = best_fit(lengths, capacity=100)
    filled = np.bincount(bins, weights=lengths)
    assert filled.max() <= 100
    assert len(filled) <= 1.02 * lengths.sum() / 100 + 1


def pieces(ids: list[int], room: int) -> list[list[int]]:
    found = cut(np.array(ids), room=room, tokens=IDS)
    return [[token for start, stop in part for token in ids[start:stop]] for part in found]


def test_long_conversations_are_cut_between_exchanges_with_the_head_kept():
    ids = conversation(4, 6, 5, 5, 3, 7, head=4)
    head, exchanges = ids[:4], [ids[4:14], ids[14:24], ids[24:34]]
    assert pieces(ids, 24) == [head + exchanges[0] + exchanges[1], head + exchanges[2]]
    assert pieces(ids, 14) == [head + each for each in exchanges]
    long = conversation(4, 6, 5, 5, head=12)
    assert pieces(long, 20) == [long[12:32]]  # a head longer than half of the limit is dropped


def test_several_messages_of_a_side_stay_together():
    ids = [*turn(U, 3, 5), *turn(U, 3, 6), *turn(A, 4, 7), *turn(A, 4, 8), *turn(U, 4, 9), *turn(A, 4, 10)]
    assert pieces(ids, 15) == [ids[:14], ids[14:]]
    opened = [*turn(A, 4, 5), *turn(U, 4, 6), *turn(A, 4, 7)]
    assert pieces(opened, 8) == [opened[:4], opened[4:]]


def test_of_an_exchange_that_is_too_long_the_end_of_the_question_and_the_start_of_the_reply_stay():
    question = conversation(30, 6)
    assert pieces(question, 20) == [[U, *question[17:30], *question[30:]]]
    reply = conversation(6, 30)
    assert pieces(reply, 20) == [reply[:20]]
    both = conversation(30, 30)
    assert pieces(both, 20) == [[U, *both[21:30], *both[30:40]]]
    for length in range(3, 40):
        ids = conversation(length, 40 - length, 8, head=3)
        for room in range(8, 44):
            parts = pieces(ids, room)
            assert parts
            assert all(len(part) <= room and A in part for part in parts)


def test_what_cutting_leaves_out_is_told(tmp_path):
    long = conversation(30, 6, 4, 4, head=3)
    source = windows(documents(tmp_path, [conversation(4, 4), long]), n_ctx=23)
    assert source.notes[0].startswith("packing: 3 conversations in ")
    assert source.notes[0].endswith("1 longer than n_ctx are cut, and 16 tokens of them left out")


def test_text_without_replies_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no conversation with a reply.*encode\.py --chat"):
        windows(documents(tmp_path, [[10, 11, 12], turn(U, 5, 10)]))
