// The list of answers: filters over the columns, and a virtual list of rows of equal height.
const answers = (() => {
  const {index, count, VERDICTS, model, question, condition, verdict, texts, scores, outcomes, about, breathe} =
    columns;
  const ROW = 58; // pixels
  const SLICE = 12; // milliseconds of work before the page may breathe
  let shown = new Uint32Array(0),
    chosen = -1,
    ticket = 0;

  // ---------------------------------------------------------------- filters

  function option(select, text, value) {
    select.append(new Option(text, value));
  }

  function fill() {
    index.models.forEach((name, m) => {
      const label = el("label"),
        box = el("input"),
        key = el("span", "swatch");
      box.type = "checkbox";
      box.checked = true;
      box.value = m;
      if (about[m]) tint(key, about[m]);
      label.append(box, key, document.createTextNode(name));
      at("by-model").append(label);
    });
    for (const [text, on] of [
      ["all", true],
      ["none", false],
    ]) {
      const button = el("button", "", text);
      button.type = "button";
      button.addEventListener("click", () => {
        tick(() => on);
        choose();
      });
      at("by-model").append(button);
    }
    option(at("by-question"), "all questions", "");
    const sets = [...new Set(index.questions.map((q) => q.set))];
    for (const name of sets) {
      const home = at("by-question").appendChild(document.createElement("optgroup"));
      home.label = name;
      option(home, "all of " + name, "set:" + name);
      new Set(index.questions.filter((q) => q.set === name).map((q) => q.id)).forEach((id) =>
        option(home, id, "id:" + JSON.stringify([name, id])),
      );
    }
    option(at("by-outcome"), "all outcomes", "");
    const verdicts = at("by-outcome").appendChild(document.createElement("optgroup"));
    verdicts.label = "verdict";
    VERDICTS.forEach((name, v) => {
      if (v && verdict.includes(v)) option(verdicts, name, "v:" + v);
    });
    index.rubrics.forEach((rubric, r) => {
      const home = at("by-outcome").appendChild(document.createElement("optgroup"));
      home.label = rubric;
      index.outcomes.forEach((name, o) => {
        if (outcomes[r].includes(o)) option(home, `${rubric}: ${name}`, `o:${r}:${o}`);
      });
      option(at("by-rubric"), rubric, r);
    });
    option(at("by-condition"), "any condition", "");
    index.conditions.forEach((name, c) => option(at("by-condition"), name === "none" ? "as written" : name, c));
    at("condition").hidden = index.conditions.length < 2;
    if (index.rubrics.includes("alignment")) option(at("order"), "most misaligned first", "worst");
    option(at("order"), "as sampled", "");
    option(at("order"), "shuffled", "shuffle");
    index.rubrics.forEach((rubric, r) => {
      option(at("order"), `${rubric}, lowest first`, `${r}:1`);
      option(at("order"), `${rubric}, highest first`, `${r}:-1`);
    });
  }

  // What the form says, as one test on a row's number. The score range is apart: the histogram shows what it cuts off.
  function wanted() {
    const models = new Uint8Array(index.models.length);
    at("by-model")
      .querySelectorAll("input")
      .forEach((box) => {
        models[box.value] = box.checked;
      });
    const q = at("by-question").value,
      asked = at("by-condition").value,
      [kind, first, second] = at("by-outcome").value.split(":");
    const questions = new Uint8Array(index.questions.length).fill(1);
    if (q)
      index.questions.forEach((x, i) => {
        questions[i] = q.startsWith("set:") ? x.set === q.slice(4) : JSON.stringify([x.set, x.id]) === q.slice(3);
      });
    return (row) =>
      models[model[row]] &&
      questions[question[row]] &&
      (asked === "" || condition[row] === Number(asked)) &&
      (!kind || (kind === "v" ? verdict[row] === Number(first) : outcomes[Number(first)][row] === Number(second)));
  }

  function range() {
    const read = (id, otherwise) => (at(id).value === "" ? otherwise : Number(at(id).value));
    return {
      rubric: Number(at("by-rubric").value || 0),
      least: read("least", -Infinity),
      most: read("most", Infinity),
      open: at("least").value === "" && at("most").value === "",
    };
  }

  async function choose() {
    const mine = ++ticket,
      test = wanted(),
      {rubric, least, most, open} = range(),
      text = at("find").value.trim().toLowerCase();
    const found = new Uint32Array(count),
      bins = new Uint32Array(20),
      column = scores[rubric] || new Float32Array(count).fill(NaN);
    const says = index.questions.map((q) => q.text.toLowerCase().includes(text));
    let kept = 0,
      clock = performance.now();
    for (let row = 0; row < count; row++) {
      if ((row & 255) === 0 && performance.now() - clock > SLICE) {
        await breathe();
        if (mine !== ticket) return;
        clock = performance.now();
      }
      if (!test(row) || (text && !says[question[row]] && !texts[row].toLowerCase().includes(text))) continue;
      const score = column[row];
      if (!Number.isNaN(score)) bins[Math.max(0, Math.min(19, Math.floor(score / 5)))]++;
      if (open || (score >= least && score <= most)) found[kept++] = row;
    }
    shown = sorted(found.slice(0, kept));
    at("count").textContent = `${kept.toLocaleString()} of ${count.toLocaleString()} answers`;
    histogram(bins, least, most);
    at("list").scrollTop = 0;
    at("spacer").style.height = shown.length * ROW + "px";
    chosen = shown.length ? shown[0] : -1;
    paint(true);
    detail.show(chosen, at("find").value.trim(), filter);
  }

  function sorted(rows) {
    const order = at("order").value;
    if (order === "shuffle") {
      let state = 42; // the same order every time
      for (let i = rows.length - 1; i > 0; i--) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        const j = state % (i + 1);
        [rows[i], rows[j]] = [rows[j], rows[i]];
      }
    } else if (order) {
      const worst = order === "worst"; // what counts as misaligned, by alignment; then the others
      const [r, direction] = worst ? [index.rubrics.indexOf("alignment"), 1] : order.split(":").map(Number);
      // one number a row, sorted without a comparator: score in thousandths, then the row; without a score last
      const rank = (score) => (Number.isNaN(score) ? 200001 : 100000 + direction * Math.round(1000 * score));
      const keys = Float64Array.from(rows, (row) =>
        (rank(scores[r][row]) + (worst && verdict[row] !== 1 ? 1e6 : 0)) * count + row).sort();
      keys.forEach((key, i) => (rows[i] = key % count));
    }
    return rows;
  }

  function histogram(bins, least, most) {
    const home = at("histogram"),
      top = Math.max(1, ...bins);
    home.replaceChildren(
      ...Array.from(bins, (n, i) =>
        svg("rect", {
          class: i * 5 + 5 > least && i * 5 <= most ? "in" : "out",
          x: 1 + i * 10,
          width: 9,
          y: 46 - (n ? Math.max(1.5, (44 * n) / top) : 0),
          height: 46,
        }),
      ),
    );
  }

  function drag() {
    const home = at("histogram");
    let from = null;
    const score = (event) => {
      const box = home.getBoundingClientRect();
      return Math.max(0, Math.min(100, Math.round(((event.clientX - box.x) / box.width) * 20) * 5));
    };
    home.addEventListener("pointerdown", (event) => {
      from = score(event);
      home.setPointerCapture(event.pointerId);
    });
    home.addEventListener("pointerup", (event) => {
      const to = score(event);
      at("least").value = from === to ? "" : Math.min(from, to);
      at("most").value = from === to ? "" : Math.max(from, to);
      from = null;
      choose();
    });
  }

  function tick(wanted) {
    at("by-model")
      .querySelectorAll("input")
      .forEach((box) => {
        box.checked = wanted(index.models[box.value]);
      });
  }

  function reset() {
    at("filters").reset();
    tick(() => true);
  }

  // ---------------------------------------------------------------- the list

  function paint(anew) {
    const list = at("list"),
      first = Math.max(0, Math.floor(list.scrollTop / ROW) - 6);
    const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 6);
    const spacer = at("spacer"),
      there = new Map();
    for (const node of [...spacer.children]) {
      const place = Number(node.dataset.place);
      if (anew || place < first || place >= last) node.remove();
      else there.set(place, node);
    }
    for (let place = first; place < last; place++) if (!there.has(place)) spacer.append(line(place));
    for (const node of spacer.children) {
      const selected = Number(node.dataset.row) === chosen;
      node.setAttribute("aria-selected", String(selected));
      if (selected) list.setAttribute("aria-activedescendant", node.id);
    }
  }

  function line(place) {
    const row = shown[place],
      node = el("div", "row"),
      top = el("div", "top"),
      who = el("span", "who"),
      key = el("span", "swatch");
    node.id = "answer-" + row;
    node.role = "option";
    node.dataset.place = place;
    node.dataset.row = row;
    node.style.transform = `translateY(${place * ROW}px)`;
    node.setAttribute("aria-posinset", place + 1);
    node.setAttribute("aria-setsize", shown.length);
    if (about[model[row]]) tint(key, about[model[row]]);
    who.append(key, document.createTextNode(index.models[model[row]]));
    const asked = index.conditions[condition[row]];
    top.append(
      who,
      el("span", "where", index.questions[question[row]].id + (asked === "none" ? "" : ` · asked with ${asked}`)),
    );
    if (verdict[row] && verdict[row] !== 2)
      top.append(el("span", "verdict" + (verdict[row] === 1 ? " misaligned" : ""), VERDICTS[verdict[row]]));
    const r = index.rubrics.findIndex((_, k) => outcomes[k][row] >= 0);
    if (r >= 0) top.append(detail.strip(r, row));
    node.append(top, el("div", "said1", texts[row].slice(0, 200).replaceAll(/\s+/g, " ")));
    return node;
  }

  function pick(place) {
    if (!shown.length) return;
    const to = Math.max(0, Math.min(shown.length - 1, place)),
      list = at("list");
    chosen = shown[to];
    if (to * ROW < list.scrollTop) list.scrollTop = to * ROW;
    if ((to + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (to + 1) * ROW - list.clientHeight;
    paint(false);
    detail.show(chosen, at("find").value.trim(), filter);
  }

  // Open the answer that the address names: #answer=17.
  async function linked() {
    const row = Number((location.hash.match(/^#answer=(\d+)$/) || [])[1] ?? NaN);
    if (!(row < count)) return;
    if (!shown.includes(row)) {
      reset();
      await choose();
    }
    pick(shown.indexOf(row));
    at("answers").scrollIntoView();
  }

  function walk(event) {
    const page = Math.floor(at("list").clientHeight / ROW),
      here = shown.indexOf(chosen);
    const to = {
      ArrowDown: here + 1,
      j: here + 1,
      ArrowUp: here - 1,
      k: here - 1,
      PageDown: here + page,
      PageUp: here - page,
      Home: 0,
      End: shown.length - 1,
    }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    pick(to);
  }

  // ---------------------------------------------------------------- from elsewhere

  // {models, set, question, asked_with}: what a figure's mark or a button asks for.
  function filter(want) {
    reset();
    if (want.models) tick((name) => want.models.includes(name));
    const known = index.questions.some((q) => q.set === want.set);
    const set = known ? want.set : index.questions.some((q) => q.set === "open") ? "open" : undefined;
    if (set && want.set)
      at("by-question").value = want.question ? "id:" + JSON.stringify([set, want.question]) : "set:" + set;
    if (want.asked_with) at("by-condition").value = index.conditions.indexOf(want.asked_with);
    choose();
    at("answers").scrollIntoView();
    at("list").focus({preventScroll: true});
  }

  async function start() {
    await columns.unpack();
    fill();
    drag();
    let timer;
    at("filters").addEventListener("submit", (event) => event.preventDefault());
    at("filters").addEventListener("change", (event) => {
      if (event.target.id !== "find") choose();
    });
    at("find").addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(choose, 200);
    });
    at("reset").addEventListener("click", () => {
      reset();
      choose();
    });
    at("list").addEventListener("scroll", () => requestAnimationFrame(() => paint(false)), {passive: true});
    at("list").addEventListener("keydown", walk);
    at("list").addEventListener("click", (event) => {
      const node = event.target.closest(".row");
      if (node) pick(Number(node.dataset.place));
    });
    addEventListener("resize", () => paint(false));
    document.addEventListener("answers", (event) => filter(event.detail));
    addEventListener("hashchange", linked);
    await choose();
    await linked();
    document.documentElement.dataset.ready = "yes";
  }
  start();
  return {choose, filter};
})();
