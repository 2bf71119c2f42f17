// Axes, markers and marks of the figures: what a mark tells on hover, by arrow keys, by click.
const axes = (() => {
  const LEFT = 60,
    RIGHT = 10,
    TOP = 10;
  const STRENGTH = {dashed: 0.65, dotted: 0.45, dashdot: 0.3}; // of a bar: settings of one variant share its colour
  const DASH = {dashed: "6 3", dotted: "1.5 3", dashdot: "6 3 1.5 3"};
  const percent = (v) => +(100 * v).toPrecision(10) + "%";
  const plain = (v) => String(+v.toPrecision(10));

  function ticks(low, high, about) {
    const raw = (high - low) / about,
      power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= raw * 0.999);
    const out = [];
    for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step)
      out.push(Math.abs(v) < step * 1e-9 ? 0 : v);
    return out;
  }

  function extent(values, share) {
    const finite = values.filter((v) => v !== undefined && v !== null);
    if (share) finite.push(0);
    let low = Math.min(...finite),
      high = Math.max(...finite);
    if (!finite.length) {
      low = 0;
      high = 1;
    }
    if (low === high) [low, high] = share ? [low, low + 0.05] : [low - 1, high + 1];
    const room = 0.05 * (high - low);
    return [low - room, high + room];
  }

  const yValues = (m) => [
    m.value,
    m.value === undefined ? undefined : m.low,
    m.value === undefined ? undefined : m.high,
    ...(m.dots || []),
  ];

  function shape(kind, x, y, r) {
    const p = (...points) =>
      svg("path", {
        class: "dot",
        fill: "currentColor",
        d: "M" + points.map(([a, b]) => x + a * r + " " + (y + b * r)).join("L") + "Z",
      });
    switch (kind) {
      case "square":
        return p([-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]);
      case "triangle":
        return p([0, -1.15], [1.1, 0.85], [-1.1, 0.85]);
      case "down":
        return p([0, 1.15], [1.1, -0.85], [-1.1, -0.85]);
      case "diamond":
        return p([0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]);
      case "pentagon":
        return p([0, -1.15], [1.1, -0.35], [0.7, 0.95], [-0.7, 0.95], [-1.1, -0.35]);
      case "plus":
        return p(
          [-0.4, -1.1],
          [0.4, -1.1],
          [0.4, -0.4],
          [1.1, -0.4],
          [1.1, 0.4],
          [0.4, 0.4],
          [0.4, 1.1],
          [-0.4, 1.1],
          [-0.4, 0.4],
          [-1.1, 0.4],
          [-1.1, -0.4],
          [-0.4, -0.4],
        );
      case "cross":
        return p(
          [-1.1, -0.55],
          [-0.55, -1.1],
          [0, -0.55],
          [0.55, -1.1],
          [1.1, -0.55],
          [0.55, 0],
          [1.1, 0.55],
          [0.55, 1.1],
          [0, 0.55],
          [-0.55, 1.1],
          [-1.1, 0.55],
          [-0.55, 0],
        );
      default:
        return svg("circle", {class: "dot", fill: "currentColor", cx: x, cy: y, r});
    }
  }

  function hollow(x, y) {
    return svg("path", {
      class: "hollow",
      d: `M${x - 4} ${y - 6}l4 4l4 -4l2 2l-4 4l4 4l-2 2l-4 -4l-4 4l-2 -2l4 -4l-4 -4z`,
    });
  }

  // A mark that tells its number: hover, arrow keys; click and Enter list its answers.
  function telling(frame, series, mark, where, ...shapes) {
    const node = tint(svg("g", {class: "mark" + (mark.answers ? " go" : "")}, ...shapes), series.look);
    const entry = {
      node,
      title: [frame.panel.title, series.label, where].filter(Boolean).join(" · "),
      told: mark.told,
      answers: mark.answers,
    };
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

  function untip() {
    at("tip").hidden = true;
  }

  function follow(entry) {
    if (!entry.answers) return;
    untip();
    document.dispatchEvent(new CustomEvent("answers", {detail: entry.answers}));
  }

  function frame(panel, width, height, bottom, left = LEFT) {
    const root = svg("svg", {
      class: "plot",
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      tabindex: 0,
      role: "img",
      "aria-label": `${[panel.title, panel.y.label, panel.x.label].filter(Boolean).join(", ")}. ${panel.form === "cloud" ? "One dot an answer." : "Arrow keys read the numbers."}`,
    });
    const made = {root, panel, width, height, bottom, left, marks: [], active: -1};
    root.addEventListener("keydown", (event) => walk(made, event));
    root.addEventListener("blur", () => {
      untip();
      made.marks.forEach((m) => m.node.classList.remove("active"));
    });
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
    const entry = made.marks[made.active],
      box = entry.node.getBoundingClientRect();
    entry.node.classList.add("active");
    tip(entry, box.x + box.width / 2, box.y + box.height / 2);
  }

  function yAxis(made, low, high) {
    const {root, panel, width, height, bottom, left} = made;
    const y = (v) => TOP + ((high - v) / (high - low)) * (height - TOP - bottom);
    for (const v of ticks(low, high, 5)) {
      root.append(
        svg("line", {class: "grid", x1: left, x2: width - RIGHT, y1: y(v), y2: y(v)}),
        svg("text", {x: left - 7, y: y(v) + 4, "text-anchor": "end"}, (panel.y.share ? percent : plain)(v)),
      );
    }
    root.append(
      svg(
        "text",
        {
          class: "ink",
          transform: `translate(${left - 49} ${(TOP + height - bottom) / 2}) rotate(-90)`,
          "text-anchor": "middle",
          "font-size": Math.min(12, (1.75 * (height - bottom)) / (panel.y.label || "").length), // fits beside the axis
        },
        panel.y.label || "",
      ),
      svg("line", {class: "axis", x1: left, x2: width - RIGHT, y1: height - bottom, y2: height - bottom}),
    );
    return y;
  }

  function xAxis(made, low, high, share) {
    const {root, panel, width, height, bottom} = made;
    const x = (v) => LEFT + ((v - low) / (high - low)) * (width - LEFT - RIGHT);
    for (const v of ticks(low, high, 5)) {
      root.append(
        svg("line", {class: "axis", x1: x(v), x2: x(v), y1: height - bottom, y2: height - bottom + 4}),
        svg("text", {x: x(v), y: height - bottom + 16, "text-anchor": "middle"}, (share ? percent : plain)(v)),
      );
    }
    root.append(
      svg(
        "text",
        {class: "ink", x: (LEFT + width - RIGHT) / 2, y: height - 4, "text-anchor": "middle"},
        panel.x.label || "",
      ),
    );
    return x;
  }

  function categories(made, names, turned) {
    const {root, width, height, bottom, left} = made,
      step = (width - left - RIGHT) / names.length;
    names.forEach((name, i) => {
      const x = left + (i + 0.5) * step,
        y = height - bottom + 16;
      root.append(
        svg(
          "text",
          turned
            ? {transform: `translate(${x + 4} ${y - 4}) rotate(-28)`, "text-anchor": "end"}
            : {x, y, "text-anchor": "middle"},
          name,
        ),
      );
    });
    if (made.panel.x.label)
      root.append(
        svg(
          "text",
          {class: "ink", x: (left + width - RIGHT) / 2, y: height - 4, "text-anchor": "middle"},
          made.panel.x.label,
        ),
      );
    return (i) => left + (i + 0.5) * step;
  }

  function bars(x, mark, y) {
    if (mark.low === undefined || mark.high === undefined) return [];
    return [
      svg("path", {
        d: `M${x} ${y(mark.low)}V${y(mark.high)}M${x - 3.5} ${y(mark.low)}h7M${x - 3.5} ${y(mark.high)}h7`,
        stroke: "currentColor",
        "stroke-width": 1.4,
        fill: "none",
      }),
    ];
  }

  return {
    LEFT,
    RIGHT,
    TOP,
    DASH,
    STRENGTH,
    extent,
    yValues,
    shape,
    hollow,
    telling,
    tip,
    untip,
    frame,
    yAxis,
    xAxis,
    categories,
    bars,
  };
})();
