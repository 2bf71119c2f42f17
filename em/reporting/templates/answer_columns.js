// The answers as typed columns, unpacked chunk by chunk so that the page never stops.
const columns = (() => {
  const index = JSON.parse(at("answers-index").textContent);
  const count = index.count;
  const VERDICTS = index.verdicts;
  const model = new Uint16Array(count),
    question = new Uint16Array(count),
    condition = new Uint8Array(count),
    sample = new Uint32Array(count);
  const verdict = new Uint8Array(count),
    texts = new Array(count),
    thoughts = new Array(count);
  const scores = index.rubrics.map(() => new Float32Array(count).fill(NaN));
  const outcomes = index.rubrics.map(() => new Int8Array(count).fill(-1));
  const parts = index.rubrics.map(() => []),
    words = index.rubrics.map(() => []),
    details = index.rubrics.map(() => []);
  const about = index.models.map((name) => index.about[name]);

  const breathe = () => new Promise((resume) => setTimeout(resume));

  async function unpack() {
    let start = 0;
    for (const node of document.querySelectorAll("script.answers-chunk")) {
      const text = atob(node.textContent),
        packed = new Uint8Array(text.length);
      for (let k = 0; k < text.length; k++) packed[k] = text.charCodeAt(k);
      node.remove();
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
      const chunk = JSON.parse(await new Response(stream).text());
      model.set(chunk.m, start);
      question.set(chunk.q, start);
      condition.set(chunk.c, start);
      sample.set(chunk.i, start);
      chunk.a.forEach((text, k) => {
        texts[start + k] = text;
        thoughts[start + k] = chunk.r[k];
      });
      index.rubrics.forEach((name, r) => {
        const column = chunk.j[name];
        if (column)
          column.o.forEach((outcome, k) => {
            outcomes[r][start + k] = outcome;
            scores[r][start + k] = column.s[k] === null ? NaN : column.s[k];
            words[r][start + k] = column.w[k];
            parts[r][start + k] = column.d[k];
            details[r][start + k] = column.t[k];
          });
      });
      verdict.set(chunk.v, start);
      start += chunk.m.length;
      at("count").textContent = `Loading ${start.toLocaleString()} of ${count.toLocaleString()} answers …`;
      await breathe();
    }
  }

  // A question's cut on coherence: its own, where it has one.
  function cut(row) {
    const rule = about[model[row]];
    return rule && (rule.own_cuts?.[index.questions[question[row]].id] ?? rule.coherence_cut);
  }

  // A score, else the judge's word, else why there is none.
  function told(r, row, digits) {
    return Number.isNaN(scores[r][row])
      ? words[r][row] || index.outcomes[outcomes[r][row]]
      : scores[r][row].toFixed(digits);
  }

  // Probabilities of the score's tokens over 0-100, the score, and the cut.
  function numeric(r, row) {
    const flat = parts[r][row] || [],
      out = [];
    for (let k = 0; k < flat.length; k += 2)
      if (/^\d{1,3}$/.test(flat[k]) && Number(flat[k]) <= 100) out.push([Number(flat[k]), flat[k + 1]]);
    return out;
  }

  return {
    index,
    count,
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
    breathe,
    unpack,
    cut,
    told,
    numeric,
  };
})();
