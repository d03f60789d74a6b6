"""The web page in a headless browser with the real server, whose model counts upward."""

import csv
import io
import json
import math
import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="no fastapi; pip install -r requirements-serve.txt")
pytest.importorskip("playwright.sync_api", reason="no playwright; pip install -r requirements-dev.txt")

from helpers import serving
from helpers.browsers import chromium
from helpers.chats import TEMPLATE
from helpers.chats import TOKENIZER as CHAT_TOKENIZER
from helpers.serving import TOKENIZER, CountingEngine, Models
from playwright import sync_api as api

from docs import screenshot
from serving import api_keys, page
from serving.text import TextDecoder, token_text

TEXT = " the sea, the \U0001f642 sea"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


def written(prompt, index: int) -> int:
    """Generates TEXT repeatedly, whatever the prompt is."""
    ids = TOKENIZER.encode(TEXT)
    return ids[index % len(ids)]


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server():
    models = {"writer": serving.loaded("writer", CountingEngine(n_ctx=128, answer=written), step=7)}
    models["counter"] = serving.loaded("counter")
    models["slow"] = serving.loaded("slow", CountingEngine(n_ctx=10_000, seconds=0.02, answer=written))
    models["broken"] = "its checkpoint is missing"
    with serving.serving(Models(**models)) as client:
        yield client


def opened(browser, address: str, view: str = "write", **more):
    context = browser.new_context(viewport=more.pop("viewport", DESKTOP), **more)
    view_page = context.new_page()
    view_page.faults = []
    view_page.on("pageerror", lambda error: view_page.faults.append(str(error)))
    view_page.asked = []
    view_page.on("request", lambda request: view_page.asked.append(request.url))
    view_page.goto(f"{address}/#{view}")
    api.expect(view_page.locator("#model option")).not_to_have_count(0)
    return view_page


@pytest.fixture
def tab(browser, server, request):
    """Opens the server's page in the view that the test selects; the page must not raise errors."""
    view_page = opened(browser, server.address, getattr(request, "param", "write"))
    view_page.select_option("#model", "writer")
    yield view_page
    assert view_page.faults == []
    assert {url.split("/")[2] for url in view_page.asked} == {server.address.split("/")[2]}
    view_page.context.close()


def bodies(tab, path: str) -> list[dict]:
    """Records the request bodies that the page sends to a route from now on."""
    sent: list[dict] = []
    tab.on("request", lambda request: sent.append(request.post_data_json) if request.url.endswith(path) else None)
    return sent


def test_the_document_is_whole_and_allows_itself_only():
    document, headers = page.document()
    text = document.decode()
    assert "/*style*/" not in text
    assert "/*script*/" not in text
    assert not re.findall(r"(?:src|href)=\"(?!data:)|url\(|@import|//[a-z]+\.[a-z]", text)
    assert "'unsafe" not in headers["content-security-policy"]


def test_samples_are_written_side_by_side(tab):
    sent = bodies(tab, "/v1/completions")
    tab.fill("#prompt", "Here is")
    tab.fill("#samples", "3")
    tab.fill("[name=max_tokens]", "22")
    tab.fill("[name=temperature]", "0.5")
    tab.fill("[name=seed]", "7")
    tab.fill("[name=stop]", "\\n\\n\nEND")
    tab.press("#prompt", "Control+Enter")
    api.expect(tab.locator("#write-status")).to_contain_text("66 tokens in")
    texts = tab.locator("#results .text")
    whole = TOKENIZER.decode([written((), i) for i in range(22)])
    assert texts.all_inner_texts() == [whole] * 3
    assert len({box["y"] for box in (texts.nth(i).bounding_box() for i in range(3))}) == 1
    [body] = sent
    assert body == {
        "model": "writer", "prompt": "Here is", "n": 3, "logprobs": 5, "max_tokens": 22, "temperature": 0.5, "seed": 7,
        "stop": ["\n\n", "END"], "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    tab.locator("#results button", has_text="Continue").first.click()
    assert tab.input_value("#prompt") == "Here is" + whole


def test_tokens_show_their_probabilities_to_mouse_and_keyboard(tab):
    tab.select_option("#model", "counter")
    tab.fill("#prompt", "a")
    tab.fill("[name=max_tokens]", "4")
    tab.click("#write-go")
    api.expect(tab.locator("#results .text")).to_have_text("bcde")
    wanted = math.exp(CountingEngine().logprobs(0)[1])
    spans, tip = tab.locator("#results .t"), tab.locator("#tip")
    assert spans.all_inner_texts() == ["b", "c", "d", "e"]
    surprise = spans.first.evaluate("span => span.style.getPropertyValue('--surprise')")
    assert float(surprise) == pytest.approx(-math.log(wanted) / 8, abs=1e-3)
    spans.nth(1).hover()
    api.expect(tip.locator("p code")).to_have_text("c")
    api.expect(tip).to_contain_text(f"{100 * wanted:.1f} %")
    assert tip.locator("tr code").all_inner_texts() == ["c", "d", "e", "f", "g"]
    tab.mouse.move(5, 5)
    api.expect(tip).to_be_hidden()
    tab.focus("#results .text")
    for _ in range(3):
        tab.keyboard.press("ArrowRight")
    api.expect(tip.locator("p code")).to_have_text("d")
    tab.keyboard.press("Escape")
    api.expect(tip).to_be_hidden()


def test_the_picture_of_the_docs_can_be_taken_again(tab, tmp_path):
    screenshot.take(tab, tmp_path / "page.png")
    assert tab.locator("#results .text").count() == 3
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_a_character_of_several_tokens_is_one(tab):
    tab.fill("[name=max_tokens]", str(len(TOKENIZER.encode(TEXT))))
    tab.click("#write-go")
    smile = tab.locator("#results .t", has_text="\U0001f642")
    api.expect(smile).to_have_text("\U0001f642")
    smile.hover()
    api.expect(tab.locator("#tip p")).to_have_count(len(TOKENIZER.encode("\U0001f642")))
    assert "".join(tab.locator("#results .t").all_inner_texts()) == TEXT


@pytest.mark.parametrize("tab", ["write", "chat"], indirect=True)
def test_stopping_keeps_the_text_and_frees_the_engine(tab, server):
    view = "chat" if "#chat" in tab.url else "write"
    engine = server.server.loader.load.__self__.models["slow"].engine
    cancelled = engine.cancelled
    tab.select_option("#model", "slow")
    tab.fill("[name=max_tokens]", "5000")
    if view == "chat":
        tab.fill("#say", "Hello")
    tab.keyboard.press("Control+Enter") if view == "write" else tab.press("#say", "Enter")
    text = tab.locator(".writing")
    api.expect(text).to_contain_text("sea")
    tab.keyboard.press("Escape")
    api.expect(tab.locator(f"#{view}-status")).to_have_text("Stopped.")
    api.expect(tab.locator(f"#{view}-go")).to_be_enabled()
    assert "sea" in tab.locator("#results .text, .assistant").inner_text()
    while engine.running:
        tab.wait_for_timeout(10)
    assert engine.cancelled == cancelled + 1


@pytest.mark.parametrize("tab", ["chat"], indirect=True)
def test_a_chat_remembers_and_answers_again(tab):
    sent = bodies(tab, "/v1/chat/completions")
    go, answers = tab.locator("#chat-go"), tab.locator("#messages .assistant")
    tab.fill("[name=max_tokens]", "9")
    tab.fill("[name=system]", "Be brief.")
    for number, words in enumerate(["One", "Two"], 1):
        tab.fill("#say", words)
        tab.press("#say", "Enter")
        api.expect(answers).to_have_count(number)
        api.expect(go).to_be_enabled()
    said = TOKENIZER.decode([written((), i) for i in range(9)])
    assert answers.all_inner_texts() == [said, said]
    roles = [(message["role"], message["content"]) for message in sent[1]["messages"]]
    assert roles == [("system", "Be brief."), ("user", "One"), ("assistant", said), ("user", "Two")]
    tab.click("#chat-again")
    api.expect(go).to_be_enabled()
    assert sent[2]["messages"] == sent[1]["messages"]
    assert answers.count() == 2
    api.expect(tab.locator("#chat-note")).to_be_visible()  # shown for a model without a chat template
    heights = answers.first.evaluate("bubble => [bubble.scrollHeight, bubble.clientHeight]")
    assert heights[0] == heights[1]
    tab.set_viewport_size({"width": 390, "height": 420})
    tab.fill("#say", "long " * 12)
    tab.press("#say", "Enter")
    api.expect(answers).to_have_count(3)
    api.expect(tab.locator("#chat-status")).to_contain_text("was left out")
    place = tab.evaluate("(list => list.scrollHeight - list.scrollTop - list.clientHeight)(messages)")
    assert abs(place) <= 40  # scrolled to the end, up to one line of status text
    contents = [message["content"] for message in sent[-1]["messages"]]
    assert contents[:2] + contents[-1:] == ["Be brief.", "Two", "long " * 11 + "long"]
    tab.click("#chat-clear")
    api.expect(tab.locator("#messages > *")).to_have_count(0)


@pytest.mark.parametrize("tab", ["next"], indirect=True)
def test_next_tokens_are_a_table_to_write_with(tab):
    tab.select_option("#model", "counter")
    tab.fill("#next-text", "a")
    tab.click("#next-go")
    rows = tab.locator("#next-table tbody tr")
    api.expect(rows).to_have_count(20)
    wanted = CountingEngine().logprobs(TOKENIZER.encode("a")[0]).max()
    assert rows.first.locator("td").all_inner_texts()[:3] == ["b", f"{100 * math.exp(wanted):.1f} %", f"{wanted:.3f}"]
    rows.nth(1).locator("button").click()
    api.expect(rows.first.locator("code")).to_have_text("d")
    assert tab.input_value("#next-text") == "ac"
    tab.click("#next-undo")
    api.expect(rows.first.locator("code")).to_have_text("b")
    assert tab.input_value("#next-text") == "a"


@pytest.mark.parametrize("tab", ["score"], indirect=True)
def test_a_score_is_shown_and_downloaded(tab, server):
    text = 'He said "hi", \U0001f642\nthen left'
    tab.fill("#score-text", text)
    tab.click("#score-go")
    api.expect(tab.locator("#score-result")).to_have_text(text)
    truth = server.post("/score", json={"model": "writer", "text": text}).json()
    assert f"{truth['logprob']:.2f}" in tab.inner_text("#score-sums")
    for kind, name in (("tokens", "token"), ("words", "word")):
        with tab.expect_download() as download:
            tab.click(f"[data-rows={kind}]")
        rows = list(csv.DictReader(io.StringIO(download.value.path().read_bytes().decode(), newline="")))
        assert download.value.suggested_filename == f"{kind}.csv"
        assert [row[name] for row in rows] == [row[name] for row in truth[kind]]
        assert [float(row["logprob"]) for row in rows] == [row["logprob"] for row in truth[kind]]


@pytest.mark.parametrize("tab", ["score"], indirect=True)
def test_a_file_is_opened(tab, tmp_path):
    (tmp_path / "a.txt").write_text("from a file", encoding="utf-8")
    tab.set_input_files("#score-file", tmp_path / "a.txt")
    api.expect(tab.locator("#score-text")).to_have_value("from a file")


def test_errors_are_said_and_the_page_works_on(tab):
    tab.select_option("#model", "broken")
    tab.click("#write-go")
    api.expect(tab.locator("#message")).to_contain_text("its checkpoint is missing")
    tab.select_option("#model", "writer")
    tab.fill("[name=top_p]", "7")
    tab.click("#write-go")
    api.expect(tab.locator("#message")).to_contain_text("Top p")
    tab.locator("button[type=reset]").click()
    tab.fill("#prompt", "x" * 200)
    tab.click("#write-go")
    api.expect(tab.locator("#message")).to_contain_text("maximum context length")
    tab.fill("#prompt", "x")
    tab.fill("[name=max_tokens]", "5")
    tab.click("#write-go")
    api.expect(tab.locator("#write-status")).to_contain_text("5 tokens in")
    api.expect(tab.locator("#message")).to_be_hidden()


def test_markup_of_a_model_stays_text(browser):
    markup = "<img src=x onerror=alert(1)>"
    ids = TOKENIZER.encode(markup)
    model = serving.loaded("a", CountingEngine(answer=lambda prompt, i: ids[i % len(ids)]))
    with serving.serving(Models(a=model)) as client:
        tab = opened(browser, client.address)
        tab.fill("[name=max_tokens]", str(len(ids)))
        tab.click("#write-go")
        api.expect(tab.locator("#results .text")).to_have_text(markup)
        assert tab.locator("#results img").count() == 0
        assert tab.faults == []
        tab.context.close()


def test_settings_and_texts_survive_a_reload_and_the_theme_too(tab):
    tab.fill("#prompt", "kept")
    tab.fill("[name=top_k]", "5")
    tab.click("#theme")
    tab.click("#theme")
    tab.reload()
    api.expect(tab.locator("#prompt")).to_have_value("kept")
    api.expect(tab.locator("[name=top_k]")).to_have_value("5")
    api.expect(tab.locator("#model")).to_have_value("writer")
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"


def test_light_and_dark_differ_and_texts_are_legible(browser, server):
    """Checks the contrast according to WCAG 2: 4.5 to 1 for text."""
    colors = """() => ["body", "#write-go", ".status", "[role=tab]"].map((name) => {
      const style = getComputedStyle(document.querySelector(name)); let back = style.backgroundColor;
      for (let e = document.querySelector(name); back === "rgba(0, 0, 0, 0)"; e = e.parentElement)
        back = getComputedStyle(e).backgroundColor;
      return [style.color, back]; })"""
    seen = []
    for scheme in ("light", "dark"):
        tab = opened(browser, server.address, color_scheme=scheme)
        seen.append(tab.evaluate(colors))
        tab.context.close()
    assert seen[0] != seen[1]
    for pair in [*seen[0], *seen[1]]:
        light, dark = sorted((luminance(color) for color in pair), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, pair


def luminance(color: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_phone_shows_all_without_scrolling_sideways(browser, server):
    tab = opened(browser, server.address, viewport=PHONE, has_touch=True, is_mobile=True)
    tab.fill("#samples", "2")
    tab.tap("#open-settings")
    tab.fill("[name=max_tokens]", "9")
    tab.tap("#close-settings")
    tab.tap("#write-go")
    api.expect(tab.locator("#write-status")).to_contain_text("18 tokens in")
    tab.locator("#results .t").first.tap()
    api.expect(tab.locator("#tip")).to_be_visible()
    tab.tap("#tab-next")
    tab.fill("#next-text", "a")
    tab.tap("#next-go")
    shares = tab.locator("#next-table .cell span")
    api.expect(shares).to_have_count(20)
    for i, share in enumerate(("54 %", "0.10 %", "1.0e-4")):
        shares.nth(i).evaluate("(span, share) => span.textContent = share", share)
    assert len({shares.nth(i).bounding_box()["height"] for i in range(3)}) == 1
    for view in ("write", "chat", "next", "score"):
        tab.tap(f"#tab-{view}")
        assert tab.evaluate("document.documentElement.scrollWidth") == PHONE["width"], view
    tab.set_viewport_size({"width": 320, "height": 640})
    assert tab.evaluate("document.documentElement.scrollWidth") == 320
    assert tab.locator("#model").bounding_box()["width"] > 250, "names of models are cut off"
    tab.context.close()


def test_tokens_without_offsets_are_placed_as_the_server_places_them(tab):
    """The U+FFFD of bytes that are cut off is before the token that cuts them off."""
    ids = [*TOKENIZER.encode("aé"), *TOKENIZER.encode("🙂")[:2], *TOKENIZER.encode("b"), *TOKENIZER.encode("🙂")[:3]]
    ids.append(TOKENIZER.end_of_text)
    decoder, begins = TextDecoder(TOKENIZER), []
    for token in ids:
        decoder.push(token)
        begins.append(decoder.begin)
    script = (Path(page.__file__).parent / "tokens.js").read_text(encoding="utf-8")
    place = "const offsets = new Offsets(); return names.map((token) => offsets.place({ token }));"
    placed = tab.evaluate(f"names => {{ {script} {place} }}", [token_text(TOKENIZER, token) for token in ids])
    assert [token["offset"] for token in placed] == begins
    assert "".join(token["text"] for token in placed) == TOKENIZER.decode(ids)


def test_views_are_chosen_by_arrow_keys(tab):
    tab.focus("#tab-write")
    tab.keyboard.press("ArrowRight")
    api.expect(tab.locator("#chat")).to_be_visible()
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("ArrowLeft")
    api.expect(tab.locator("#score")).to_be_visible()
    assert tab.evaluate("document.activeElement.id") == "tab-score"


@pytest.mark.parametrize(("asked", "view"), [("", "chat"), ("#score", "score")])
def test_a_chat_model_opens_with_the_chat_unless_another_view_is_asked_for(asked, view, browser):
    chat = serving.loaded("chat", tokenizer=CHAT_TOKENIZER, template=TEMPLATE)
    with serving.serving(Models(chat=chat, writer=serving.loaded("writer"))) as client:
        assert client.post("/admin/models/chat/load").status_code == 200
        context = browser.new_context()
        tab = context.new_page()
        tab.goto(f"{client.address}/{asked}")
        api.expect(tab.locator("#model option")).to_have_count(2)
        api.expect(tab.locator(f"#{view}")).to_be_visible()
        tab.click("#tab-write")
        tab.select_option("#model", "writer")
        tab.select_option("#model", "chat")
        api.expect(tab.locator("#write")).to_be_visible()
        context.close()


def test_a_model_that_is_loading_is_looked_at_again(browser, server):
    context = browser.new_context()
    tab = context.new_page()
    state = {"state": "loading", "chat_format": None, "step": None}
    model = {"id": "chat", "error": None}
    tab.route("**/v1/models", lambda route: route.fulfill(json={"data": [model | state]}))
    tab.goto(server.address)
    api.expect(tab.locator("#model option")).to_have_text("chat (loading)")
    state |= {"state": "ready", "chat_format": "template", "step": 3}
    api.expect(tab.locator("#model option")).to_have_text("chat (ready, step 3)")
    api.expect(tab.locator("#chat")).to_be_visible()
    context.close()


def test_the_key_is_asked_for_and_sent(browser, tmp_path):
    key = api_keys.add(str(tmp_path / "keys"), "me", is_admin=False)
    with serving.serving(Models(a=serving.loaded("a")), keys=api_keys.read(str(tmp_path / "keys"))) as client:
        answer = client.get("/")
        assert (answer.status_code, answer.headers["www-authenticate"].split()[0]) == (401, "Basic")
        context = browser.new_context(extra_http_headers={}, http_credentials={"username": "", "password": key})
        tab = context.new_page()
        tab.goto(client.address)
        api.expect(tab.locator("#model option")).to_have_count(1)
        tab.click("#open-key")
        tab.fill("#key", "wrong")
        tab.click("#key-dialog .main")
        api.expect(tab.locator("#message")).to_contain_text("not known here")
        api.expect(tab.locator("#key-dialog")).to_be_visible()
        tab.fill("#key", key)
        tab.click("#key-dialog .main")
        api.expect(tab.locator("#message")).to_be_hidden()
        assert json.loads(tab.evaluate("sessionStorage.getItem('key')")) == key
        assert key not in tab.evaluate("JSON.stringify(localStorage)")
        context.close()
