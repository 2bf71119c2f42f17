// Figures as SVG, drawn from the same data as the PNG and SVG files: which, how wide, their legends.
const figures = (() => {
  const {DASH, STRENGTH, shape} = axes;
  const DRAW = {...overCategories, ...overNumbers}; // form → function
  const data = JSON.parse(at("figures-data").textContent);
  const off = new Set(); // labels of series switched off, in all figures
  let paper = 0; // width of a figure while it is printed
  const drawn = []; // {figure, home}
  const SIDE = {cloud: 4, heat: 3, plane: 2, lines: 2};
  const visible = (panel) => panel.series.filter((s) => !off.has(s.label));

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
      else {
        const sample = shape(form === "bars" || form === "stacked" ? "square" : look.marker, 6, 6, 4.6);
        if (form === "bars" && STRENGTH[look.dash]) sample.setAttribute("opacity", STRENGTH[look.dash]);
        key.append(sample);
      }
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
        SIDE[form] || (figure.panels.every((p) => overCategories.asks(p) <= room / 2) ? 2 : 1),
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
      box.append(DRAW[panel.form](panel, each, visible(panel), paper));
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
