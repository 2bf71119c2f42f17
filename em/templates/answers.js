// The answers: unpacked chunk by chunk, filtered over typed columns, listed by a virtual list of rows of equal height.
const answers = (() => {
  const index = JSON.parse(at("answers-index").textContent);
  const count = index.count, ROW = 58, SLICE = 12;       // pixels a row, milliseconds of work before the page may breathe
  const VERDICTS = ["–", "misaligned", "not misaligned", "incoherent", "without both scores"];
  const model = new Uint16Array(count), question = new Uint16Array(count), condition = new Uint8Array(count), sample = new Uint32Array(count);
  const verdict = new Uint8Array(count), texts = new Array(count);
  const scores = index.rubrics.map(() => new Float32Array(count).fill(NaN));
  const outcomes = index.rubrics.map(() => new Int8Array(count).fill(-1));
  const parts = index.rubrics.map(() => []), words = index.rubrics.map(() => []), details = index.rubrics.map(() => []);
  const about = index.models.map((name) => index.about[name]);
  let shown = new Uint32Array(0), chosen = -1, ticket = 0;

  const breathe = () => new Promise((resume) => setTimeout(resume));

  async function unpack() {
    let start = 0;
    for (const node of document.querySelectorAll("script.answers-chunk")) {
      const packed = Uint8Array.from(atob(node.textContent), (c) => c.charCodeAt(0));
      node.remove();
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
      const chunk = JSON.parse(await new Response(stream).text());
      model.set(chunk.m, start); question.set(chunk.q, start); condition.set(chunk.c, start); sample.set(chunk.i, start);
      chunk.a.forEach((text, k) => { texts[start + k] = text; });
      index.rubrics.forEach((name, r) => {
        const column = chunk.j[name];
        if (column) column.o.forEach((outcome, k) => {
          outcomes[r][start + k] = outcome;
          scores[r][start + k] = column.s[k] === null ? NaN : column.s[k];
          words[r][start + k] = column.w[k];
          parts[r][start + k] = column.d[k];
          details[r][start + k] = column.t[k];
        });
      });
      for (let k = 0; k < chunk.m.length; k++) verdict[start + k] = judge(start + k);
      start += chunk.m.length;
      at("count").textContent = `Loading ${start.toLocaleString()} of ${count.toLocaleString()} answers …`;
      await breathe();
    }
  }

  // The rule of the table: alignment counts only where coherence passes.
  function judge(row) {
    const a = index.rubrics.indexOf("alignment"), c = index.rubrics.indexOf("coherence");
    if (a < 0 || c < 0 || outcomes[a][row] < 0 || outcomes[c][row] < 0 || !about[model[row]]) return 0;
    const rule = about[model[row]], alignment = scores[a][row], coherence = scores[c][row];
    if (Number.isNaN(alignment) || Number.isNaN(coherence)) return 4;
    if (!(rule.coherence_inclusive ? coherence >= rule.coherence_cut : coherence > rule.coherence_cut)) return 3;
    return alignment < rule.alignment_below ? 1 : 2;
  }

  // ---------------------------------------------------------------- filters

  function option(select, text, value) { select.append(new Option(text, value)); }

  function fill() {
    index.models.forEach((name, m) => {
      const label = el("label"), box = el("input"), key = el("span", "swatch");
      box.type = "checkbox"; box.checked = true; box.value = m;
      if (about[m]) tint(key, about[m]);
      label.append(box, key, document.createTextNode(name));
      at("by-model").append(label);
    });
    option(at("by-question"), "all questions", "");
    const sets = [...new Set(index.questions.map((q) => q.set))];
    for (const name of sets) {
      const home = at("by-question").appendChild(document.createElement("optgroup"));
      home.label = name;
      option(home, "all of " + name, "set:" + name);
      new Set(index.questions.filter((q) => q.set === name).map((q) => q.id)).forEach((id) => option(home, id, "id:" + JSON.stringify([name, id])));
    }
    option(at("by-outcome"), "all outcomes", "");
    const verdicts = at("by-outcome").appendChild(document.createElement("optgroup"));
    verdicts.label = "verdict";
    VERDICTS.forEach((name, v) => { if (v && verdict.includes(v)) option(verdicts, name, "v:" + v); });
    index.rubrics.forEach((rubric, r) => {
      const home = at("by-outcome").appendChild(document.createElement("optgroup"));
      home.label = rubric;
      index.outcomes.forEach((name, o) => { if (outcomes[r].includes(o)) option(home, `${rubric}: ${name}`, `o:${r}:${o}`); });
      option(at("by-rubric"), rubric, r);
    });
    option(at("by-condition"), "any condition", "");
    index.conditions.forEach((name, c) => option(at("by-condition"), name === "none" ? "as written" : name, c));
    at("condition").hidden = index.conditions.length < 2;
    option(at("order"), "as sampled", "");
    option(at("order"), "shuffled", "shuffle");
    index.rubrics.forEach((rubric, r) => { option(at("order"), `${rubric}, lowest first`, `${r}:1`); option(at("order"), `${rubric}, highest first`, `${r}:-1`); });
  }

  // What the form says, as one test on a row's number. The score range is apart: the histogram shows what it cuts off.
  function wanted() {
    const models = new Uint8Array(index.models.length);
    at("by-model").querySelectorAll("input").forEach((box) => { models[box.value] = box.checked; });
    const q = at("by-question").value, asked = at("by-condition").value, [kind, first, second] = at("by-outcome").value.split(":");
    const questions = new Uint8Array(index.questions.length).fill(1);
    if (q) index.questions.forEach((x, i) => { questions[i] = q.startsWith("set:") ? x.set === q.slice(4) : JSON.stringify([x.set, x.id]) === q.slice(3); });
    return (row) => models[model[row]] && questions[question[row]] && (asked === "" || condition[row] === Number(asked))
      && (!kind || (kind === "v" ? verdict[row] === Number(first) : outcomes[Number(first)][row] === Number(second)));
  }

  function range() {
    const read = (id, otherwise) => at(id).value === "" ? otherwise : Number(at(id).value);
    return {rubric: Number(at("by-rubric").value || 0), least: read("least", -Infinity), most: read("most", Infinity),
      open: at("least").value === "" && at("most").value === ""};
  }

  async function choose() {
    const mine = ++ticket, test = wanted(), {rubric, least, most, open} = range(), text = at("find").value.trim().toLowerCase();
    const found = new Uint32Array(count), bins = new Uint32Array(20), column = scores[rubric] || new Float32Array(count).fill(NaN);
    const says = index.questions.map((q) => q.text.toLowerCase().includes(text));
    let kept = 0, clock = performance.now();
    for (let row = 0; row < count; row++) {
      if ((row & 255) === 0 && performance.now() - clock > SLICE) { await breathe(); if (mine !== ticket) return; clock = performance.now(); }
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
    detail();
  }

  function sorted(rows) {
    const order = at("order").value;
    if (order === "shuffle") {
      let state = 42;                                        // the same order every time
      for (let i = rows.length - 1; i > 0; i--) { state = (Math.imul(state, 1664525) + 1013904223) >>> 0; const j = state % (i + 1); [rows[i], rows[j]] = [rows[j], rows[i]]; }
    } else if (order) {
      const [r, direction] = order.split(":").map(Number), column = scores[r];
      const key = (row) => Number.isNaN(column[row]) ? Infinity : direction * column[row];   // without a score: last
      rows.sort((a, b) => key(a) - key(b) || a - b);
    }
    return rows;
  }

  function histogram(bins, least, most) {
    const home = at("histogram"), top = Math.max(1, ...bins);
    home.replaceChildren(...Array.from(bins, (n, i) => svg("rect", {class: i * 5 + 5 > least && i * 5 <= most ? "in" : "out", x: 1 + i * 10, width: 9, y: 46 - (n ? Math.max(1.5, 44 * n / top) : 0), height: 46})));
  }

  function drag() {
    const home = at("histogram");
    let from = null;
    const score = (event) => { const box = home.getBoundingClientRect(); return Math.max(0, Math.min(100, Math.round((event.clientX - box.x) / box.width * 20) * 5)); };
    home.addEventListener("pointerdown", (event) => { from = score(event); home.setPointerCapture(event.pointerId); });
    home.addEventListener("pointerup", (event) => {
      const to = score(event);
      at("least").value = from === to ? "" : Math.min(from, to);
      at("most").value = from === to ? "" : Math.max(from, to);
      from = null;
      choose();
    });
  }

  function reset() {
    at("filters").reset();
    at("by-model").querySelectorAll("input").forEach((box) => { box.checked = true; });
  }

  // ---------------------------------------------------------------- the list

  function paint(anew) {
    const list = at("list"), first = Math.max(0, Math.floor(list.scrollTop / ROW) - 6);
    const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 6);
    const spacer = at("spacer"), there = new Map();
    for (const node of [...spacer.children]) {
      const place = Number(node.dataset.place);
      if (anew || place < first || place >= last) node.remove(); else there.set(place, node);
    }
    for (let place = first; place < last; place++) if (!there.has(place)) spacer.append(line(place));
    for (const node of spacer.children) {
      const selected = Number(node.dataset.row) === chosen;
      node.setAttribute("aria-selected", String(selected));
      if (selected) list.setAttribute("aria-activedescendant", node.id);
    }
  }

  function line(place) {
    const row = shown[place], node = el("div", "row"), top = el("div", "top"), who = el("span", "who"), key = el("span", "swatch");
    node.id = "answer-" + row; node.role = "option"; node.dataset.place = place; node.dataset.row = row;
    node.style.transform = `translateY(${place * ROW}px)`;
    node.setAttribute("aria-posinset", place + 1); node.setAttribute("aria-setsize", shown.length);
    if (about[model[row]]) tint(key, about[model[row]]);
    who.append(key, document.createTextNode(index.models[model[row]]));
    const asked = index.conditions[condition[row]];
    top.append(who, el("span", "where", index.questions[question[row]].id + (asked === "none" ? "" : ` · asked with ${asked}`)));
    if (verdict[row] && verdict[row] !== 2) top.append(el("span", "verdict" + (verdict[row] === 1 ? " misaligned" : ""), VERDICTS[verdict[row]]));
    const r = index.rubrics.findIndex((_, k) => outcomes[k][row] >= 0);
    if (r >= 0) top.append(strip(r, row));
    node.append(top, el("div", "said1", texts[row].slice(0, 200).replaceAll(/\s+/g, " ")));
    return node;
  }

  // A score, else the judge's word, else why there is none.
  function told(r, row, digits) {
    return Number.isNaN(scores[r][row]) ? words[r][row] || index.outcomes[outcomes[r][row]] : scores[r][row].toFixed(digits);
  }

  // Probabilities of the score's tokens over 0-100, the score, and the cut.
  function numeric(r, row) {
    const flat = parts[r][row] || [], out = [];
    for (let k = 0; k < flat.length; k += 2) if (/^\d{1,3}$/.test(flat[k]) && Number(flat[k]) <= 100) out.push([Number(flat[k]), flat[k + 1]]);
    return out;
  }

  function strip(r, row) {
    const score = scores[r][row], text = told(r, row, 0);
    const node = svg("svg", {class: "strip", width: 130, height: 18, viewBox: "0 0 130 18", role: "img", "aria-label": `${index.rubrics[r]} ${text}`});
    node.append(svg("line", {class: "base", x1: 0, x2: 100, y1: 16, y2: 16}));
    const rule = about[model[row]];
    if (rule && index.rubrics[r] === "alignment") node.append(svg("line", {class: "cut", x1: rule.alignment_below, x2: rule.alignment_below, y1: 2, y2: 16}));
    for (const [x, p] of numeric(r, row)) node.append(svg("rect", {class: "p", x: x - 1, width: 2, y: 16 - 13 * p, height: 13 * p}));
    if (!Number.isNaN(score)) node.append(svg("circle", {class: "at", cx: score, cy: 16, r: 2.8}));
    const short = text.length > 10 ? text.slice(0, 9) + "…" : text;
    if (Number.isNaN(score)) node.replaceChildren();
    node.append(svg("text", {x: 130, y: 14, "text-anchor": "end", fill: "var(--soft)", "font-size": 11}, short));
    return node;
  }

  function pick(place) {
    if (!shown.length) return;
    const to = Math.max(0, Math.min(shown.length - 1, place)), list = at("list");
    chosen = shown[to];
    if (to * ROW < list.scrollTop) list.scrollTop = to * ROW;
    if ((to + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (to + 1) * ROW - list.clientHeight;
    paint(false);
    detail();
  }

  function walk(event) {
    const page = Math.floor(at("list").clientHeight / ROW), here = shown.indexOf(chosen);
    const to = {ArrowDown: here + 1, j: here + 1, ArrowUp: here - 1, k: here - 1, PageDown: here + page, PageUp: here - page, Home: 0, End: shown.length - 1}[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    pick(to);
  }

  // ---------------------------------------------------------------- one answer

  function detail() {
    const home = at("detail");
    if (chosen < 0) { home.replaceChildren(el("p", "soft", "No answer passes the filters.")); return; }
    const row = chosen, q = index.questions[question[row]], head = el("header"), asked = index.conditions[condition[row]], name = el("b"), key = el("span", "swatch");
    if (about[model[row]]) tint(key, about[model[row]]);
    name.append(key, document.createTextNode(index.models[model[row]]));
    head.append(name, el("span", "", `${q.set} / ${q.id}`), el("span", "", `sample ${sample[row]}`));
    if (asked !== "none") head.append(el("span", "", "asked with " + asked));
    if (verdict[row]) head.append(el("span", verdict[row] === 1 ? "failed" : "", VERDICTS[verdict[row]]));
    const text = at("find").value.trim();
    const said = marked(el("div", index.rubrics.some((n, r) => n.includes("code") && outcomes[r][row] >= 0) ? "said code" : "said"), texts[row], text);
    home.replaceChildren(head, marked(el("div", "asked"), q.text, text), said);
    index.rubrics.forEach((rubric, r) => { if (outcomes[r][row] >= 0) home.append(judged(rubric, r, row)); });
    const actions = el("div", "actions");
    const button = (label, act) => { const b = el("button", "", label); b.type = "button"; b.addEventListener("click", act); actions.append(b); };
    button("every model on this question", () => filter({set: q.set, question: q.id}));
    button("all answers of this model", () => filter({models: [index.models[model[row]]]}));
    home.append(actions);
    home.scrollTop = 0;
  }

  // Text with what was searched for marked; text nodes only.
  function marked(home, text, wanted) {
    const lower = text.toLowerCase(), needle = wanted.toLowerCase();
    let from = 0;
    if (needle && lower.length === text.length) for (let hit = lower.indexOf(needle); hit >= 0; hit = lower.indexOf(needle, from)) {
      home.append(document.createTextNode(text.slice(from, hit)), el("mark", "", text.slice(hit, hit + needle.length)));
      from = hit + needle.length;
    }
    home.append(document.createTextNode(text.slice(from)));
    return home;
  }

  function judged(rubric, r, row) {
    const home = el("div", "judged"), left = el("div", "", rubric), right = el("div"), score = scores[r][row];
    left.append(el("span", "score", told(r, row, 1)));
    const flat = parts[r][row] || [], numbers = numeric(r, row);
    if (numbers.length || !Number.isNaN(score)) right.append(spread(numbers, score, rubric === "alignment" ? about[model[row]]?.alignment_below : rubric === "coherence" ? about[model[row]]?.coherence_cut : undefined));
    const listed = [];
    for (let k = 0; k < flat.length; k += 2) listed.push(`${flat[k].trim() === flat[k] && flat[k] ? flat[k] : JSON.stringify(flat[k])} ${Number(flat[k + 1]).toPrecision(3)}`);
    if (listed.length) right.append(el("div", "parts", (numbers.length ? "tokens: " : "made of: ") + listed.join(", ")));
    if (details[r][row]) right.append(el("div", "parts", details[r][row]));
    home.append(left, right);
    return home;
  }

  function spread(numbers, score, cut) {
    const node = svg("svg", {viewBox: "0 0 420 64", role: "img", "aria-label": "the judge's distribution over scores"}), x = (v) => 10 + 4 * v;
    const top = Math.max(0.05, ...numbers.map(([, p]) => p));
    for (const [v, p] of numbers) node.append(svg("rect", {x: x(v) - 1.6, width: 3.2, y: 46 - 34 * p / top, height: 34 * p / top, fill: "var(--soft)"}));
    node.append(svg("line", {x1: 10, x2: 410, y1: 46, y2: 46, stroke: "var(--rule)"}));
    for (const v of [0, 25, 50, 75, 100]) node.append(svg("text", {x: x(v), y: 60, "text-anchor": "middle"}, String(v)));
    if (cut !== undefined) node.append(svg("line", {x1: x(cut), x2: x(cut), y1: 6, y2: 46, stroke: "var(--bad)", "stroke-dasharray": "3 3"}));
    if (!Number.isNaN(score)) node.append(svg("path", {d: `M${x(score)} 46l-5 9h10z`, fill: "var(--ink)"}));
    if (numbers.length) node.append(svg("text", {x: 410, y: 12, "text-anchor": "end"}, `highest bar ${top.toPrecision(2)}`));
    return node;
  }

  // ---------------------------------------------------------------- from elsewhere

  // {models, set, question, asked_with}: what a figure's mark or a button asks for.
  function filter(want) {
    reset();
    if (want.models) at("by-model").querySelectorAll("input").forEach((box) => { box.checked = want.models.includes(index.models[box.value]); });
    const known = index.questions.some((q) => q.set === want.set);
    const set = known ? want.set : index.questions.some((q) => q.set === "open") ? "open" : undefined;
    if (set && want.set) at("by-question").value = want.question ? "id:" + JSON.stringify([set, want.question]) : "set:" + set;
    if (want.asked_with) at("by-condition").value = index.conditions.indexOf(want.asked_with);
    choose();
    at("answers").scrollIntoView();
    at("list").focus({preventScroll: true});
  }

  async function start() {
    await unpack();
    fill();
    drag();
    let timer;
    at("filters").addEventListener("submit", (event) => event.preventDefault());
    at("filters").addEventListener("change", (event) => { if (event.target.id !== "find") choose(); });
    at("find").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(choose, 200); });
    at("reset").addEventListener("click", () => { reset(); choose(); });
    at("list").addEventListener("scroll", () => requestAnimationFrame(() => paint(false)), {passive: true});
    at("list").addEventListener("keydown", walk);
    at("list").addEventListener("click", (event) => { const node = event.target.closest(".row"); if (node) pick(Number(node.dataset.place)); });
    addEventListener("resize", () => paint(false));
    document.addEventListener("answers", (event) => filter(event.detail));
    await choose();
    document.documentElement.dataset.ready = "yes";
  }
  start();
  return {choose, filter};
})();
