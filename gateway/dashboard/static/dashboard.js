"use strict";
// Everything shown comes from data.json and is put on the page as text, never as markup.

const PERIODS = { today: "today", "7d": "in 7 days", "30d": "in 30 days" };
const WHERE = { local: "Local models", hosted: "Hosted models", cache: "Cache", none: "Nobody (failed)" };
const EVERY_MS = 2000;
const SLOWEST_MS = 15000;

const asked = new URLSearchParams(location.search).get("period");
const period = asked in PERIODS ? asked : "today";
const byId = (id) => document.getElementById(id);
const put = (id, text) => { const node = byId(id); if (node.textContent !== text) node.textContent = text; };
let wait = EVERY_MS;
let timer = 0;

function element(name, options = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (value !== undefined) key === "className" ? (node.className = value) : node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

const number = (value) => value.toLocaleString("en-US");
const share = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(part && part < whole ? 1 : 0)} %` : "–");

function usd(value) {
  if (value === 0) return "$0.00";
  const size = Math.abs(value);
  const digits = size >= 1 ? 2 : size >= 0.01 ? 4 : Math.min(9, 2 - Math.floor(Math.log10(size)));
  const text = size.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: digits });
  return `${value < 0 ? "−" : ""}$${text}`;
}

function duration(ms) {
  if (ms === null) return "–";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 100000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 60000)} min`;
}

const cell = (text, className) => element("td", { className }, text);

// Rows that stay the same stay in place, so that keyboard focus and a screen reader's position survive a refresh.
function rows(body, values, key, build) {
  const old = new Map([...body.children].map((row) => [row.dataset.key, row]));
  const fresh = values.map((value) => {
    const signature = JSON.stringify(value);
    const known = old.get(key(value));
    if (known && known.dataset.signature === signature) return known;
    const row = build(value);
    row.dataset.key = key(value);
    row.dataset.signature = signature;
    return row;
  });
  fresh.forEach((row, index) => { if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null); });
  while (body.children.length > fresh.length) body.lastChild.remove();
}

function showCards(data) {
  const { total, cache } = data;
  put("spent", usd(total.cost_usd));
  const guessed = [];
  if (total.estimated) guessed.push(`estimated for ${number(total.estimated)} requests`);
  if (total.unpriced) guessed.push(`no known price for ${number(total.unpriced)}`);
  put("spent-note", guessed.length ? guessed.join(", ") : PERIODS[period]);
  const dearer = total.saved_usd < 0;
  put("saved-term", dearer ? "Dearer than the baseline by" : "Saved");
  put("saved", usd(Math.abs(total.saved_usd)));
  byId("saved").className = dearer ? "big bad" : total.saved_usd > 0 ? "big good" : "big";
  put("saved-note", `the baseline would have cost ${usd(total.baseline_usd)}`);
  put("requests", number(total.requests));
  put("requests-note", `${number(total.errors)} failed, ${number(total.prompt_tokens + total.completion_tokens)} tokens`);
  put("hit-rate", cache.hit_rate === null ? "–" : `${(100 * cache.hit_rate).toFixed(1)} %`);
  const tiers = ["exact", "semantic", "coalesced"].filter((tier) => cache[tier]).map((tier) => `${number(cache[tier])} ${tier}`);
  put("hit-note", tiers.length ? tiers.join(", ") : "no hits");
}

function showWhere({ served, total }) {
  const shown = Object.keys(WHERE).filter((where) => where !== "none" || served.none.requests);
  const bar = byId("where-bar");
  bar.replaceChildren(...shown.map((where) => {
    const part = element("span", { className: `${where}-fill` });
    part.style.width = `${(100 * served[where].requests) / (total.requests || 1)}%`;
    return part;
  }));
  rows(byId("where").tBodies[0], shown.map((where) => ({ where, ...served[where], all: total.requests })), (row) => row.where,
    (row) => element("tr", {},
      element("th", { scope: "row" }, element("span", { className: `dot ${row.where}-fill` }), WHERE[row.where]),
      cell(number(row.requests), "n"), cell(share(row.requests, row.all), "n wide"), cell(usd(row.cost_usd), "n")));
}

function showLatency({ ttft_ms: ttft, latency_ms: latency }) {
  const values = [{ name: "first token", ...ttft }, { name: "last token", ...latency }];
  rows(byId("latency").tBodies[0], values, (row) => row.name, (row) => element("tr", {},
    element("th", { scope: "row" }, row.name),
    ...["p50", "p95", "p99"].map((rank) => cell(duration(row[rank]), "n"))));
}

function showBreakdown(id, title, values) {
  const table = byId(id);
  if (!table.tHead) {
    const heads = { Requests: "n", Failed: "n wide", Spent: "n", Saved: "n", p50: "n wide", p95: "n wide" };
    table.append(element("thead", {}, element("tr", {}, element("th", { scope: "col" }, title),
      ...Object.entries(heads).map(([head, className]) => element("th", { scope: "col", className }, head)))), element("tbody"));
  }
  rows(table.tBodies[0], values, (row) => row.name, (row) => element("tr", {},
    element("th", { scope: "row" }, row.name || "(none)"),
    cell(number(row.requests), "n"), cell(number(row.errors), row.errors ? "n wide bad" : "n wide"), cell(usd(row.cost_usd), "n"),
    cell(usd(row.saved_usd), "n"), cell(duration(row.latency_ms.p50), "n wide"), cell(duration(row.latency_ms.p95), "n wide")));
}

function showTimeline({ timeline, step_ms: step }) {
  const most = Math.max(...timeline.map((part) => Math.max(part.cost_usd, part.baseline_usd)), 0);
  const svg = (name, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };
  const spent = timeline.reduce((sum, part) => sum + part.cost_usd, 0);
  const label = `Spent ${usd(spent)} over ${timeline.length} ${step < 86400000 ? "hours" : "days"}, at most ${usd(most)} in one`;
  const chart = svg("svg", { viewBox: "0 0 480 120", preserveAspectRatio: "none", role: "img", "aria-label": label });
  const width = 480 / timeline.length;
  chart.append(svg("line", { x1: 0, x2: 480, y1: 119.5, y2: 119.5 }));
  timeline.forEach((part, index) => {
    const bar = (value, className, inset) => {
      const height = most ? (118 * Math.max(0, value)) / most : 0;
      return svg("rect", { class: className, x: index * width + inset, width: Math.max(1, width - 2 * inset), y: 119 - height, height });
    };
    const group = svg("g", {});
    const title = svg("title", {});
    title.textContent = `${moment(part.start_ms, step)}: spent ${usd(part.cost_usd)}, baseline ${usd(part.baseline_usd)}, ${number(part.requests)} requests`;
    group.append(title, bar(part.baseline_usd, "base", width * 0.12), bar(part.cost_usd, "cost", width * 0.12));
    chart.append(group);
  });
  const axis = element("div", { className: "axis", "aria-hidden": "true" },
    element("span", {}, moment(timeline[0].start_ms, step)), element("span", {}, most ? `highest ${usd(most)}` : ""),
    element("span", {}, moment(timeline[timeline.length - 1].start_ms, step)));
  byId("timeline").replaceChildren(axis, chart);
}

function moment(ms, step) {
  const iso = new Date(ms).toISOString();
  return step < 86400000 ? `${iso.slice(11, 16)} UTC` : iso.slice(5, 10);
}

function showRecent(values) {
  rows(byId("recent").tBodies[0], values, (row) => row.request_id, (row) => {
    const when = new Date(row.ts_ms);
    const time = element("time", { datetime: when.toISOString(), title: when.toISOString() }, when.toLocaleTimeString());
    const link = element("a", { href: `/dashboard/requests/${encodeURIComponent(row.request_id)}` }, row.request_id.slice(0, 20));
    const by = row.served === "cache" ? `cache, ${row.cache}` : row.served === "none" ? "nobody" : row.served;
    const status = cell(row.status, row.status === "ok" ? "status" : "status bad wrap");
    if (row.error) status.append(element("span", { className: "why" }, row.error.slice(0, 120)));
    if (row.degraded) status.append(element("span", { className: "why" }, `degraded: ${row.degraded.slice(0, 120)}`));
    const owner = cell("", "owner wide");
    owner.append(element("code", {}, row.key_id),
      ...row.tags.slice(0, 8).map((tag) => element("span", { className: "tag" }, tag.slice(0, 60))));
    const guess = row.usage_source === "estimated" ? " est." : "";
    const cells = [
      cell(time, "time"), cell(link, "id"), cell(row.rule || "–", "wrap wide"), cell(row.model || "–", "model wrap"),
      cell(element("span", { className: `badge ${row.served}` }, by), "by"), status,
      cell(`${number(row.prompt_tokens)} + ${number(row.completion_tokens)}`, "n wide"), cell(duration(row.ttft_ms), "n wide"),
      cell(duration(row.duration_ms), "n wide"), cell(row.unpriced ? "no price" : usd(row.cost_usd) + guess, "cost n"),
      cell(usd(row.saved_usd), "n wide"), owner,
    ];
    // On a phone a row is laid out as a block: the roles keep it a row of a table for a screen reader.
    for (const each of cells) each.setAttribute("role", "cell");
    return element("tr", { role: "row" }, ...cells);
  });
}

function show(data) {
  const empty = data.total.requests === 0 && data.recent.length === 0;
  byId("empty").hidden = !empty;
  byId("figures").hidden = empty;
  if (!empty) {
    showCards(data);
    showWhere(data);
    showLatency(data);
    showTimeline(data);
    showBreakdown("rules", "Route", data.by_rule);
    showBreakdown("models", "Model", data.by_model);
    showRecent(data.recent);
  }
  byId("main").setAttribute("aria-busy", "false");
}

function say(text, className) {
  put("state", text);
  byId("state").className = `state ${className}`;
}

async function refresh() {
  clearTimeout(timer);
  if (!document.hidden) {
    try {
      const answer = await fetch(`/dashboard/data.json?period=${period}`, { headers: { accept: "application/json" } });
      if (answer.status === 401) return location.reload();
      const data = await answer.json();
      if (!answer.ok) throw new Error(data.error.message);
      show(data);
      say("Live", "live");
      wait = EVERY_MS;
    } catch (error) {
      say(error instanceof TypeError ? "The gateway does not answer; trying again" : `${error.message}; trying again`, "away");
      wait = Math.min(2 * wait, SLOWEST_MS);
    }
  }
  timer = setTimeout(refresh, wait);
}

for (const link of document.querySelectorAll("[data-period]")) {
  if (link.dataset.period === period) link.setAttribute("aria-current", "page");
}
put("first-request", `curl ${location.origin}/v1/chat/completions \\\n  -H 'content-type: application/json' \\\n  -d '{"model": "auto", "messages": [{"role": "user", "content": "What is the capital of France?"}]}'`);
put("base-url", `OpenAI(base_url="${location.origin}/v1")`);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
refresh();
