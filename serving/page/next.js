
// The table of next tokens; choosing one adds it to the text.
const undo = [];

function nextTokens() {
  if ($("next-go").disabled) return;
  run("next", async (signal) => {
    const { next } = await ask("next", { model: $("model").value, text: $("next-text").value, top: 20 }, signal);
    const rows = next.map(({ id, token, logprob, probability }) => {
      const button = element("button", element("code", visible(token)));
      button.disabled = BYTES.test(token); // part of a character: no text yet
      button.onclick = () => addToken(token);
      const bar = element("meter");
      bar.value = probability;
      const share = element("div", [bar, element("span", percent(probability))], "cell");
      return element("tr", [element("td", button), element("td", share), element("td", logprob.toFixed(3), "number"), element("td", id, "number")]);
    });
    const hadFocus = $("next-table").contains(document.activeElement);
    $("next-table").tBodies[0].replaceChildren(...rows);
    $("next-table").hidden = false;
    if (hadFocus) rows[0]?.querySelector("button").focus();
    refreshModels();
    const sum = next.reduce((total, each) => total + each.probability, 0);
    return `The ${next.length} likeliest have ${percent(sum)} together. Choose one to add it.`;
  });
}

function addToken(token) {
  undo.push($("next-text").value);
  $("next-text").value += token;
  $("next-undo").disabled = false;
  nextTokens();
}

$("next-go").onclick = nextTokens;
$("next-undo").onclick = () => {
  $("next-text").value = undo.pop();
  $("next-undo").disabled = !undo.length;
  nextTokens();
};
