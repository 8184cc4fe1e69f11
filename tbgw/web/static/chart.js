// Lines as SVG: the small one on a card and the large one with axes. Text is set with textContent only.

const SVG = "http://www.w3.org/2000/svg";

export function svg(name, attributes = {}, text = null) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
}

export function shownNumber(value) {
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1e9 || size < 1e-4 ? value.toPrecision(5) : String(Number(value.toPrecision(7)));
}

// The pieces between which nothing is drawn: silence much longer than the usual distance of two points.
function pieces(points) {
  if (points.length < 3) return [points];
  const distances = [];
  for (let i = 1; i < points.length; i += 1) distances.push(points[i][0] - points[i - 1][0]);
  distances.sort((a, b) => a - b);
  const limit = Math.max(15000, 6 * distances[distances.length >> 1]);
  const result = [[points[0]]];
  for (let i = 1; i < points.length; i += 1) {
    if (points[i][0] - points[i - 1][0] > limit) result.push([]);
    result[result.length - 1].push(points[i]);
  }
  return result;
}

function path(piece, x, y) {
  return piece.map(([ts, value], i) => `${i ? "L" : "M"}${x(ts).toFixed(1)} ${y(value).toFixed(1)}`).join("");
}

function area(piece, x, y, bottom) {
  const first = x(piece[0][0]).toFixed(1);
  const last = x(piece[piece.length - 1][0]).toFixed(1);
  return `${path(piece, x, y)}L${last} ${bottom}L${first} ${bottom}Z`;
}

function range(points) {
  let low = Infinity;
  let high = -Infinity;
  for (const [, value] of points) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

export function drawSpark(element, points, spanMs) {
  const width = element.clientWidth || 84;
  const height = 26;
  const parts = [];
  if (points.length > 1) {
    const end = points[points.length - 1][0];
    const shown = points.filter(([ts]) => ts >= end - spanMs);
    const start = Math.min(shown[0][0], end - 20000);
    const [low, high] = range(shown);
    const x = (ts) => ((ts - start) / (end - start || 1)) * (width - 3);
    const y = (value) => (high > low ? height - 3 - ((value - low) / (high - low)) * (height - 6) : height / 2);
    for (const piece of pieces(shown)) {
      parts.push(svg("path", { class: "area", d: area(piece, x, y, height) }));
      parts.push(svg("path", { d: path(piece, x, y) }));
    }
    parts.push(svg("circle", { cx: x(end).toFixed(1), cy: y(shown[shown.length - 1][1]).toFixed(1), r: 2.2 }));
  }
  element.replaceChildren(...parts);
}

function niceStep(span, count) {
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  for (const factor of [1, 2, 2.5, 5, 10]) if (raw <= factor * power) return factor * power;
  return 10 * power;
}

const TIME_STEPS_S = [5, 10, 15, 30, 60, 120, 180, 300, 600];

function clock(ts, seconds) {
  return new Date(ts).toLocaleTimeString([], {
    hour: "2-digit", minute: "2-digit", ...(seconds ? { second: "2-digit" } : {}), hour12: false,
  });
}

export class Chart {
  constructor(container) {
    this.container = container;
    this.points = [];
    this.hover = null;
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    container.addEventListener("pointermove", (event) => this.point(event.clientX));
    container.addEventListener("pointerdown", (event) => this.point(event.clientX));
    container.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(container);
  }

  show(points, start, end) {
    this.points = points;
    this.start = start;
    this.end = end;
    this.draw();
  }

  point(clientX) {
    this.hover = clientX === null ? null : clientX - this.container.getBoundingClientRect().left;
    this.draw();
  }

  draw() {
    const width = this.container.clientWidth;
    const height = this.container.clientHeight;
    if (!width || !this.end) return;
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "History" });
    const points = this.points.filter(([ts]) => ts >= this.start);
    this.tip.hidden = true;
    if (!points.length) {
      root.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "No points in this window"));
      this.container.replaceChildren(root, this.tip);
      return;
    }

    let [low, high] = range(points);
    if (low === high) {
      const around = Math.abs(low) * 0.05 || 1;
      low -= around;
      high += around;
    }
    const step = niceStep(high - low, height < 260 ? 3 : 5);
    low = Math.floor(low / step) * step;
    high = Math.ceil(high / step) * step;
    const ticks = [];
    for (let i = 0; low + i * step <= high + step / 2; i += 1) ticks.push(low + i * step);
    const decimals = Math.min(10, Math.max(0, -Math.floor(Math.log10(step)) + (String(step / 10 ** Math.floor(Math.log10(step))).startsWith("2.5") ? 1 : 0)));
    const labels = ticks.map((tick) => (Math.abs(tick) >= 1e9 ? tick.toPrecision(3) : tick.toFixed(decimals)));

    const left = 14 + 7 * Math.max(...labels.map((label) => label.length));
    const right = 14;
    const top = 10;
    const bottom = height - 26;
    const x = (ts) => left + ((ts - this.start) / (this.end - this.start)) * (width - left - right);
    const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);

    ticks.forEach((tick, i) => {
      const at = Math.round(y(tick)) + 0.5;
      root.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: at, y2: at }));
      root.append(svg("text", { x: left - 8, y: at + 4, "text-anchor": "end" }, labels[i]));
    });
    const room = Math.max(2, Math.floor((width - left - right) / 90));
    const seconds = TIME_STEPS_S.find((s) => (this.end - this.start) / 1000 / s <= room) || 600;
    const shift = new Date(this.end).getTimezoneOffset() * 60000;
    const first = Math.ceil((this.start - shift) / (seconds * 1000)) * seconds * 1000 + shift;
    for (let ts = first; ts <= this.end; ts += seconds * 1000) {
      const at = x(ts);
      if (at < left + 12 || at > width - right - 12) continue;
      root.append(svg("line", { class: "grid", x1: Math.round(at) + 0.5, x2: Math.round(at) + 0.5, y1: bottom, y2: bottom + 4 }));
      root.append(svg("text", { x: at, y: height - 6, "text-anchor": "middle" }, clock(ts, seconds < 60)));
    }

    const clip = svg("clipPath", { id: "plot-area" });
    clip.append(svg("rect", { x: left, y: 0, width: width - left - right + 6, height: bottom + 1 }));
    const drawn = svg("g", { "clip-path": "url(#plot-area)" });
    for (const piece of pieces(points)) {
      drawn.append(svg("path", { class: "area", d: area(piece, x, y, bottom) }));
      drawn.append(svg("path", { class: "line", d: path(piece, x, y) }));
      if (piece.length === 1) drawn.append(svg("circle", { class: "mark", cx: x(piece[0][0]), cy: y(piece[0][1]), r: 4 }));
    }
    root.append(clip, drawn);

    if (this.hover === null) {
      const [ts, value] = points[points.length - 1];
      root.append(svg("circle", { class: "mark", cx: x(ts), cy: y(value), r: 4.5 }));
    } else {
      const [ts, value] = this.nearest(points, x);
      const at = x(ts);
      root.append(svg("line", { class: "cross", x1: at, x2: at, y1: top, y2: bottom }));
      root.append(svg("circle", { class: "mark", cx: at, cy: y(value), r: 4.5 }));
      const strong = document.createElement("b");
      strong.textContent = shownNumber(value);
      const when = document.createElement("span");
      when.textContent = `${clock(ts, true)}.${String(((ts % 1000) + 1000) % 1000).padStart(3, "0")}`;
      this.tip.replaceChildren(strong, when);
      this.tip.hidden = false;
      this.tip.style.left = at > width / 2 ? "auto" : `${at + 12}px`;
      this.tip.style.right = at > width / 2 ? `${width - at + 12}px` : "auto";
    }
    this.container.replaceChildren(root, this.tip);
  }

  nearest(points, x) {
    let best = points[0];
    for (const point of points) {
      if (Math.abs(x(point[0]) - this.hover) <= Math.abs(x(best[0]) - this.hover)) best = point;
    }
    return best;
  }
}
