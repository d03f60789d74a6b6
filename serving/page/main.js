
// Models, views, keys, and what is remembered.
const tabs = [...document.querySelectorAll("[role=tab]")];
const GO = { write, chat: say, next: nextTokens, score: scoreText };
let models = [];
let isFresh = !GO[location.hash.slice(1)];  // no view was asked for, and nothing was done yet
let again;  // the next look at models that are loading

async function refreshModels() {
  try {
    models = (await ask("v1/models")).data;
  } catch (error) {
    show(error.message);
    if (error.status === 401) openKey();
    return;
  }
  const wanted = $("model").value || stored(localStorage, "model", "");
  $("model").replaceChildren(...models.map((model) => {
    const step = Number.isInteger(model.step) ? `, step ${model.step}` : "";
    const option = element("option", `${model.id}${model.state ? ` (${model.state}${step})` : ""}`);
    option.value = model.id;
    option.title = model.error ?? "";
    return option;
  }));
  if (models.some((model) => model.id === wanted)) $("model").value = wanted;
  const model = describeModel();
  if (isFresh && model?.chat_format === "template") open("chat");
  clearTimeout(again);
  if (models.some((each) => each.state === "loading")) again = setTimeout(refreshModels, 1000);
}

function describeModel() {
  const model = models.find((each) => each.id === $("model").value);
  store(localStorage, "model", $("model").value);
  $("chat-note").hidden = model?.chat_format !== "transcript";
  if (model?.error) show(`${model.id}: ${model.error}`);
  return model;
}

function open(view) {
  for (const tab of tabs) {
    const isOpen = tab.id === `tab-${view}`;
    tab.setAttribute("aria-selected", isOpen);
    tab.tabIndex = isOpen ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !isOpen;
  }
  choose(null);
  document.body.classList.toggle("wide-view", view === "next" || view === "score");
  history.replaceState(null, "", `#${view}`);
}

const opened = () => tabs.find((tab) => tab.getAttribute("aria-selected") === "true").getAttribute("aria-controls");

for (const tab of tabs) {
  tab.onclick = () => open(tab.getAttribute("aria-controls"));
  tab.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  };
}

function openKey() {
  if ($("key-dialog").open) return;
  $("key").value = apiKey;
  $("key-dialog").showModal();
}

$("open-key").onclick = openKey;
$("key-dialog").onclose = () => {
  if ($("key-dialog").returnValue !== "save") return;
  apiKey = $("key").value.trim();
  store(sessionStorage, "key", apiKey);
  show("");
  refreshModels();
};
$("model").onchange = describeModel;

const THEMES = ["auto", "light", "dark"];
function paint(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = { auto: "Auto", light: "Light", dark: "Dark" }[theme];
  $("theme").title = `Color scheme: ${theme}`;
  store(localStorage, "theme", theme);
}
$("theme").onclick = () => paint(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % 3]);

function toggleSettings(isOpen) {
  document.body.classList.toggle("settings-open", isOpen);
  $("open-settings").setAttribute("aria-expanded", isOpen);
  if (isOpen) $("close-settings").focus();
}
$("open-settings").onclick = () => toggleSettings(!document.body.classList.contains("settings-open"));
$("close-settings").onclick = () => { toggleSettings(false); $("open-settings").focus(); };

addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) GO[opened()]();
  if (event.key !== "Escape" || $("key-dialog").open) return;
  choose(null);
  if (document.body.classList.contains("settings-open")) toggleSettings(false);
  else $(`${opened()}-stop`)?.onclick?.();
});

// Fields come back after a reload, but for the key with the tab.
const FIELDS = [...$("sampling").elements, $("prompt"), $("samples"), $("next-text"), $("score-text"), $("show-probabilities")].filter((field) => field.name || field.id);
const values = stored(localStorage, "fields", {});
for (const field of FIELDS) {
  const name = field.name || field.id, kind = field.type === "checkbox" ? "checked" : "value";
  if (name in values) field[kind] = values[name];
  field.addEventListener("input", () => { values[name] = field[kind]; store(localStorage, "fields", values); });
}
$("sampling").onreset = () => {
  for (const field of $("sampling").elements) delete values[field.name];
  store(localStorage, "fields", values);
};
$("sampling").onsubmit = (event) => event.preventDefault();

for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, () => { isFresh = false; });
paint(stored(localStorage, "theme", "auto"));
$("show-probabilities").onchange();
$("score-result").classList.add("shaded");
open(GO[location.hash.slice(1)] ? location.hash.slice(1) : "write");
refreshModels();
