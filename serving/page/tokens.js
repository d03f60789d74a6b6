
// Tokens with their probabilities: shaded texts, and what hovering, tapping or the arrow keys show of them.
const BYTES = /^bytes:((?:\\x[0-9a-f]{2})+)$/;
const percent = (p) => (p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : p >= 0.001 ? `${(100 * p).toPrecision(2)} %` : p.toExponential(1));
const visible = (token) => token.replace(/^bytes:/, "").replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";

function element(name, content = "", className = "") {
  const made = document.createElement(name);
  made.append(...[content].flat());
  made.className = className;
  return made;
}

// A text that grows: characters and tokens {token, logprob, top: [[token, logprob], ...], offset} are given as they come.
class TokenText {
  constructor(parent) {
    this.parent = parent;
    this.characters = [];
    this.groups = []; // tokens that share their first character
    parent.replaceChildren();
    parent.tokenText = this;
  }

  get text() { return this.characters.join(""); }
  get count() { return this.groups.reduce((sum, group) => sum + group.tokens.length, 0); }

  add(text, tokens) {
    this.characters.push(...text);
    let first = Math.max(0, this.groups.length - 1);
    if (!tokens) { this.parent.append(text); return; }
    for (const token of tokens) {
      let group = this.groups.at(-1);
      if (group?.offset !== token.offset) {
        group = { offset: token.offset, tokens: [], span: element("span", "", "t") };
        group.span.group = group;
        this.groups.push(group);
        this.parent.append(group.span);
      }
      group.tokens.push(token);
      const surprise = -group.tokens.reduce((sum, each) => sum + (each.logprob ?? 0), 0); // nats
      group.span.style.setProperty("--surprise", Math.min(surprise / 8, 1).toFixed(3));
    }
    for (; first < this.groups.length; first++) {
      const end = this.groups[first + 1]?.offset ?? Infinity;
      this.groups[first].span.textContent = this.characters.slice(this.groups[first].offset, end).join("");
    }
  }
}

// Offsets of tokens that come without: by their texts, or the bytes of unfinished characters.
class Offsets {
  constructor() { this.decoder = new TextDecoder("utf-8", { ignoreBOM: true }); this.characters = 0; }
  place(token) {
    const hex = BYTES.exec(token.token)?.[1];
    const bytes = hex ? Uint8Array.from(hex.match(/[0-9a-f]{2}/g), (pair) => parseInt(pair, 16)) : new TextEncoder().encode(token.token);
    const cutOff = bytes.length && (bytes[0] & 0xc0) !== 0x80 ? this.decoder.decode() : ""; // of the tokens before
    const text = this.decoder.decode(bytes, { stream: true });
    const offset = this.characters + [...cutOff].length;
    this.characters = offset + [...text].length;
    return { ...token, offset, text: cutOff + text };
  }
}

function tipOf(group) {
  const parts = [];
  for (const { token, logprob, top } of group.tokens) {
    const p = logprob === null ? "first token" : `${percent(Math.exp(logprob))} (log ${logprob.toFixed(2)})`;
    parts.push(element("p", [element("code", visible(token)), ` ${p}`]));
    if (!top?.length) continue;
    const rows = top.map(([name, value]) => {
      const bar = element("meter");
      bar.value = Math.exp(value);
      return element("tr", [element("td", element("code", visible(name))), element("td", percent(Math.exp(value)), "number"), element("td", bar)]);
    });
    parts.push(element("table", rows));
  }
  return parts;
}

let chosen = null;
function choose(span) {
  chosen?.classList.remove("chosen");
  chosen = span;
  $("tip").hidden = !span;
  if (!span) return;
  span.classList.add("chosen");
  $("tip").replaceChildren(...tipOf(span.group));
  const place = span.getClientRects()[0] ?? span.getBoundingClientRect(), tip = $("tip").getBoundingClientRect();
  const below = place.bottom + 6 + tip.height < innerHeight;
  $("tip").style.left = `${Math.max(6, Math.min(place.left, innerWidth - tip.width - 6))}px`;
  $("tip").style.top = `${below ? place.bottom + 6 : Math.max(6, place.top - tip.height - 6)}px`;
}

addEventListener("pointerover", (event) => {
  if (event.pointerType === "mouse") choose(event.target.closest?.(".t") ?? null);
});
addEventListener("click", (event) => choose(event.target.closest(".t")));
addEventListener("scroll", () => choose(null), true);
addEventListener("keydown", (event) => {
  const text = document.activeElement?.tokenText;
  if (!text?.groups.length || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
  const step = event.key === "ArrowRight" ? 1 : -1;
  const now = text.groups.indexOf(chosen?.group);
  choose(text.groups[Math.max(0, Math.min(now + step, text.groups.length - 1))].span);
  event.preventDefault();
});
