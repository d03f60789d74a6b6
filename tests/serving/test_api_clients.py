"""Third-party client programs run against the server, each in a separate environment (see .ci/run)."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

pytest.importorskip("fastapi", reason="no fastapi; pip install -r requirements-serve.txt")

from helpers.client_programs import CLIENTS, python, run
from helpers.serving import CountingEngine, Models, loaded, serving

SCRIPT = ROOT / "tests" / "helpers" / "api_clients.py"
CHAT = ";<="  # the reply to "Assistant:"


def script(client: str, address: str, folder: Path, package: str) -> dict:
    out = run(python(package), str(SCRIPT), client, address, folder=folder)
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def address():
    with serving(Models(a=loaded("a"), b="b.json: no such file")) as client:
        yield client.address


def test_the_official_client_for_python(address, tmp_path):
    answer = script("openai", address, tmp_path, "openai")
    assert answer["models"] == ["a", "b"]
    assert answer["model"] == "a"
    assert answer["texts"] == ["abc", "abc", "fgh", "fgh"]
    assert answer["logprobs"]["tokens"] == ["a", "b", "c"]
    assert answer["logprobs"]["token_logprobs"][0] is None
    assert answer["stream"] == "bcd"
    assert answer["reasons"][-1] == "length"
    assert set(answer["reasons"][:-1]) == {None}
    assert answer["usage"] == 3
    assert answer["chat"] == answer["chat_stream"] == CHAT
    assert answer["chat_logprobs"] == 3
    assert answer["together"] == [chr(98 + i) + chr(99 + i) for i in range(10)]
    assert answer["ids"] == "g"
    assert answer["no_model"][:2] == ["model_not_found", "model"]
    assert answer["too_long"][0] == "context_length_exceeded"
    assert "64" in answer["too_long"][2]
    assert "/v1/responses is no route" in answer["no_route"][2]
    assert "b.json: no such file" in answer["not_loaded"][2]


def test_litellm(address, tmp_path):
    answer = script("litellm", address, tmp_path, "litellm")
    assert answer == {"text": "bcd", "stream": "bcd", "chat": CHAT, "chat_stream": CHAT, "reason": "length"}


def test_langchain(address, tmp_path):
    answer = script("langchain", address, tmp_path, "langchain-openai")
    assert answer == {
        "chat": CHAT, "chat_stream": CHAT, "batch": ["bcd", "ghi"], "several": [["bcd"] * 2, ["ghi"] * 2],
        "stream": "bcd",
    }  # fmt: skip


def test_llm(address, tmp_path):
    program = [python("llm"), "-m", "llm"]
    models = [
        {"model_id": "text", "model_name": "a", "api_base": f"{address}/v1", "completion": True},
        {"model_id": "chat", "model_name": "a", "api_base": f"{address}/v1"},
    ]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))
    for model, options, expected in (("text", [], "bcd"), ("chat", ["--no-stream"], CHAT)):
        command = [*program, "-m", model, "-o", "max_tokens", "3", *options, "a"]
        assert run(*command, folder=tmp_path, LLM_USER_PATH=str(tmp_path)).strip() == expected


NODE = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "hi" }];
let stream = "", reasons = [];
for await (const chunk of await client.completions.create({ model: "a", prompt: "a", max_tokens: 3, stream: true })) {
  stream += chunk.choices[0].text;
  reasons.push(chunk.choices[0].finish_reason);
}
let chat = "";
for await (const chunk of await client.chat.completions.create({ model: "a", messages, max_tokens: 3, stream: true }))
  chat += chunk.choices[0].delta.content ?? "";
const whole = await client.chat.completions.create({ model: "a", messages, max_tokens: 3, n: 2 });
let code = null;
try { await client.completions.create({ model: "gpt-4", prompt: "a" }); } catch (error) { code = error.code; }
console.log(JSON.stringify({ stream, reason: reasons.at(-1), chat,
  choices: whole.choices.map((choice) => choice.message.content), usage: whole.usage.total_tokens, code }));
"""


def test_the_official_client_for_javascript(address, tmp_path):
    if not shutil.which("node") or not (CLIENTS / "node_modules" / "openai").is_dir():
        pytest.skip(f"no node, or no openai in {CLIENTS}/node_modules; .ci/run installs it where npm is")
    (tmp_path / "node_modules").symlink_to(CLIENTS / "node_modules")
    (tmp_path / "client.mjs").write_text(NODE)
    answer = json.loads(run("node", "client.mjs", address, folder=tmp_path))
    assert answer["stream"] == "bcd"
    assert answer["reason"] == "length"
    assert answer["chat"] == CHAT
    assert answer["choices"] == [CHAT, CHAT]
    assert answer["code"] == "model_not_found"


TASK = """task: own_chat
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {max_gen_toks: 3, until: ["\\n\\n"], temperature: 0}
metric_list: [{metric: exact_match}]
"""


def test_lm_evaluation_harness_asks_in_chats(address, tmp_path):
    interpreter = python("lm_eval")
    questions = [{"question": question, "answer": answer} for question, answer in (("One?", CHAT), ("Two?", "no"))]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    (tmp_path / "own_chat.yaml").write_text(TASK.replace("DATA", str(tmp_path / "data.jsonl")))
    run(
        interpreter, "-m", "lm_eval", "run", "--model", "local-chat-completions", "--model_args",
        f"model=a,base_url={address}/v1/chat/completions,num_concurrent=1", "--tasks", "own_chat", "--include_path",
        str(tmp_path), "--output_path", str(tmp_path / "out"), "--log_samples", "--apply_chat_template",
        folder=tmp_path,
    )  # fmt: skip
    (path,) = (tmp_path / "out").rglob("samples_*.jsonl")
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    assert [sample["resps"] for sample in samples] == [[[CHAT]], [[CHAT]]]
    assert [sample["exact_match"] for sample in samples] == [1, 0]


def test_schemathesis_finds_no_server_error(tmp_path):
    interpreter = python("schemathesis")
    with serving(Models(a=loaded("a", CountingEngine(n_ctx=32))), max_tokens=32) as client:
        run(
            interpreter, "-m", "schemathesis.cli", "run", f"{client.address}/openapi.json",
            "--checks", "not_a_server_error", "--max-examples", "10", "--seed", "1", "--no-color", "--phases",
            "examples,coverage,fuzzing", folder=tmp_path,
        )  # fmt: skip
        assert client.get("/health").status_code == 200
        statuses = {labels[1] for labels in client.server.metrics.requests._metrics}
        assert {"200", "400", "404"} <= statuses
        assert not [status for status in statuses if status.startswith("5")]
