// Figures over numbers as SVG: lines over steps, answers as dots, heat maps, markers in a plane.
const overNumbers = (() => {
  const {LEFT, RIGHT, TOP, DASH, extent, yValues, shape, hollow, telling, tip, untip, frame, yAxis, xAxis, bars} = axes;

  function lines(panel, room, shown) {
    const marks = shown.flatMap((s) => s.marks);
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

  function cloud(panel, room, shown) {
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
    for (const series of shown) {
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

  function plane(panel, room, shown) {
    const marks = shown.flatMap((s) => s.marks),
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
          shape(series.look.marker, x(mark.x), y(mark.value), mark.size === undefined ? 5.4 : 4 + 6 * mark.size),
        );
      }
    return made.root;
  }

  return {lines, cloud, heat, plane};
})();
