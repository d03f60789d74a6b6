
// The probability of a text, by token and by word.
let scored = null;

function scoreText() {
  if ($("score-go").disabled) return;
  run("score", async (signal) => {
    scored = null;
    for (const button of document.querySelectorAll(".csv")) button.disabled = true;
    const result = await ask("score", { model: $("model").value, text: $("score-text").value, top: 5 }, signal);
    const offsets = new Offsets(), text = new TokenText($("score-result"));
    const placed = result.tokens.map((token) => ({ ...offsets.place(token), top: token.top.map((each) => [each.token, each.logprob]) }));
    text.add(placed.map((token) => token.text).join(""), placed);
    $("score-result").hidden = $("score-sums").hidden = false;
    const sums = { Tokens: result.tokens.length, Perplexity: result.perplexity.toPrecision(4), "Bits per byte": result.bits_per_byte?.toFixed(3) ?? "none", "Log-probability": result.logprob.toFixed(2) };
    $("score-sums").replaceChildren(...Object.entries(sums).map(([name, value]) => element("div", [element("dt", name), element("dd", value)])));
    scored = result;
    for (const button of document.querySelectorAll(".csv")) button.disabled = false;
    refreshModels();
    return "Point at a token or tap it; with the keyboard, use ← and →.";
  });
}

const COLUMNS = { tokens: ["token", "id", "logprob", "probability"], words: ["word", "tokens", "logprob"] };

function csv(kind) {
  const quoted = (value) => (/[",\r\n]|^\s|\s$/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
  const rows = scored[kind].map((row, i) => [i, ...COLUMNS[kind].map((name) => quoted(row[name]))].join(","));
  return [["index", ...COLUMNS[kind]].join(","), ...rows, ""].join("\r\n");
}

for (const button of document.querySelectorAll(".csv")) {
  button.onclick = () => {
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([csv(button.dataset.rows)], { type: "text/csv;charset=utf-8" }));
    link.download = `${button.dataset.rows}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  };
}
$("score-go").onclick = scoreText;
$("score-file").onchange = async (event) => {
  const [file] = event.target.files;
  if (file) $("score-text").value = await file.text();
  event.target.value = "";
};
