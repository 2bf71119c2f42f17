// Figures as SVG, drawn from the same data as the PNG and SVG files: one function a form.
const figures = (() => {
  const {
    LEFT,
    RIGHT,
    TOP,
    DASH,
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
  } = axes;
  const data = JSON.parse(at("figures-data").textContent);
  const off = new Set(); // labels of series switched off, in all figures
  let paper = 0; // width of a figure while it is printed
  const drawn = []; // {figure, home}
  const SIDE = {cloud: 4, heat: 3, plane: 2, lines: 2};
  const visible = (panel) => panel.series.filter((s) => !off.has(s.label));

  function overCategories(panel, room) {
    const names = panel.x.categories,
      shown = visible(panel);
    const least = names.length * (16 + 9 * panel.series.length) + LEFT + RIGHT;
    const width = paper ? room : Math.max(room, Math.min(least, 2400));
    const longest = Math.max(...names.map((n) => n.length)),
      turned = longest * 6.4 > (width - LEFT - RIGHT) / names.length;
    // a turned first name may reach further left than the axis
    const left = turned ? Math.max(LEFT, names[0].length * 5.9 - (width - LEFT) / names.length / 2) : LEFT,
      step = (width - left - RIGHT) / names.length;
    const bottom = (turned ? Math.min(150, 24 + longest * 3.1) : 26) + (panel.x.label ? 18 : 0);
    const made = frame(panel, width, 230 + bottom, bottom, left);
    const [low, high] = extent(shown.flatMap((s) => s.marks).flatMap(yValues), panel.y.share);
    const y = yAxis(made, low, high),
      x = categories(made, names, turned);
    if (panel.pooled_first)
      made.root.append(
        svg("line", {class: "axis", x1: left + step, x2: left + step, y1: TOP, y2: made.height - bottom}),
      );
    const wide = panel.form === "bars",
      slot = wide ? (0.8 * step) / shown.length : Math.min(26, (0.8 * step) / Math.max(shown.length, 3));
    shown.forEach((series, k) =>
      series.marks.forEach((mark) => {
        const cx = x(mark.x) + (k - (shown.length - 1) / 2) * slot;
        if (mark.value === undefined)
          return telling(made, series, mark, names[mark.x], hollow(cx, made.height - bottom));
        const body = wide
          ? svg("rect", {
              class: "dot",
              x: cx - slot * 0.46,
              width: slot * 0.92,
              y: Math.min(y(0), y(mark.value)),
              height: Math.abs(y(mark.value) - y(0)),
              fill: "currentColor",
            })
          : shape(series.look.marker, cx, y(mark.value), 4.2);
        const singles = (mark.dots || []).map((v) =>
          svg("circle", {cx: cx + 6, cy: y(v), r: 1.8, fill: "currentColor", opacity: 0.55}),
        );
        const whiskers = bars(cx, mark, y);
        if (wide) {
          whiskers.push(svg("circle", {cx, cy: y(mark.value), r: 2.2, fill: "currentColor"}));
          whiskers.forEach((w) => {
            w.setAttribute("stroke", "var(--ink)");
            w.style.color = "var(--ink)";
          });
        }
        telling(made, series, mark, names[mark.x], ...(wide ? [body, ...whiskers] : [...whiskers, body]), ...singles);
      }),
    );
    if (wide) made.root.append(svg("line", {class: "axis", x1: left, x2: width - RIGHT, y1: y(0), y2: y(0)}));
    return made.root;
  }

  function overSteps(panel, room) {
    const shown = visible(panel),
      marks = shown.flatMap((s) => s.marks);
    const made = frame(panel, room, 270, 42);
    const [low, high] = extent(marks.flatMap(yValues), panel.y.share);
    const y = yAxis(made, low, high),
      xs = marks.map((m) => m.x);
    const x = xAxis(made, Math.min(0, ...xs), Math.max(1, ...xs), false);
    for (const series of shown) {
      const known = series.marks.map((m) => (m.value === undefined ? null : m));
      const runs = known.reduce((all, m) => (m ? all.at(-1).push(m) : all.push([]), all), [[]]).filter((r) => r.length);
      for (const run of runs) {
        const bounded = run.filter((m) => m.low !== undefined && m.high !== undefined);
        const band = [
          ...bounded.map((m) => [x(m.x), y(m.high)]),
          ...bounded.toReversed().map((m) => [x(m.x), y(m.low)]),
        ];
        made.root.append(
          tint(
            svg(
              "g",
              {},
              svg("path", {
                d: band.length ? "M" + band.map((p) => p.join(" ")).join("L") + "Z" : "",
                fill: "currentColor",
                opacity: 0.16,
              }),
              svg("path", {
                d: "M" + run.map((m) => x(m.x) + " " + y(m.value)).join("L"),
                fill: "none",
                stroke: "currentColor",
                "stroke-width": 1.7,
                "stroke-dasharray": DASH[series.look.dash],
              }),
            ),
            series.look,
          ),
        );
      }
      const dotted = series.marks.length < 25;
      series.marks.forEach((mark) => {
        if (mark.value === undefined) telling(made, series, mark, "", hollow(x(mark.x), made.height - made.bottom));
        else
          telling(
            made,
            series,
            mark,
            "",
            dotted
              ? shape(series.look.marker, x(mark.x), y(mark.value), 3.4)
              : svg("circle", {
                  class: "dot",
                  cx: x(mark.x),
                  cy: y(mark.value),
                  r: 5,
                  fill: "currentColor",
                  "fill-opacity": 0,
                }),
          );
      });
    }
    return made.root;
  }

  function cloud(panel, room) {
    const size = Math.min(room, 290),
      made = frame(panel, size, size, 40);
    const y = yAxis(made, -3, 103),
      x = xAxis(made, -3, 103, false),
      cells = [];
    const [x0, x1, y0, y1] = panel.shade || [0, 0, 0, 0];
    made.root.append(svg("rect", {class: "shade", x: x(x0), width: x(x1) - x(x0), y: y(y1), height: y(y0) - y(y1)}));
    for (const rule of panel.rules || []) {
      made.root.append(
        rule.vertical
          ? svg("line", {class: "rule", x1: x(rule.at), x2: x(rule.at), y1: TOP, y2: size - 40})
          : svg("line", {class: "rule", x1: LEFT, x2: size - RIGHT, y1: y(rule.at), y2: y(rule.at)}),
      );
    }
    for (const series of visible(panel)) {
      const byCount = new Map();
      for (const [cx, cy, n] of series.cloud || []) {
        const key = Math.min(n, 6);
        byCount.set(key, (byCount.get(key) || "") + `M${x(cx).toFixed(1)} ${y(cy).toFixed(1)}h0`);
        cells.push([x(cx), y(cy), `coherence ${cx}, alignment ${cy}: ${n} answer${n > 1 ? "s" : ""}`]);
      }
      for (const [n, d] of byCount)
        made.root.append(
          tint(
            svg("path", {
              d,
              stroke: "currentColor",
              "stroke-width": 4.4,
              "stroke-linecap": "round",
              opacity: (1 - panel.fade ** n).toFixed(2),
              fill: "none",
            }),
            series.look,
          ),
        );
    }
    made.root.addEventListener("pointermove", (event) => {
      const box = made.root.getBoundingClientRect(),
        px = event.clientX - box.x,
        py = event.clientY - box.y;
      let best = null,
        least = 64;
      for (const cell of cells) {
        const d = (cell[0] - px) ** 2 + (cell[1] - py) ** 2;
        if (d < least) {
          least = d;
          best = cell;
        }
      }
      if (best) tip({title: panel.title, told: best[2]}, event.clientX, event.clientY);
      else untip();
    });
    made.root.addEventListener("pointerleave", untip);
    return made.root;
  }

  function heat(panel, room) {
    const [series] = panel.series,
      columns = panel.x.categories,
      rows = panel.y.categories;
    const left = 14 + Math.min(230, 7 * Math.max(...rows.map((r) => r.length))) + (panel.y.label ? 16 : 0);
    const cell = Math.max(34, Math.min(92, (room - left - RIGHT) / columns.length)),
      tall = 30,
      height = TOP + rows.length * tall + 44;
    const made = frame(panel, left + columns.length * cell + RIGHT, height, 44);
    const line = (row) => TOP + (rows.length - 1 - row) * tall;
    rows.forEach((name, r) =>
      made.root.append(svg("text", {x: left - 8, y: line(r) + 19, "text-anchor": "end"}, name)),
    );
    columns.forEach((name, c) =>
      made.root.append(
        svg("text", {x: left + (c + 0.5) * cell, y: TOP + rows.length * tall + 16, "text-anchor": "middle"}, name),
      ),
    );
    made.root.append(
      svg(
        "text",
        {class: "ink", x: left + (columns.length * cell) / 2, y: height - 8, "text-anchor": "middle"},
        panel.x.label || "",
      ),
      svg(
        "text",
        {
          class: "ink",
          transform: `translate(11 ${TOP + (rows.length * tall) / 2}) rotate(-90)`,
          "text-anchor": "middle",
        },
        panel.y.label || "",
      ),
    );
    for (const mark of series.marks) {
      const x = left + mark.x * cell,
        y = line(mark.row),
        known = mark.value !== undefined;
      const part = known ? mark.value / (panel.top || 1) : 0;
      const box = svg("rect", {
        class: "dot",
        x: x + 1,
        y: y + 1,
        width: cell - 2,
        height: tall - 2,
        rx: 2,
        fill: known ? "currentColor" : "none",
        "fill-opacity": part.toFixed(3),
        stroke: known ? "var(--line)" : "var(--rule)",
        "stroke-dasharray": known ? null : "3 3",
      });
      const text = svg(
        "text",
        {x: x + cell / 2, y: y + 19, "text-anchor": "middle", class: "ink"},
        known ? (100 * mark.value).toFixed(1) : "withheld",
      );
      if (part > 0.6) text.style.fill = "var(--card)";
      telling(made, series, mark, `${rows[mark.row]}, ${columns[mark.x]}`, box, text);
    }
    return made.root;
  }

  function plane(panel, room) {
    const shown = visible(panel),
      marks = shown.flatMap((s) => s.marks),
      made = frame(panel, room, 320, 42);
    const [low, high] = extent(marks.flatMap(yValues), panel.y.share);
    const y = yAxis(made, low, high),
      x = xAxis(made, -0.03, 1.03, true);
    for (const series of shown)
      for (const mark of series.marks) {
        if (mark.value === undefined || mark.x === undefined) {
          telling(
            made,
            series,
            mark,
            "",
            hollow(
              mark.x === undefined ? LEFT : x(mark.x),
              mark.value === undefined ? made.height - made.bottom : y(mark.value),
            ),
          );
          continue;
        }
        const across =
          mark.x_low === undefined || mark.x_high === undefined
            ? []
            : [
                svg("path", {
                  d: `M${x(mark.x_low)} ${y(mark.value)}H${x(mark.x_high)}`,
                  stroke: "currentColor",
                  "stroke-width": 1.4,
                }),
              ];
        telling(
          made,
          series,
          mark,
          "",
          ...bars(x(mark.x), mark, y),
          ...across,
          shape(series.look.marker, x(mark.x), y(mark.value), 5.4),
        );
      }
    return made.root;
  }

  const DRAW = {points: overCategories, bars: overCategories, lines: overSteps, cloud, heat, plane};

  function legend(figure) {
    const looks = new Map(figure.panels.flatMap((p) => p.series.map((s) => [s.label, s.look])));
    const home = el("div", "legend"),
      form = figure.panels[0].form;
    if (form === "cloud" || form === "heat" || looks.size < 2) return home;
    for (const [label, look] of looks) {
      const button = el("button"),
        key = tint(svg("svg", {width: form === "lines" ? 22 : 12, height: 12, "aria-hidden": "true"}), look);
      if (form === "lines")
        key.append(
          svg("line", {
            x1: 0,
            x2: 22,
            y1: 6,
            y2: 6,
            stroke: "currentColor",
            "stroke-width": 2,
            "stroke-dasharray": DASH[look.dash],
          }),
        );
      else key.append(shape(form === "bars" ? "square" : look.marker, 6, 6, 4.6));
      button.type = "button";
      button.setAttribute("aria-pressed", String(!off.has(label)));
      button.append(key, document.createTextNode(label));
      button.addEventListener("click", () => {
        if (!off.delete(label)) off.add(label);
        drawAll();
      });
      home.append(button);
    }
    return home;
  }

  function draw({figure, home}) {
    const focused = [...home.querySelectorAll(".legend button")].indexOf(document.activeElement);
    const room = paper || home.clientWidth,
      form = figure.panels[0].form;
    if (room < 120) return; // a window on its way to another size
    const beside = Math.max(
      1,
      Math.min(
        figure.panels.length,
        SIDE[form] || (figure.panels.every((p) => (p.x.categories || []).length <= 6) ? 2 : 1),
        Math.floor(room / 250),
      ),
    );
    const panels = el("div", "panels"),
      each = Math.floor((room - 18 * (beside - 1)) / beside) - 1;
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

  function drawAll() {
    drawn.forEach(draw);
  }

  document
    .querySelectorAll("figure[data-figure]")
    .forEach((node) => drawn.push({figure: data[Number(node.dataset.figure)], home: node.querySelector(".drawn")}));
  drawAll();
  let last = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== last) {
      last = innerWidth;
      drawAll();
    }
  });
  addEventListener("beforeprint", () => {
    paper = 660;
    drawAll();
  });
  addEventListener("afterprint", () => {
    paper = 0;
    drawAll();
  });
  return {off, drawAll};
})();
