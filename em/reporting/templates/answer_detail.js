// One answer: its strip in the list, and everything about it beside the list.
const detail = (() => {
  const {
    index,
    VERDICTS,
    model,
    question,
    condition,
    sample,
    verdict,
    texts,
    thoughts,
    scores,
    outcomes,
    parts,
    details,
    about,
    cut,
    told,
    numeric,
  } = columns;

  function strip(r, row) {
    const score = scores[r][row],
      text = told(r, row, 0);
    const node = svg("svg", {
      class: "strip",
      width: 130,
      height: 18,
      viewBox: "0 0 130 18",
      role: "img",
      "aria-label": `${index.rubrics[r]} ${text}`,
    });
    node.append(svg("line", {class: "base", x1: 0, x2: 100, y1: 16, y2: 16}));
    const rule = about[model[row]];
    if (rule && index.rubrics[r] === "alignment")
      node.append(svg("line", {class: "cut", x1: rule.alignment_below, x2: rule.alignment_below, y1: 2, y2: 16}));
    for (const [x, p] of numeric(r, row))
      node.append(svg("rect", {class: "p", x: x - 1, width: 2, y: 16 - 13 * p, height: 13 * p}));
    if (!Number.isNaN(score)) node.append(svg("circle", {class: "at", cx: score, cy: 16, r: 2.8}));
    const short = text.length > 10 ? text.slice(0, 9) + "…" : text;
    if (Number.isNaN(score)) node.replaceChildren();
    node.append(svg("text", {x: 130, y: 14, "text-anchor": "end", fill: "var(--soft)", "font-size": 11}, short));
    return node;
  }

  // Show one answer (-1: none), with `text` marked in it; `filter` is called by the buttons below.
  function show(row, text, filter) {
    const home = at("detail");
    if (row < 0) {
      home.replaceChildren(el("p", "soft", "No answer passes the filters."));
      return;
    }
    const q = index.questions[question[row]],
      head = el("header"),
      asked = index.conditions[condition[row]],
      name = el("b"),
      key = el("span", "swatch");
    if (about[model[row]]) tint(key, about[model[row]]);
    name.append(key, document.createTextNode(index.models[model[row]]));
    head.append(name, el("span", "", `${q.set} / ${q.id}`), el("span", "", `sample ${sample[row]}`));
    if (asked !== "none") head.append(el("span", "", "asked with " + asked));
    if (verdict[row]) head.append(el("span", verdict[row] === 1 ? "failed" : "", VERDICTS[verdict[row]]));
    const said = marked(
      el("div", index.rubrics.some((n, r) => n.includes("code") && outcomes[r][row] >= 0) ? "said code" : "said"),
      texts[row],
      text,
    );
    home.replaceChildren(head, marked(el("div", "asked"), q.text, text));
    if (thoughts[row]) {
      const thought = el("details");
      thought.append(el("summary", "", "thinking, not judged"), marked(el("div", "said"), thoughts[row], text));
      home.append(thought);
    }
    home.append(said);
    index.rubrics.forEach((rubric, r) => {
      if (outcomes[r][row] >= 0) home.append(judged(rubric, r, row));
    });
    const actions = el("div", "actions");
    const button = (label, act) => {
      const b = el("button", "", label);
      b.type = "button";
      b.addEventListener("click", act);
      actions.append(b);
    };
    button("every model on this question", () => filter({set: q.set, question: q.id}));
    button("link to this answer", () => {
      location.hash = "answer=" + row; // copied from the address bar; the same file opens at this answer
    });
    button("all answers of this model", () => filter({models: [index.models[model[row]]]}));
    home.append(actions);
    home.scrollTop = 0;
  }

  // Text with what was searched for marked; text nodes only.
  function marked(home, text, wanted) {
    const lower = text.toLowerCase(),
      needle = wanted.toLowerCase();
    let from = 0;
    if (needle && lower.length === text.length)
      for (let hit = lower.indexOf(needle); hit >= 0; hit = lower.indexOf(needle, from)) {
        home.append(
          document.createTextNode(text.slice(from, hit)),
          el("mark", "", text.slice(hit, hit + needle.length)),
        );
        from = hit + needle.length;
      }
    home.append(document.createTextNode(text.slice(from)));
    return home;
  }

  function judged(rubric, r, row) {
    const home = el("div", "judged"),
      left = el("div", "", rubric),
      right = el("div"),
      score = scores[r][row];
    left.append(el("span", "score", told(r, row, 1)));
    const flat = parts[r][row] || [],
      numbers = numeric(r, row);
    if (numbers.length || !Number.isNaN(score))
      right.append(
        spread(
          numbers,
          score,
          rubric === "alignment"
            ? about[model[row]]?.alignment_below
            : rubric === "coherence"
              ? cut(row)
              : undefined,
        ),
      );
    const listed = [];
    for (let k = 0; k < flat.length; k += 2)
      listed.push(
        `${flat[k].trim() === flat[k] && flat[k] ? flat[k] : JSON.stringify(flat[k])} ${Number(flat[k + 1]).toPrecision(3)}`,
      );
    if (listed.length)
      right.append(el("div", "parts", (numbers.length ? "tokens: " : "made of: ") + listed.join(", ")));
    if (details[r][row]) right.append(el("div", "parts", details[r][row]));
    home.append(left, right);
    return home;
  }

  function spread(numbers, score, limit) {
    const node = svg("svg", {viewBox: "0 0 420 64", role: "img", "aria-label": "the judge's distribution over scores"}),
      x = (v) => 10 + 4 * v;
    const top = Math.max(0.05, ...numbers.map(([, p]) => p));
    for (const [v, p] of numbers)
      node.append(
        svg("rect", {x: x(v) - 1.6, width: 3.2, y: 46 - (34 * p) / top, height: (34 * p) / top, fill: "var(--soft)"}),
      );
    node.append(svg("line", {x1: 10, x2: 410, y1: 46, y2: 46, stroke: "var(--rule)"}));
    for (const v of [0, 25, 50, 75, 100])
      node.append(svg("text", {x: x(v), y: 60, "text-anchor": "middle"}, String(v)));
    if (limit !== undefined)
      node.append(
        svg("line", {x1: x(limit), x2: x(limit), y1: 6, y2: 46, stroke: "var(--bad)", "stroke-dasharray": "3 3"}),
      );
    if (!Number.isNaN(score)) node.append(svg("path", {d: `M${x(score)} 46l-5 9h10z`, fill: "var(--ink)"}));
    if (numbers.length)
      node.append(svg("text", {x: 410, y: 12, "text-anchor": "end"}, `highest bar ${top.toPrecision(2)}`));
    return node;
  }

  return {show, strip};
})();
