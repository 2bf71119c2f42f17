// Figures: the panels are drawn already. A shape names its series and its mark, whose number it tells on pointing, by the
// arrow keys, and whose answers it lists by a click or Enter. A name in a legend hides its series in every figure.
const figures = (() => {
  const data = JSON.parse(at("figures-data").textContent);
  const off = new Set(); // labels of the series that are hidden
  const homes = [...document.querySelectorAll("figure[data-figure]")].map((home) => ({
    home,
    ...data[Number(home.dataset.figure)],
  }));

  function hide() {
    for (const {home, series} of homes) {
      for (const node of home.querySelectorAll("[data-series]"))
        node.style.display = off.has(series[node.dataset.series]) ? "none" : "";
      for (const button of home.querySelectorAll(".legend button"))
        button.setAttribute("aria-pressed", String(!off.has(button.dataset.label)));
    }
  }

  function tip(text, x, y) {
    const home = at("tip"),
      [title, ...told] = text.split("\n");
    home.replaceChildren(el("b", "", title), document.createTextNode(told.join("\n")));
    home.hidden = false;
    const box = home.getBoundingClientRect();
    home.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
    home.style.top = (y + box.height + 22 > innerHeight ? y - box.height - 12 : y + 16) + "px";
  }

  function untip() {
    at("tip").hidden = true;
  }

  function follow(number, answers) {
    if (number === undefined || !answers[number]) return;
    untip();
    document.dispatchEvent(new CustomEvent("answers", {detail: answers[number]}));
  }

  // The shapes of a panel that tell a number, in reading order, without those of hidden series.
  const telling = (plot) =>
    [...plot.querySelectorAll("[data-mark][aria-label]")]
      .filter((node) => node.style.display !== "none")
      .sort((a, b) => a.dataset.mark - b.dataset.mark);

  function activate(plot, node) {
    plot.querySelectorAll(".active").forEach((other) => other.classList.remove("active"));
    if (node) node.classList.add("active");
  }

  function walk(plot, answers, event) {
    const marks = telling(plot),
      here = marks.findIndex((node) => node.classList.contains("active"));
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (event.key === "Enter" && here >= 0) follow(marks[here].dataset.mark, answers);
    if (event.key === "Escape") untip();
    if (!step || !marks.length) return;
    event.preventDefault();
    const to = marks[here < 0 ? (step > 0 ? 0 : marks.length - 1) : (here + step + marks.length) % marks.length],
      box = to.getBoundingClientRect();
    activate(plot, to);
    tip(to.getAttribute("aria-label"), box.x + box.width / 2, box.y + box.height / 2);
  }

  for (const {home, answers} of homes) {
    for (const button of home.querySelectorAll(".legend button"))
      button.addEventListener("click", () => {
        if (!off.delete(button.dataset.label)) off.add(button.dataset.label);
        hide();
      });
    for (const plot of home.querySelectorAll("svg.plot")) {
      const of = (event) => event.target.closest("[data-mark]")?.dataset.mark;
      plot.addEventListener("pointerover", (event) => {
        const told = plot.querySelector(`[data-mark="${of(event)}"][aria-label]`);
        if (told) tip(told.getAttribute("aria-label"), event.clientX, event.clientY);
        else untip();
      });
      plot.addEventListener("pointerleave", untip);
      plot.addEventListener("click", (event) => follow(of(event), answers));
      plot.addEventListener("keydown", (event) => walk(plot, answers, event));
      plot.addEventListener("blur", () => {
        untip();
        activate(plot, null);
      });
      for (const node of plot.querySelectorAll("[data-mark]"))
        if (answers[node.dataset.mark]) node.classList.add("go");
    }
  }
  return {off, hide};
})();
