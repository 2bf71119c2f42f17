"use strict";
// Figures as SVG, drawn from the same data as the PNG and SVG files. Text reaches the page only as text nodes.
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);

function el(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) if (value !== undefined && value !== null) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function tint(node, look) {
  node.style.setProperty("--l", look.light);
  node.style.setProperty("--d", look.dark);
  node.classList.add("s");
  return node;
}

const figures = (() => {
  const data = JSON.parse(at("figures-data").textContent);
  const off = new Set();          // labels of series switched off, in all figures
  let paper = 0;                  // width of a figure while it is printed
  const drawn = [];               // {figure, home}
  const LEFT = 54, RIGHT = 10, TOP = 10;
  const SIDE = {cloud: 4, heat: 3, plane: 2, lines: 2};
  const DASH = {dashed: "6 3", dotted: "1.5 3", dashdot: "6 3 1.5 3"};
  const percent = (v) => +(100 * v).toPrecision(10) + "%";
  const plain = (v) => String(+v.toPrecision(10));

  function ticks(low, high, about) {
    const raw = (high - low) / about, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= raw * 0.999);
    const out = [];
    for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) out.push(Math.abs(v) < step * 1e-9 ? 0 : v);
    return out;
  }

  function extent(values, share) {
    const finite = values.filter((v) => v !== undefined && v !== null);
    if (share) finite.push(0);
    let low = Math.min(...finite), high = Math.max(...finite);
    if (!finite.length) { low = 0; high = 1; }
    if (low === high) high = low + (share ? 0.05 : 1);
    const room = 0.05 * (high - low);
    return [low - room, high + room];
  }

  const visible = (panel) => panel.series.filter((s) => !off.has(s.label));
  const yValues = (m) => [m.value, m.value === undefined ? undefined : m.low, m.value === undefined ? undefined : m.high, ...(m.dots || [])];

  function shape(kind, x, y, r) {
    const p = (...points) => svg("path", {class: "dot", fill: "currentColor", d: "M" + points.map(([a, b]) => (x + a * r) + " " + (y + b * r)).join("L") + "Z"});
    switch (kind) {
      case "square": return p([-.9, -.9], [.9, -.9], [.9, .9], [-.9, .9]);
      case "triangle": return p([0, -1.15], [1.1, .85], [-1.1, .85]);
      case "down": return p([0, 1.15], [1.1, -.85], [-1.1, -.85]);
      case "diamond": return p([0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]);
      case "pentagon": return p([0, -1.15], [1.1, -.35], [.7, .95], [-.7, .95], [-1.1, -.35]);
      case "plus": return p([-.4, -1.1], [.4, -1.1], [.4, -.4], [1.1, -.4], [1.1, .4], [.4, .4], [.4, 1.1], [-.4, 1.1], [-.4, .4], [-1.1, .4], [-1.1, -.4], [-.4, -.4]);
      case "cross": return p([-1.1, -.55], [-.55, -1.1], [0, -.55], [.55, -1.1], [1.1, -.55], [.55, 0], [1.1, .55], [.55, 1.1], [0, .55], [-.55, 1.1], [-1.1, .55], [-.55, 0]);
      default: return svg("circle", {class: "dot", fill: "currentColor", cx: x, cy: y, r});
    }
  }

  function hollow(x, y) {
    return svg("path", {class: "hollow", d: `M${x - 4} ${y - 6}l4 4l4 -4l2 2l-4 4l4 4l-2 2l-4 -4l-4 4l-2 -2l4 -4l-4 -4z`});
  }

  // A mark that tells its number: hover, arrow keys; click and Enter list its answers.
  function telling(frame, series, mark, where, ...shapes) {
    const node = tint(svg("g", {class: "mark" + (mark.answers ? " go" : "")}, ...shapes), series.look);
    const entry = {node, title: [frame.panel.title, series.label, where].filter(Boolean).join(" · "), told: mark.told, answers: mark.answers};
    node.addEventListener("pointerenter", (event) => tip(entry, event.clientX, event.clientY));
    node.addEventListener("pointerleave", untip);
    node.addEventListener("click", () => follow(entry));
    frame.marks.push(entry);
    frame.root.append(node);
  }

  function tip(entry, x, y) {
    const home = at("tip");
    home.replaceChildren(el("b", "", entry.title), document.createTextNode(entry.told || ""));
    home.hidden = false;
    const box = home.getBoundingClientRect();
    home.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
    home.style.top = (y + box.height + 22 > innerHeight ? y - box.height - 12 : y + 16) + "px";
  }

  function untip() { at("tip").hidden = true; }

  function follow(entry) {
    if (!entry.answers) return;
    untip();
    document.dispatchEvent(new CustomEvent("answers", {detail: entry.answers}));
  }

  function frame(panel, width, height, bottom, left = LEFT) {
    const root = svg("svg", {class: "plot", width, height, viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "img",
      "aria-label": `${[panel.title, panel.y.label, panel.x.label].filter(Boolean).join(", ")}. Arrow keys read the numbers.`});
    const made = {root, panel, width, height, bottom, left, marks: [], active: -1};
    root.addEventListener("keydown", (event) => walk(made, event));
    root.addEventListener("blur", () => { untip(); made.marks.forEach((m) => m.node.classList.remove("active")); });
    return made;
  }

  function walk(made, event) {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (event.key === "Enter" && made.marks[made.active]) follow(made.marks[made.active]);
    if (event.key === "Escape") untip();
    if (!step || !made.marks.length) return;
    event.preventDefault();
    made.marks[made.active]?.node.classList.remove("active");
    made.active = (made.active + step + made.marks.length) % made.marks.length;
    const entry = made.marks[made.active], box = entry.node.getBoundingClientRect();
    entry.node.classList.add("active");
    tip(entry, box.x + box.width / 2, box.y + box.height / 2);
  }

  function yAxis(made, low, high) {
    const {root, panel, width, height, bottom, left} = made;
    const y = (v) => TOP + (high - v) / (high - low) * (height - TOP - bottom);
    for (const v of ticks(low, high, 5)) {
      root.append(svg("line", {class: "grid", x1: left, x2: width - RIGHT, y1: y(v), y2: y(v)}),
        svg("text", {x: left - 7, y: y(v) + 4, "text-anchor": "end"}, (panel.y.share ? percent : plain)(v)));
    }
    root.append(svg("text", {class: "ink", transform: `translate(${left - 42} ${(TOP + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle"}, panel.y.label || ""),
      svg("line", {class: "axis", x1: left, x2: width - RIGHT, y1: height - bottom, y2: height - bottom}));
    return y;
  }

  function xAxis(made, low, high, share) {
    const {root, panel, width, height, bottom} = made;
    const x = (v) => LEFT + (v - low) / (high - low) * (width - LEFT - RIGHT);
    for (const v of ticks(low, high, 5)) {
      root.append(svg("line", {class: "axis", x1: x(v), x2: x(v), y1: height - bottom, y2: height - bottom + 4}),
        svg("text", {x: x(v), y: height - bottom + 16, "text-anchor": "middle"}, (share ? percent : plain)(v)));
    }
    root.append(svg("text", {class: "ink", x: (LEFT + width - RIGHT) / 2, y: height - 4, "text-anchor": "middle"}, panel.x.label || ""));
    return x;
  }

  function categories(made, names, turned) {
    const {root, width, height, bottom, left} = made, step = (width - left - RIGHT) / names.length;
    names.forEach((name, i) => {
      const x = left + (i + 0.5) * step, y = height - bottom + 16;
      root.append(svg("text", turned ? {transform: `translate(${x + 4} ${y - 4}) rotate(-28)`, "text-anchor": "end"} : {x, y, "text-anchor": "middle"}, name));
    });
    if (made.panel.x.label) root.append(svg("text", {class: "ink", x: (left + width - RIGHT) / 2, y: height - 4, "text-anchor": "middle"}, made.panel.x.label));
    return (i) => left + (i + 0.5) * step;
  }

  function bars(x, mark, y) {
    if (mark.low === undefined || mark.high === undefined) return [];
    return [svg("path", {d: `M${x} ${y(mark.low)}V${y(mark.high)}M${x - 3.5} ${y(mark.low)}h7M${x - 3.5} ${y(mark.high)}h7`, stroke: "currentColor", "stroke-width": 1.4, fill: "none"})];
  }

  function overCategories(panel, room) {
    const names = panel.x.categories, shown = visible(panel);
    const least = names.length * (16 + 9 * panel.series.length) + LEFT + RIGHT;
    const width = paper ? room : Math.max(room, Math.min(least, 2400));
    const longest = Math.max(...names.map((n) => n.length)), turned = longest * 6.4 > (width - LEFT - RIGHT) / names.length;
    // a turned first name may reach further left than the axis
    const left = turned ? Math.max(LEFT, names[0].length * 5.9 - (width - LEFT) / names.length / 2) : LEFT, step = (width - left - RIGHT) / names.length;
    const bottom = (turned ? Math.min(150, 24 + longest * 3.1) : 26) + (panel.x.label ? 18 : 0);
    const made = frame(panel, width, 230 + bottom, bottom, left);
    const [low, high] = extent(shown.flatMap((s) => s.marks).flatMap(yValues), panel.y.share);
    const y = yAxis(made, low, high), x = categories(made, names, turned);
    if (panel.pooled_first) made.root.append(svg("line", {class: "axis", x1: left + step, x2: left + step, y1: TOP, y2: made.height - bottom}));
    const wide = panel.form === "bars", slot = wide ? 0.8 * step / shown.length : Math.min(26, 0.8 * step / Math.max(shown.length, 3));
    shown.forEach((series, k) => series.marks.forEach((mark) => {
      const cx = x(mark.x) + (k - (shown.length - 1) / 2) * slot;
      if (mark.value === undefined) return telling(made, series, mark, names[mark.x], hollow(cx, made.height - bottom));
      const body = wide
        ? svg("rect", {class: "dot", x: cx - slot * 0.46, width: slot * 0.92, y: Math.min(y(0), y(mark.value)), height: Math.abs(y(mark.value) - y(0)), fill: "currentColor"})
        : shape(series.look.marker, cx, y(mark.value), 4.2);
      const singles = (mark.dots || []).map((v) => svg("circle", {cx: cx + 6, cy: y(v), r: 1.8, fill: "currentColor", opacity: .55}));
      const whiskers = bars(cx, mark, y);
      if (wide) {
        whiskers.push(svg("circle", {cx, cy: y(mark.value), r: 2.2, fill: "currentColor"}));
        whiskers.forEach((w) => { w.setAttribute("stroke", "var(--ink)"); w.style.color = "var(--ink)"; });
      }
      telling(made, series, mark, names[mark.x], ...(wide ? [body, ...whiskers] : [...whiskers, body]), ...singles);
    }));
    if (wide) made.root.append(svg("line", {class: "axis", x1: left, x2: width - RIGHT, y1: y(0), y2: y(0)}));
    return made.root;
  }

  function overSteps(panel, room) {
    const shown = visible(panel), marks = shown.flatMap((s) => s.marks);
    const made = frame(panel, room, 270, 42);
    const [low, high] = extent(marks.flatMap(yValues), panel.y.share);
    const y = yAxis(made, low, high), xs = marks.map((m) => m.x);
    const x = xAxis(made, Math.min(0, ...xs), Math.max(1, ...xs), false);
    for (const series of shown) {
      const known = series.marks.map((m) => m.value === undefined ? null : m);
      const runs = known.reduce((all, m) => (m ? all.at(-1).push(m) : all.push([]), all), [[]]).filter((r) => r.length);
      for (const run of runs) {
        const bounded = run.filter((m) => m.low !== undefined && m.high !== undefined);
        const band = [...bounded.map((m) => [x(m.x), y(m.high)]), ...bounded.toReversed().map((m) => [x(m.x), y(m.low)])];
        made.root.append(tint(svg("g", {}, svg("path", {d: band.length ? "M" + band.map((p) => p.join(" ")).join("L") + "Z" : "", fill: "currentColor", opacity: .16}),
          svg("path", {d: "M" + run.map((m) => x(m.x) + " " + y(m.value)).join("L"), fill: "none", stroke: "currentColor", "stroke-width": 1.7, "stroke-dasharray": DASH[series.look.dash]})), series.look));
      }
      const dotted = series.marks.length < 25;
      series.marks.forEach((mark) => {
        if (mark.value === undefined) telling(made, series, mark, "", hollow(x(mark.x), made.height - made.bottom));
        else telling(made, series, mark, "", dotted ? shape(series.look.marker, x(mark.x), y(mark.value), 3.4) : svg("circle", {class: "dot", cx: x(mark.x), cy: y(mark.value), r: 5, fill: "currentColor", "fill-opacity": 0}));
      });
    }
    return made.root;
  }

  function cloud(panel, room) {
    const size = Math.min(room, 290), made = frame(panel, size, size, 40);
    const y = yAxis(made, -3, 103), x = xAxis(made, -3, 103, false), cells = [];
    const [x0, x1, y0, y1] = panel.shade || [0, 0, 0, 0];
    made.root.append(svg("rect", {class: "shade", x: x(x0), width: x(x1) - x(x0), y: y(y1), height: y(y0) - y(y1)}));
    for (const rule of panel.rules || []) {
      made.root.append(rule.vertical ? svg("line", {class: "rule", x1: x(rule.at), x2: x(rule.at), y1: TOP, y2: size - 40})
        : svg("line", {class: "rule", x1: LEFT, x2: size - RIGHT, y1: y(rule.at), y2: y(rule.at)}));
    }
    for (const series of visible(panel)) {
      const byCount = new Map();
      for (const [cx, cy, n] of series.cloud || []) {
        const key = Math.min(n, 6);
        byCount.set(key, (byCount.get(key) || "") + `M${x(cx).toFixed(1)} ${y(cy).toFixed(1)}h0`);
        cells.push([x(cx), y(cy), `coherence ${cx}, alignment ${cy}: ${n} answer${n > 1 ? "s" : ""}`]);
      }
      for (const [n, d] of byCount) made.root.append(tint(svg("path", {d, stroke: "currentColor", "stroke-width": 4.4, "stroke-linecap": "round", opacity: (1 - panel.fade ** n).toFixed(2), fill: "none"}), series.look));
    }
    made.root.addEventListener("pointermove", (event) => {
      const box = made.root.getBoundingClientRect(), px = event.clientX - box.x, py = event.clientY - box.y;
      let best = null, least = 64;
      for (const cell of cells) { const d = (cell[0] - px) ** 2 + (cell[1] - py) ** 2; if (d < least) { least = d; best = cell; } }
      if (best) tip({title: panel.title, told: best[2]}, event.clientX, event.clientY); else untip();
    });
    made.root.addEventListener("pointerleave", untip);
    return made.root;
  }

  function heat(panel, room) {
    const [series] = panel.series, columns = panel.x.categories, rows = panel.y.categories;
    const left = 14 + Math.min(230, 7 * Math.max(...rows.map((r) => r.length))) + (panel.y.label ? 16 : 0);
    const cell = Math.max(34, Math.min(92, (room - left - RIGHT) / columns.length)), tall = 30, height = TOP + rows.length * tall + 44;
    const made = frame(panel, left + columns.length * cell + RIGHT, height, 44);
    const line = (row) => TOP + (rows.length - 1 - row) * tall;
    rows.forEach((name, r) => made.root.append(svg("text", {x: left - 8, y: line(r) + 19, "text-anchor": "end"}, name)));
    columns.forEach((name, c) => made.root.append(svg("text", {x: left + (c + .5) * cell, y: TOP + rows.length * tall + 16, "text-anchor": "middle"}, name)));
    made.root.append(svg("text", {class: "ink", x: left + columns.length * cell / 2, y: height - 8, "text-anchor": "middle"}, panel.x.label || ""),
      svg("text", {class: "ink", transform: `translate(11 ${TOP + rows.length * tall / 2}) rotate(-90)`, "text-anchor": "middle"}, panel.y.label || ""));
    for (const mark of series.marks) {
      const x = left + mark.x * cell, y = line(mark.row), known = mark.value !== undefined;
      const part = known ? mark.value / (panel.top || 1) : 0;
      const box = svg("rect", {class: "dot", x: x + 1, y: y + 1, width: cell - 2, height: tall - 2, rx: 2, fill: known ? "currentColor" : "none", "fill-opacity": part.toFixed(3), stroke: known ? "var(--line)" : "var(--rule)", "stroke-dasharray": known ? null : "3 3"});
      const text = svg("text", {x: x + cell / 2, y: y + 19, "text-anchor": "middle", class: "ink"}, known ? (100 * mark.value).toFixed(1) : "withheld");
      if (part > .6) text.style.fill = "var(--card)";
      telling(made, series, mark, `${rows[mark.row]}, ${columns[mark.x]}`, box, text);
    }
    return made.root;
  }

  function plane(panel, room) {
    const shown = visible(panel), marks = shown.flatMap((s) => s.marks), made = frame(panel, room, 320, 42);
    const [low, high] = extent(marks.flatMap(yValues), panel.y.share);
    const y = yAxis(made, low, high), x = xAxis(made, -0.03, 1.03, true);
    for (const series of shown) for (const mark of series.marks) {
      if (mark.value === undefined || mark.x === undefined) {
        telling(made, series, mark, "", hollow(mark.x === undefined ? LEFT : x(mark.x), mark.value === undefined ? made.height - made.bottom : y(mark.value)));
        continue;
      }
      const across = mark.x_low === undefined || mark.x_high === undefined ? [] :
        [svg("path", {d: `M${x(mark.x_low)} ${y(mark.value)}H${x(mark.x_high)}`, stroke: "currentColor", "stroke-width": 1.4})];
      telling(made, series, mark, "", ...bars(x(mark.x), mark, y), ...across, shape(series.look.marker, x(mark.x), y(mark.value), 5.4));
    }
    return made.root;
  }

  const DRAW = {points: overCategories, bars: overCategories, lines: overSteps, cloud, heat, plane};

  function legend(figure) {
    const looks = new Map(figure.panels.flatMap((p) => p.series.map((s) => [s.label, s.look])));
    const home = el("div", "legend"), form = figure.panels[0].form;
    if (form === "cloud" || form === "heat" || looks.size < 2) return home;
    for (const [label, look] of looks) {
      const button = el("button"), key = tint(svg("svg", {width: form === "lines" ? 22 : 12, height: 12, "aria-hidden": "true"}), look);
      if (form === "lines") key.append(svg("line", {x1: 0, x2: 22, y1: 6, y2: 6, stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": DASH[look.dash]}));
      else key.append(shape(form === "bars" ? "square" : look.marker, 6, 6, 4.6));
      button.type = "button";
      button.setAttribute("aria-pressed", String(!off.has(label)));
      button.append(key, document.createTextNode(label));
      button.addEventListener("click", () => { if (!off.delete(label)) off.add(label); drawAll(); });
      home.append(button);
    }
    return home;
  }

  function draw({figure, home}) {
    const focused = [...home.querySelectorAll(".legend button")].indexOf(document.activeElement);
    const room = paper || home.clientWidth, form = figure.panels[0].form;
    if (room < 120) return;         // a window on its way to another size
    const beside = Math.max(1, Math.min(figure.panels.length, SIDE[form] || (figure.panels.every((p) => (p.x.categories || []).length <= 6) ? 2 : 1), Math.floor(room / 250)));
    const panels = el("div", "panels"), each = Math.floor((room - 18 * (beside - 1)) / beside) - 1;
    for (const panel of figure.panels) {
      const box = el("div", "panel");
      if (panel.title) box.append(el("h4", "", panel.title));
      if (form === "cloud") box.append(el("p", "soft small count", panel.series[0].label));
      box.style.width = each + "px";
      box.append(DRAW[panel.form](panel, each));
      panels.append(box);
    }
    home.replaceChildren(legend(figure), panels);
    if (focused >= 0) home.querySelectorAll(".legend button")[focused].focus();
  }

  function drawAll() { drawn.forEach(draw); }

  document.querySelectorAll("figure[data-figure]").forEach((node) =>
    drawn.push({figure: data[Number(node.dataset.figure)], home: node.querySelector(".drawn")}));
  drawAll();
  let last = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== last) { last = innerWidth; drawAll(); } });
  addEventListener("beforeprint", () => { paper = 660; drawAll(); });
  addEventListener("afterprint", () => { paper = 0; drawAll(); });
  return {off, drawAll};
})();

at("theme").addEventListener("click", () => {
  const next = {"": "light", light: "dark", dark: ""}[document.documentElement.style.colorScheme];
  document.documentElement.style.colorScheme = next;
  at("theme").textContent = "theme: " + (next || "system");
});
