
// Continuations of a text, several side by side.
const REASONS = { stop: "ended", length: "length reached" };

function column(index, many) {
  const note = element("span", "waiting …"), text = element("div", "", "text writing");
  text.tabIndex = 0;
  text.setAttribute("aria-label", `Sample ${index + 1}`);
  const copy = element("button", "Copy", "plain"), use = element("button", "Continue this", "plain");
  const card = element("article", [element("h3", [many ? `Sample ${index + 1}` : "Sample", note]), text, element("footer", [copy, use])], "card");
  const made = { card, note, text, tokens: new TokenText(text), tokenCount: 0 };
  copy.onclick = () => { // without https a page may only select
    if (navigator.clipboard) navigator.clipboard.writeText(made.tokens.text);
    else getSelection().selectAllChildren(text);
  };
  use.onclick = () => {
    $("prompt").value = made.prompt + made.tokens.text;
    $("prompt").dispatchEvent(new Event("input"));
    $("prompt").focus();
  };
  return made;
}

function write() {
  if ($("write-go").disabled) return;
  run("write", async (signal) => {
    const prompt = $("prompt").value, n = Math.min(16, Math.max(1, Number($("samples").value) || 1));
    const body = { ...sampling(), prompt, n, logprobs: $("show-probabilities").checked ? 5 : undefined };
    const columns = Array.from({ length: n }, (_, index) => column(index, n > 1));
    $("results").replaceChildren(...columns.map((each) => each.card));
    const base = [...prompt].length, began = performance.now();
    let first = 0, chunks = 0;
    try {
      for await (const event of events("v1/completions", { ...body, stream_options: { include_usage: true } }, signal)) {
        if (event.usage) chunks = event.usage.completion_tokens;
        for (const choice of event.choices) {
          const { tokens, note, text } = columns[choice.index];
          columns[choice.index].prompt = prompt;
          first ||= performance.now();
          tokens.add(choice.text, choice.logprobs && tokensOf(choice.logprobs, base));
          note.textContent = choice.finish_reason ? REASONS[choice.finish_reason] ?? choice.finish_reason : "writing …";
          if (choice.finish_reason) text.classList.remove("writing");
        }
        $("write-status").textContent = "Writing … (Esc stops)";
      }
    } finally {
      for (const each of columns) {
        if (each.text.classList.contains("writing")) each.note.textContent = "stopped";
        each.text.classList.remove("writing");
        each.prompt ??= prompt;
      }
    }
    refreshModels();
    const seconds = (performance.now() - began) / 1000;
    return `${chunks} tokens in ${seconds.toFixed(1)} s, the first after ${((first - began) / 1000).toFixed(2)} s`;
  });
}

// Tokens of a completion's "logprobs", placed from the beginning of its text.
function tokensOf(logprobs, base) {
  return logprobs.tokens.map((token, i) => ({
    token, logprob: logprobs.token_logprobs[i], offset: logprobs.text_offset[i] - base,
    top: Object.entries(logprobs.top_logprobs?.[i] ?? {}).sort((a, b) => b[1] - a[1]),
  }));
}

$("write-go").onclick = write;
$("show-probabilities").onchange = () => $("results").classList.toggle("shaded", $("show-probabilities").checked);
