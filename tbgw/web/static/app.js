// The sandbox's page: devices as cards, live. Everything that came from a device is set with textContent or as a property.

import { openManage, refreshManage } from "/manage.js";
import { Chart, drawSpark, shownNumber, svg } from "/chart.js";

const MAX_CARDS = 200; // more than anybody reads; the filter finds the others
const MAX_ROWS = 12; // of one card before it is unfolded
const SPARK_MS = 5 * 60 * 1000;
const SPARK_POINTS = 400;
const FETCHES = 3; // at one time, for the small lines

const byId = (id) => document.getElementById(id);
const order = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

const devices = new Map(); // name -> device as the server tells it
const cards = new Map(); // name -> Card, for those that are drawn
const series = new Map(); // device + "\0" + key -> { points, loaded }
let clockOffset = 0; // server's clock minus ours, in ms
let filter = "";
let canManage = false; // whether the sandbox can be commanded from here

const now = () => Date.now() + clockOffset;

function make(tag, className = "", text = null) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== null) element.textContent = text;
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function shownAge(ts) {
  const seconds = Math.round((now() - ts) / 1000);
  if (seconds < -60) return "ahead";
  if (seconds < 2) return "now";
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

function shownValue(value) {
  if (typeof value === "number") return shownNumber(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}

// Small lines: seeded from the history when a card comes into view, continued from the stream.

const waiting = [];
let fetching = 0;

function line(device, key) {
  const id = `${device}\0${key}`;
  let found = series.get(id);
  if (!found) {
    found = { device, key, points: [], loaded: false };
    series.set(id, found);
  }
  return found;
}

function append(points, ts, value) {
  const last = points.length ? points[points.length - 1][0] : -Infinity;
  if (ts > last) points.push([ts, value]);
  else if (ts === last) points[points.length - 1][1] = value;
  if (points.length > SPARK_POINTS * 1.5) points.splice(0, points.length - SPARK_POINTS);
}

function numbers(points) {
  return points.filter(([, value]) => typeof value === "number");
}

async function history(device, key, since) {
  const query = new URLSearchParams({ device, key, since: String(Math.max(0, Math.floor(since))) });
  const answer = await fetch(`/api/history?${query}`);
  if (!answer.ok) throw new Error(`history: ${answer.status}`);
  return numbers((await answer.json()).points);
}

function seed(found, latest) {
  if (found.loaded) return;
  found.loaded = true;
  waiting.push([found, latest]);
  pump();
}

async function pump() {
  if (fetching >= FETCHES || !waiting.length) return;
  const [found, latest] = waiting.shift();
  fetching += 1;
  try {
    const points = await history(found.device, found.key, latest - SPARK_MS);
    const begun = points.length ? points[points.length - 1][0] : -Infinity;
    found.points = [...points, ...found.points.filter(([ts]) => ts > begun)].slice(-SPARK_POINTS);
    cards.get(found.device)?.drawLines();
  } catch {
    found.loaded = false; // the stream will bring the card up to date again
  } finally {
    fetching -= 1;
    pump();
  }
}

const inView = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const card = cards.get(entry.target.dataset.device);
    if (!card) continue;
    card.visible = entry.isIntersecting;
    if (card.visible) card.update();
  }
}, { rootMargin: "200px" });

const CARD_GAP = 16;
const GRID_ROW = 4; // as in style.css

const heights = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    target.style.gridRowEnd = `span ${Math.ceil((target.offsetHeight + CARD_GAP) / GRID_ROW)}`;
  }
});

// Cards

class Row {
  constructor(card, key, entry, telemetry) {
    this.telemetry = telemetry;
    this.entry = null;
    this.drawable = telemetry && typeof entry.value === "number";
    this.element = make(this.drawable ? "button" : "div", this.drawable ? "row" : "row wide");
    this.value = make("span", "value");
    this.age = make("span", "age");
    const name = make("span", "key", key);
    name.title = key;
    this.element.append(name);
    if (this.drawable) {
      this.element.type = "button";
      this.element.title = `Chart of ${key}`;
      this.spark = svg("svg", { class: "spark", "aria-hidden": "true" });
      this.element.append(this.spark);
      this.element.addEventListener("click", () => openChart(card.name, key));
      this.line = line(card.name, key);
    }
    this.element.append(this.value, this.age);
    this.item = make("li");
    this.item.append(this.element);
    this.element.addEventListener("animationend", () => this.element.classList.remove("changed"));
  }

  update(entry, visible) {
    const news = this.entry === null || entry.ts !== this.entry.ts || entry.value !== this.entry.value;
    if (news) {
      const text = shownValue(entry.value);
      if (this.entry !== null && visible && text !== this.value.textContent) {
        this.element.classList.remove("changed");
        requestAnimationFrame(() => this.element.classList.add("changed"));
      }
      setText(this.value, text);
      this.value.title = text;
    }
    this.entry = entry;
    setText(this.age, shownAge(entry.ts));
  }
}

class Card {
  constructor(name) {
    this.name = name;
    this.visible = false;
    this.unfolded = false;
    this.rows = new Map();
    this.element = make("article", "card");
    this.element.dataset.device = name;
    const head = make("div", "card-head");
    const names = make("div", "card-name");
    const title = make("h2", "", name);
    title.title = name;
    this.state = make("p");
    names.append(title, this.state);
    this.pill = make("span", "pill");
    this.manage = make("button", "quiet manage-open", "Manage");
    this.manage.type = "button";
    this.manage.hidden = !canManage;
    this.manage.addEventListener("click", () => openManage(devices.get(this.name)));
    head.append(make("span", "dot"), names, this.pill, this.manage);
    this.telemetry = make("ul", "rows");
    this.unfold = make("button", "unfold");
    this.unfold.type = "button";
    this.unfold.addEventListener("click", () => {
      this.unfolded = !this.unfolded;
      this.update();
    });
    this.attributesTitle = make("div", "group", "Attributes");
    this.attributes = make("ul", "rows");
    this.sharedTitle = make("div", "group", "Shared attributes");
    this.shared = make("ul", "rows");
    this.nothing = make("p", "nothing");
    this.element.append(head, this.telemetry, this.attributesTitle, this.attributes, this.sharedTitle, this.shared, this.unfold, this.nothing);
  }

  update() {
    const device = devices.get(this.name);
    this.element.classList.toggle("on", device.connected);
    setText(this.pill, device.gateway ? "gateway" : device.profile);
    this.pill.title = device.gateway ? "gateway" : `device profile ${device.profile}`;
    this.pill.classList.toggle("gateway", device.gateway);
    this.tick();
    const telemetry = Object.keys(device.telemetry).sort(order.compare);
    const attributes = Object.keys(device.attributes).sort(order.compare);
    const shared = Object.keys(device.shared).sort(order.compare);
    const count = telemetry.length + attributes.length + shared.length;
    const room = this.unfolded ? Infinity : MAX_ROWS;
    this.fill(this.telemetry, "t", telemetry.slice(0, room), device.telemetry);
    this.fill(this.attributes, "a", attributes.slice(0, Math.max(0, room - telemetry.length)), device.attributes);
    const left = Math.max(0, room - telemetry.length - attributes.length);
    this.fill(this.shared, "s", shared.slice(0, left), device.shared);
    this.sharedTitle.hidden = !this.shared.firstChild;
    this.attributesTitle.hidden = !this.attributes.firstChild;
    this.unfold.hidden = count <= MAX_ROWS;
    setText(this.unfold, this.unfolded ? "Show less" : `Show all ${count} keys`);
    this.nothing.hidden = count > 0;
    setText(this.nothing, device.gateway ? "The gateway itself has sent no values." : "Known, but has sent no values yet.");
    if (this.visible) this.drawLines();
  }

  fill(list, kind, keys, entries) {
    let at = list.firstChild;
    const wanted = new Set(keys);
    for (const key of keys) {
      const entry = entries[key];
      const id = kind + key;
      let row = this.rows.get(id);
      if (row && kind === "t" && row.drawable !== (typeof entry.value === "number")) {
        if (at === row.item) at = at.nextSibling;
        row.item.remove();
        row = null;
      }
      if (!row) {
        row = new Row(this, key, entry, kind === "t");
        this.rows.set(id, row);
      }
      row.update(entry, this.visible);
      if (row.item === at) at = at.nextSibling;
      else list.insertBefore(row.item, at);
    }
    for (const [id, row] of this.rows) {
      if (id[0] === kind && !wanted.has(id.slice(1))) {
        row.item.remove();
        this.rows.delete(id);
      }
    }
  }

  remove() {
    inView.unobserve(this.element);
    heights.unobserve(this.element);
    this.element.remove();
  }

  drawLines() {
    for (const row of this.rows.values()) {
      if (!row.drawable) continue;
      seed(row.line, row.entry.ts);
      drawSpark(row.spark, row.line.points, SPARK_MS);
    }
  }

  tick() {
    const device = devices.get(this.name);
    const state = device.connected ? "Connected" : "Not connected";
    if (!device.lastActivity) setText(this.state, state);
    else {
      const age = shownAge(device.lastActivity);
      setText(this.state, `${state} \u00b7 ${age === "now" ? "active now" : `active ${age} ago`}`);
    }
    if (this.visible) for (const row of this.rows.values()) if (row.entry) setText(row.age, shownAge(row.entry.ts));
  }
}

function before(a, b) {
  if (a.gateway !== b.gateway) return a.gateway ? -1 : 1;
  return order.compare(a.name, b.name) || (a.name < b.name ? -1 : 1);
}

function arrange() {
  const shown = [...devices.values()].filter((device) => device.name.toLowerCase().includes(filter)).sort(before);
  const list = byId("cards");
  const wanted = new Set(shown.slice(0, MAX_CARDS).map((device) => device.name));
  for (const [name, card] of cards) {
    if (!wanted.has(name)) {
      card.remove();
      cards.delete(name);
    }
  }
  let at = list.firstChild;
  for (const name of wanted) {
    let card = cards.get(name);
    if (!card) {
      card = new Card(name);
      cards.set(name, card);
      card.update();
      inView.observe(card.element);
      heights.observe(card.element);
    }
    if (card.element === at) at = at.nextSibling;
    else list.insertBefore(card.element, at);
  }
  const more = byId("more");
  more.hidden = shown.length <= MAX_CARDS && shown.length > 0;
  if (shown.length > MAX_CARDS) setText(more, `${shown.length - MAX_CARDS} more devices; the filter finds them.`);
  else if (!shown.length) setText(more, devices.size ? "No device has a name like that." : "");
}

function summarise() {
  const ordinary = [...devices.values()].filter((device) => !device.gateway);
  const connected = ordinary.filter((device) => device.connected).length;
  const gateway = [...devices.values()].find((device) => device.gateway);
  const state = !gateway ? "" : gateway.connected ? "Gateway connected" : "Gateway not connected";
  const count = ordinary.length === 1 ? "1 device" : `${ordinary.length} devices`;
  const known = ordinary.length ? `${count}, ${connected} connected` : "no devices yet";
  setText(byId("summary"), [state, known].filter(Boolean).join(" \u00b7 "));
  byId("first").hidden = ordinary.length > 0;
  const silent = !gateway || !(Object.keys(gateway.telemetry).length + Object.keys(gateway.attributes).length);
  byId("cards").hidden = !ordinary.length && silent;
  byId("filter").hidden = ordinary.length < 6 && !filter;
}

// The stream

let changedCards = new Set();
let frame = 0;

function draw() {
  frame = 0;
  for (const name of changedCards) {
    const card = cards.get(name);
    if (card?.visible) card.update();
    else card?.tick();
  }
  changedCards = new Set();
  summarise();
}

function took(message) {
  clockOffset = message.now - Date.now();
  let rearrange = false;
  for (const device of message.devices) {
    rearrange = rearrange || !devices.has(device.name);
    refreshManage(device);
    devices.set(device.name, device);
    changedCards.add(device.name);
    for (const [key, entry] of Object.entries(device.telemetry)) {
      if (typeof entry.value === "number") append(line(device.name, key).points, entry.ts, entry.value);
    }
  }
  for (const name of message.gone) {
    rearrange = devices.delete(name) || rearrange;
    refreshManage(null, name);
  }
  if (rearrange) arrange();
  if (!frame) frame = requestAnimationFrame(draw);
  if (chart.open && message.devices.some((device) => device.name === chart.device)) chart.stale = true;
}

function live(state, text) {
  byId("live").dataset.state = state;
  setText(byId("live"), text);
}

function connect() {
  const source = new EventSource("/api/events");
  source.addEventListener("hello", (event) => {
    const message = JSON.parse(event.data);
    clockOffset = message.now - Date.now();
    canManage = Boolean(message.control);
    setText(byId("hint"), message.hint || "");
    byId("first").querySelector(".command").hidden = !message.hint;
    devices.clear();
    series.clear();
    for (const card of cards.values()) card.remove();
    cards.clear();
    live("live", "Live");
  });
  source.addEventListener("devices", (event) => took(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    live("lost", "Reconnecting");
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 5000); // refused, e.g. too many pages
  });
}

// The large chart

const chart = { open: false, stale: false, loading: false, device: "", key: "", minutes: 5, points: [], plot: new Chart(byId("plot")) };

function latestOf(device, key) {
  return devices.get(device)?.telemetry[key]?.ts ?? now();
}

function chartEnd() {
  const latest = latestOf(chart.device, chart.key);
  const span = chart.minutes * 60000;
  return latest < now() - span || latest > now() + 5000 ? latest : now(); // a device with another clock, or long silent
}

async function loadChart(whole) {
  if (chart.loading) return;
  chart.loading = true;
  chart.stale = false;
  const { device, key, minutes } = chart;
  try {
    const last = chart.points[chart.points.length - 1];
    const points = await history(device, key, whole || !last ? chartEnd() - minutes * 60000 : last[0] + 1);
    if (chart.device === device && chart.key === key && chart.minutes === minutes) {
      chart.points = whole ? points : [...chart.points, ...points];
    }
  } catch {
    chart.stale = true;
  } finally {
    chart.loading = false;
  }
  if (chart.device !== device || chart.key !== key || chart.minutes !== minutes) await loadChart(true);
  else drawChart();
}

function drawChart() {
  if (!chart.open) return;
  const end = chartEnd();
  const start = end - chart.minutes * 60000;
  const points = chart.points.filter(([ts]) => ts >= start);
  chart.plot.show(points, start, end);
  const values = points.map(([, value]) => value);
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const show = (id, value) => setText(byId(id), values.length ? shownNumber(value) : "\u2013");
  show("figure-last", values[values.length - 1]);
  show("figure-min", low);
  show("figure-max", high);
  show("figure-mean", Number(mean.toPrecision(5)));
  setText(byId("figure-count"), String(values.length));
  for (const button of document.querySelectorAll("[data-minutes]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.minutes) === chart.minutes));
  }
}

function openChart(device, key) {
  Object.assign(chart, { open: true, device, key, points: [] });
  setText(byId("chart-key"), key);
  setText(byId("chart-device"), device);
  if (!byId("chart").open) byId("chart").showModal();
  location.replace(`#${encodeURIComponent(device)}/${encodeURIComponent(key)}`);
  drawChart();
  loadChart(true);
}

byId("chart").addEventListener("close", () => {
  chart.open = false;
  window.history.replaceState(null, "", location.pathname);
});
for (const button of document.querySelectorAll("[data-minutes]")) {
  button.addEventListener("click", () => {
    chart.minutes = Number(button.dataset.minutes);
    chart.points = [];
    drawChart();
    loadChart(true);
  });
}

function openFromAddress() {
  const parts = location.hash.slice(1).split("/");
  if (parts.length !== 2 || chart.open) return;
  try {
    const [device, key] = parts.map(decodeURIComponent);
    if (device && key) openChart(device, key);
  } catch {
    // an address that somebody cut short
  }
}

// Status

// [name, value] of every plain member, then of every group inside; [name, null] is a heading.
function flatten(group, name, rows) {
  const entries = Object.entries(group);
  const plain = entries.filter(([, value]) => value === null || typeof value !== "object");
  if (name && plain.length) rows.push([name, null]);
  for (const [key, value] of plain) rows.push([key, value === null ? "\u2013" : String(value)]);
  for (const [key, value] of entries) {
    if (value !== null && typeof value === "object") flatten(value, name ? `${name} \u203a ${key}` : key, rows);
  }
  return rows;
}

async function showStatus() {
  try {
    const answer = await fetch("/api/status");
    const rows = flatten(await answer.json(), "", []);
    const table = make("table");
    for (const [name, value] of rows) {
      const row = make("tr", value === null ? "part" : "");
      row.append(make("th", "", name), make("td", "", value ?? ""));
      table.append(row);
    }
    byId("status-body").replaceChildren(rows.length ? table : make("p", "muted", "Nothing is reported."));
  } catch {
    // the live sign says that the connection is lost
  }
}

byId("status-open").addEventListener("click", () => {
  byId("status").showModal();
  showStatus();
});

// The rest

for (const sheet of document.querySelectorAll("dialog")) {
  sheet.querySelector("[data-close]").addEventListener("click", () => sheet.close());
  sheet.addEventListener("click", (event) => {
    if (event.target === sheet) sheet.close();
  });
}

byId("filter").addEventListener("input", (event) => {
  filter = event.target.value.trim().toLowerCase();
  arrange();
});

byId("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(byId("hint").textContent);
  setText(byId("copy"), "Copied");
  setTimeout(() => setText(byId("copy"), "Copy"), 1500);
});

setInterval(() => {
  for (const card of cards.values()) card.tick();
  if (chart.open) {
    if (chart.stale) loadChart(false);
    else drawChart();
  }
  if (byId("status").open) showStatus();
}, 1000);

connect();
openFromAddress();
