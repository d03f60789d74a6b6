"""Serving: an engine that many clients share (`engine`), and its requests and answers (`request`).

The contract of the engine, which knows token ids only, no text and no HTTP:

    engine = Engine(estimator.predictor(n_known=tokenizer.n_vocab), EngineConfig(slots=16))
    engine.warm()                                       # optional: compiles ahead
    handle = engine.submit(prompt_ids, SamplingParams(max_tokens=64, seed=7), owner="key 1")
    for event in handle:                                # from any thread: PromptScore, TokenEvent ..., Finish
        ...
    handle.cancel()                                     # from any thread, at any time, as often as one likes
    engine.close(drain=True, timeout=30)

Events of a request: a `PromptScore` first, if `prompt_logprobs` is set; a `TokenEvent` for every new token, the one
that ends the answer included; a `Finish` last, always and exactly once. For asyncio, pass a callback, which the
engine's thread calls with each event in place of the handle's queue:

    queue = asyncio.Queue()
    engine.submit(ids, params, on_event=partial(loop.call_soon_threadsafe, queue.put_nowait))

An engine has `n_ctx`, `n_vocab` (ids below it are known), `nbytes` (weights, keys and values), `stats()`, and `error`,
a sentence once the device has failed, None before. `submit(..., timeout=s)` shortens the time limit of one request.
A prompt may have 1 to n_ctx tokens. Positions end at n_ctx: as in main.py, the last tokens of a prompt that leaves no
room for max_tokens are used (unless it is to be scored), and a full context continues from its last half.

`submit` raises `RequestError` (the request is wrong: 400; `param` names the field), `QueueFull` (429, with
`retry_after` in seconds) or `EngineClosed` (503). A request's tokens depend on its prompt, parameters, seed and
sample_index only, not on load.
"""
