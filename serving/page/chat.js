
// A conversation.
const conversation = []; // {role, content}, as they are sent
let forgotten = 0; // of its messages, those that no longer fit into the context

// The events of an answer; the oldest messages are left out until the others fit.
async function* fitting(body, system, signal) {
  for (;;) {
    try {
      yield* events("v1/chat/completions", { ...body, messages: [...system, ...conversation.slice(forgotten)] }, signal);
      return;
    } catch (error) {
      if (error.code !== "context_length_exceeded" || conversation.length - forgotten < 3) throw error;
      forgotten += 2;
    }
  }
}

function bubble(role, content = "") {
  const made = element("div", content, `text ${role}`);
  made.setAttribute("aria-label", role === "user" ? "You" : "The model");
  $("messages").append(made);
  $("messages").scrollTop = $("messages").scrollHeight;
  return made;
}

function answer() {
  run("chat", async (signal) => {
    const content = $("sampling").elements.system.value, system = content ? [{ role: "system", content }] : [];
    const { max_tokens, ...settings } = sampling();
    const body = { ...settings, ...($("sampling").elements.max_tokens.value && { max_tokens }), logprobs: true, top_logprobs: 5 };
    const made = bubble("assistant"), tokens = new TokenText(made), offsets = new Offsets();
    made.tabIndex = 0;
    made.classList.add("writing");
    let reason = null;
    try {
      for await (const event of fitting(body, system, signal)) {
        const choice = event.choices[0], list = $("messages");
        if (!choice) continue;
        const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
        tokens.add(choice.delta.content ?? "", (choice.logprobs?.content ?? []).map((token) => (
          { ...offsets.place(token), top: token.top_logprobs.map((each) => [each.token, each.logprob]) })));
        reason = choice.finish_reason ?? reason;
        if (atEnd) list.scrollTop = list.scrollHeight; // else the reader has scrolled back
        $("chat-status").textContent = "Writing … (Esc stops)";
      }
    } finally {
      made.classList.remove("writing");
      if (tokens.text) conversation.push({ role: "assistant", content: tokens.text });
      else made.remove();
      $("chat-again").disabled = !conversation.length;
    }
    refreshModels();
    const notes = [reason === "length" && "The answer reached its length.", forgotten && "The beginning of the chat no longer fits and was left out."];
    return notes.filter(Boolean).join(" ");
  });
}

function say() {
  const content = $("say").value.trim();
  if (!content || $("chat-go").disabled) return;
  if (conversation.at(-1)?.role === "user") { conversation.pop(); $("messages").lastChild.remove(); } // was not answered
  conversation.push({ role: "user", content });
  bubble("user", content);
  $("say").value = "";
  $("chat-clear").disabled = false;
  answer();
}

$("chat-go").onclick = say;
$("say").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!event.ctrlKey && !event.metaKey) say(); // with them, the page's own shortcut does it
};
$("chat-again").onclick = () => {
  if ($("chat-go").disabled) return;
  if (conversation.at(-1)?.role === "assistant") { conversation.pop(); $("messages").lastChild.remove(); }
  answer();
};
$("chat-clear").onclick = () => {
  $("chat-stop").onclick?.();
  conversation.length = forgotten = 0;
  $("messages").replaceChildren();
  $("chat-clear").disabled = $("chat-again").disabled = true;
  $("say").focus();
};
