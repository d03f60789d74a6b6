
// The server's routes. Addresses are relative, so that the page works below any path of a proxy.
const $ = (id) => document.getElementById(id);
const stored = (storage, name, fallback) => { try { return JSON.parse(storage.getItem(name)) ?? fallback; } catch { return fallback; } };
const store = (storage, name, value) => { try { storage.setItem(name, JSON.stringify(value)); } catch { /* private window */ } };

let apiKey = stored(sessionStorage, "key", "");

class ServerError extends Error {
  constructor(status, message, code) { super(message); Object.assign(this, { status, code }); }
}

// Sends a body (or without one, a GET); the response, if it is a success.
async function request(path, body, signal) {
  const headers = { ...(apiKey && { authorization: `Bearer ${apiKey}` }), ...(body && { "content-type": "application/json" }) };
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server does not answer.");
  }
  if (response.ok) return response;
  const text = await response.text();
  let error = {};
  try { error = JSON.parse(text).error ?? error; } catch { /* of a proxy */ }
  const message = error.message ?? `The server answered ${response.status}.`, wait = response.headers.get("retry-after");
  throw new ServerError(response.status, message + (wait ? ` Try again in ${wait} s.` : ""), error.code);
}

const ask = async (path, body, signal) => (await request(path, body, signal)).json();

// The objects of a stream of server-sent events.
async function* events(path, body, signal) {
  const response = await request(path, { ...body, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ServerError(0, "The connection ended before the answer did.");
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ServerError(0, event.error.message ?? String(event.error));
      yield event;
    }
  }
}

function show(message) {
  $("message").textContent = message;
  $("message").hidden = !message;
}

// Runs one task of a view: its button becomes a stop button, its errors a message.
async function run(view, work) {
  const [go, stop, status] = ["go", "stop", "status"].map((part) => $(`${view}-${part}`));
  const control = new AbortController();
  show("");
  go.disabled = true;
  if (stop) { stop.hidden = false; stop.onclick = () => control.abort(); }
  status.textContent = "Waiting …";
  try {
    const text = await work(control.signal);
    status.textContent = text ?? "";
  } catch (error) {
    status.textContent = error.name === "AbortError" ? "Stopped." : "";
    if (error.name !== "AbortError") {
      if (!(error instanceof ServerError)) console.error(error);
      show(error.message);
      if (error.status === 401) openKey();
    }
  } finally {
    go.disabled = false;
    if (stop) stop.hidden = true;
  }
}

// The settings that were filled in, by their names in requests.
function sampling() {
  const settings = {};
  for (const input of $("sampling").querySelectorAll("input")) {
    if (input.value !== "" && !input.validity.valid) throw new Error(`${input.closest("label").innerText.trim()}: ${input.validationMessage}`);
    if (input.value !== "") settings[input.name] = Number(input.value);
  }
  const stop = $("sampling").elements.stop.value.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));
  return { model: $("model").value, max_tokens: 128, ...settings, ...(stop.length && { stop }) };
}
