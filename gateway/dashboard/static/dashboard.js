"use strict";
// Pages are whole without this file. It keeps an open page up to date, shows times in the reader's zone if asked to,
// and lets charts be pointed at. What it puts on a page comes from the same address, escaped by the server.

const byId = (id) => document.getElementById(id);
const main = byId("main");
const every = 1000 * Number(main.dataset.every);
const SLOWEST_MS = 30000;
let wait = every;
let timer = 0;
let paused = false;
let asking = false;

function remember(name, value) {
  try { localStorage.setItem(name, value); } catch { /* for this page only, then */ }
}
function recalled(name) {
  try { return localStorage.getItem(name); } catch { return null; }
}

// Changes only what differs, so that focus, selection, scrolling and a screen reader's place survive. Children with a
// data-key are found again by it.
function morph(old, fresh) {
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  const keyed = new Map([...old.children].filter((child) => child.dataset.key).map((child) => [child.dataset.key, child]));
  let at = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const key = wanted.dataset?.key;
    const known = key ? keyed.get(key) : at && !at.dataset?.key && at.nodeName === wanted.nodeName ? at : null;
    if (!known) {
      old.insertBefore(document.importNode(wanted, true), at);
      continue;
    }
    if (known === at) at = at.nextSibling;
    else old.insertBefore(known, at);
    if (known.nodeType === Node.ELEMENT_NODE) morph(known, wanted);
    else if (known.data !== wanted.data) known.data = wanted.data;
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

let local = recalled("farthing-zone") === "local";
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "local time";

function showTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    const utc = time.dateTime.replace("T", " ").replace("Z", "");
    const here = `${at.toLocaleDateString("sv-SE")} ${at.toLocaleTimeString("sv-SE")}`;
    time.textContent = local ? here : utc;
    time.title = local ? `${utc} UTC` : `${here} ${zone}`;
  }
}

function say(text, className) {
  const state = byId("state");
  if (state.textContent !== text) state.textContent = text;
  state.className = `state ${className}`;
}

// One loop, however often it is told to hurry: whoever asks while an answer is on its way gets that one.
async function refresh() {
  if (asking) return;
  clearTimeout(timer);
  asking = true;
  if (!document.hidden && !paused) await ask();
  asking = false;
  timer = setTimeout(refresh, wait);
}

async function ask() {
  try {
    const answer = await fetch(location.href, {
      headers: { accept: "text/html" }, signal: AbortSignal.timeout(SLOWEST_MS),
    });
    if (answer.status === 401) return location.reload();
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const body = fresh.getElementById("main");
    if (!answer.ok) throw new Error(body?.querySelector("[role=alert] p")?.textContent ?? `HTTP ${answer.status}`);
    wait = every;
    if (paused) return;
    showTimes(body);
    morph(main, body);
    afterwards();
    say("Live", "live");
  } catch (error) {
    const away = error instanceof TypeError || error.name === "TimeoutError";
    wait = Math.min(2 * wait, SLOWEST_MS);
    if (!paused) say(`${away ? "The gateway does not answer" : error.message}; trying again`, "away");
  }
}

// What the server cannot know: where it is reached, and whether this browser has paused.
function afterwards() {
  const first = byId("first-request");
  if (first) first.textContent = first.textContent.replace("http://127.0.0.1:8080", location.origin);
  const base = byId("base-url");
  if (base) base.textContent = base.textContent.replace("http://127.0.0.1:8080", location.origin);
  const pause = byId("pause");
  if (pause) {
    pause.hidden = false;
    pause.textContent = paused ? "Go on" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
  }
}

main.addEventListener("click", (event) => {
  if (event.target.closest("#pause")) {
    paused = !paused;
    afterwards();
    if (paused) say("Paused", "");
    else refresh();
  }
  const bar = event.target.closest("[data-href]");
  if (bar?.dataset.href) location.href = bar.dataset.href;
});

const tip = byId("tip");
main.addEventListener("pointermove", (event) => {
  const bar = event.target.closest("[data-tip]");
  tip.hidden = !bar;
  if (!bar) return;
  if (tip.textContent !== bar.dataset.tip) tip.textContent = bar.dataset.tip;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const above = event.clientY + 18 + tip.offsetHeight > innerHeight;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above ? event.clientY - tip.offsetHeight - 10 : event.clientY + 18}px`;
});
main.addEventListener("pointerleave", () => { tip.hidden = true; });

const themes = ["auto", "light", "dark"];
const theme = byId("theme");
function showTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  theme.textContent = `Theme: ${name}`;
}
theme.hidden = false;
showTheme(document.documentElement.dataset.theme ?? "auto");
theme.addEventListener("click", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % themes.length];
  remember("farthing-theme", next);
  showTheme(next);
});

const zoneButton = byId("zone");
function showZone() {
  zoneButton.textContent = local ? zone : "UTC";
  zoneButton.setAttribute("aria-label", `Times in ${local ? zone : "UTC"}; switch to ${local ? "UTC" : zone}`);
  showTimes(document);
}
zoneButton.hidden = false;
zoneButton.addEventListener("click", () => {
  local = !local;
  remember("farthing-zone", local ? "local" : "utc");
  showZone();
});

showZone();
afterwards();
if (every) {
  say("Live", "live");
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  timer = setTimeout(refresh, wait);
}
