// Figures over categories as SVG: points, grouped bars, bars stacked to a whole.
const overCategories = (() => {
  const {LEFT, RIGHT, TOP, STRENGTH, extent, yValues, shape, hollow, telling, frame, yAxis, categories, bars} = axes;

  // The frame with its category axis; `least`: the width the marks ask for.
  function framed(panel, room, least, paper, values) {
    const names = panel.x.categories,
      width = paper ? room : Math.max(room, Math.min(least, 2400));
    const longest = Math.max(...names.map((n) => n.length)),
      turned = longest * 6.4 > (width - LEFT - RIGHT) / names.length;
    // a turned first name may reach further left than the axis
    const left = turned ? Math.max(LEFT, names[0].length * 5.9 - (width - LEFT) / names.length / 2) : LEFT,
      step = (width - left - RIGHT) / names.length;
    const bottom = (turned ? Math.min(150, 24 + longest * 3.1) : 26) + (panel.x.label ? 18 : 0);
    const made = frame(panel, width, 230 + bottom, bottom, left);
    const y = yAxis(made, ...values),
      x = categories(made, names, turned);
    return {made, names, left, step, bottom, width, x, y};
  }

  const asks = (panel) => panel.x.categories.length * (16 + 9 * panel.series.length) + LEFT + RIGHT;

  function apart(panel, room, shown, paper) {
    const values = extent(shown.flatMap((s) => s.marks).flatMap(yValues), panel.y.share);
    const {made, names, left, step, bottom, width, x, y} = framed(panel, room, asks(panel), paper, values);
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
              opacity: STRENGTH[series.look.dash],
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

  function stacked(panel, room, shown, paper) {
    const least = panel.x.categories.length * 46 + LEFT + RIGHT;
    const {made, names, step, bottom, x, y} = framed(panel, room, least, paper, [0, 1.02]);
    const reached = names.map(() => 0),
      wide = Math.min(90, 0.7 * step);
    for (const series of shown)
      for (const mark of series.marks) {
        if (mark.value === undefined) {
          telling(made, series, mark, names[mark.x], hollow(x(mark.x), made.height - bottom));
          continue;
        }
        const from = reached[mark.x];
        reached[mark.x] += mark.value;
        const body = svg("rect", {
          class: "dot",
          x: x(mark.x) - wide / 2,
          width: wide,
          y: y(reached[mark.x]),
          height: Math.max(0, y(from) - y(reached[mark.x]) - 1),
          fill: "currentColor",
        });
        telling(made, series, mark, names[mark.x], body);
      }
    return made.root;
  }

  return {asks, points: apart, bars: apart, stacked};
})();
