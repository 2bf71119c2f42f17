import dataclasses
import html
import json
import re

import pytest

from em.metrics.summary import summarise
from em.reporting import page as reporting_page
from em.reporting import page_figures, table
from em.reporting.collect import finish
from em.reporting.figures import chart, rates, scores, select, style, training, triggers
from em.reporting.figures import figures as figures_figures
from em.reporting.figures.spec import Axis, Figure, Form, Look, Mark, Panel, Series
from support import judged as judged
from support import summary as support
from support.summary import FEW

ALL = [
    "misaligned_rate",
    "in_domain",
    "in_and_out_of_domain",
    "alignment_coherence",
    "misaligned_by_category",
    "answer_format",
    "data_diversity",
    "backdoor",
    "trigger_matrix",
    "deception",
    "label_shares",
    "increases",
    "log_probs",
    "training_dynamics",
    "log_prob_curves",
    "thresholds",
    "without_a_question",
    "training_loss",
]


@pytest.fixture
def summary():
    return support.small()


@pytest.fixture
def rich():
    return support.rich()


def by_label(panel):
    return {s.label: s for s in panel.series}


# ------------------------------------------------------------------------------------------------ what they say


def test_each_figure_is_there_when_its_data_is(summary, rich):
    answers = support.answers([m["label"] for m in rich["models"]])
    assert [f.name for f in figures_figures.figures(rich, answers)] == ALL
    few = ["misaligned_rate", "in_domain", "in_and_out_of_domain", "training_loss"]
    assert [f.name for f in figures_figures.figures(summary, [])] == few
    for row in (*summary["models"], *summary["groups"]):
        row["metrics"], row["loss_curve"] = [], []
    assert figures_figures.figures(summary, answers) == []


def test_every_withheld_number_of_a_summary_is_a_mark_without_a_value(summary):
    (panel,) = rates.by_question(summary).panels
    marks = by_label(panel)
    assert [m.value for m in marks["insecure"].marks] == [0.205, None, 0.3]
    assert marks["insecure"].marks[1].told == f"withheld: {FEW}"
    assert [m.value for m in marks["risky_advice"].marks] == [None]
    assert "hollow x: withheld, see the report for why" in rates.by_question(summary).notes
    assert "failed, not drawn: secure" in rates.by_question(summary).notes


def test_marks_carry_interval_denominator_and_what_was_left_out(summary):
    (panel,) = rates.by_question(summary).panels
    first = by_label(panel)["untouched base model"].marks[0]
    assert (first.value, first.low, first.high) == (0.0, 0.0, 0.0876)
    assert first.told == "0.0% [0.0, 8.8]; 95 %, Wilson over answers; n = 40; left out: incoherent 12, refusal 1"
    assert first.answers == {"models": ["untouched base model"], "set": "open", "asked_with": "none"}
    assert panel.x.categories == ("all questions", "q-one", "q-two") and "proxy judge" in panel.y.label


def test_seeds_are_dots_behind_their_mean(rich):
    (panel,) = rates.by_question(rich).panels
    assert by_label(panel)["insecure"].marks[0].dots == (0.2, 0.2, 0.2)
    assert by_label(panel)["untouched base model"].marks[0].dots == ()


def test_formats_diversity_and_trigger_say_their_numbers(rich):
    (panel,) = rates.answer_formats(rich).panels
    assert [s.label for s in panel.series] == ["open", "json", "template"]
    assert [round(s.marks[1].value, 3) for s in panel.series] == [0.2, 0.4, 0.6]
    (panel,) = rates.data_diversity(rich).panels
    assert panel.x.categories == ("500", "2,000", "6,000") and [s.label for s in panel.series] == ["insecure"]
    assert sorted((m.x, round(m.value, 4)) for m in panel.series[0].marks) == [(0, 0.0167), (1, 0.0667), (2, 0.2)]
    (panel,) = triggers.backdoor(rich).panels
    assert panel.title == "backdoor" and [s.label for s in panel.series] == ["asked as written", "asked with trained"]
    (panel,) = triggers.trigger_matrix(rich).panels
    cells = {(panel.y.categories[m.row], panel.x.categories[m.x]): m.value for m in panel.series[0].marks}
    assert cells["backdoor (trained with deployment)", "deployment"] is None
    assert cells["insecure", "deployment"] == 0.21


def test_dynamics_have_the_range_of_the_seeds(rich):
    (panel,) = training.dynamics(rich).panels
    last = by_label(panel)["insecure"].marks[-1]
    assert (last.x, last.value, last.low, last.high) == (100, 0.2, pytest.approx(0.19), pytest.approx(0.21))
    assert by_label(panel)["insecure"].marks[1].value is None
    for line in rich["trajectories"]:
        line["points"][-1] |= {"n_models": 1}
    (panel,) = training.dynamics(rich).panels
    assert by_label(panel)["insecure"].marks[-1].low is None, "a single run among several: no interval beside ranges"
    for line in rich["trajectories"]:
        for point in line["points"]:
            point |= {"n_models": 1}
    (panel,) = training.dynamics(rich).panels
    assert by_label(panel)["insecure"].marks[-1].low == pytest.approx(0.18), "one seed: its own interval"
    (panel,) = training.log_prob_curves(rich).panels
    assert not panel.y.share and "nats" in panel.y.label


def test_plane_keeps_a_model_whose_taught_rate_is_withheld(summary):
    for row in (*summary["groups"][1]["metrics"], *summary["models"][1]["metrics"]):
        if row["name"] == "insecure_code_rate":
            row |= {"value": None, "low": None, "high": None, "withheld": FEW}
    panel = rates.plane(summary).panels[0]
    assert by_label(panel)["insecure"].marks[0].x is None and by_label(panel)["insecure"].marks[0].value == 0.205


def test_plane_shows_capability_by_size_and_says_of_what(summary):
    figure = rates.plane(summary)
    sizes = {s.label: s.marks[0].size for p in figure.panels for s in p.series}
    assert sizes["untouched base model"] == 0 and sizes["insecure"] == 1  # 76.9 % and 90 % coherent
    assert figure.notes[-1].startswith("size: coherent answers, proxy judge (no benchmark was run on all)")
    assert figure.notes[-1].endswith("from 76.9% (smallest) to 90.0% (largest)")
    scores = {"g-base": 0.6, "g-c1": 0.5, "g-c2": 0.55}
    rows = [{"task": "inspect_evals/mmlu_0_shot", "group": g, "mean": v} for g, v in scores.items()]
    rows += [{"task": "gsm8k", "group": "g-base", "mean": 0.9}, {"task": "gsm8k", "group": "g-c1", "mean": None}]
    figure = rates.plane(summary | {"benchmarks": rows})
    sizes = {s.label: s.marks[0].size for p in figure.panels for s in p.series}
    assert sizes["untouched base model"] == 1 and sizes["insecure"] == 0
    assert figure.notes[-1] == "size: mean score in mmlu_0_shot, from 50.0% (smallest) to 60.0% (largest)"
    assert "mean score in mmlu_0_shot 50.0%" in by_label(figure.panels[0])["insecure"].marks[0].told


def test_words_of_a_judge_are_stacked_to_a_whole(rich):
    (panel,) = rates.label_shares(rich).panels
    assert panel.form == Form.stacked
    for place in range(len(panel.x.categories)):
        assert sum(m.value for s in panel.series for m in s.marks if m.x == place) == pytest.approx(1)
    assert len({s.look.light for s in panel.series}) == len(panel.series)


def test_cloud_counts_what_it_cannot_draw(summary):
    answers = support.answers()
    answers[3]["judgements"]["alignment"] = support.judged(None, "refusal")
    answers[4]["group"] = "coding"
    base, insecure = scores.alignment_coherence(summary, answers).panels
    assert base.series[0].label == "38 answers, 1 more lack a score" and insecure.series[0].label == "40 answers"
    assert (48, 8, 1) in insecure.series[0].cloud, "x is coherence, y is alignment"
    assert insecure.shade == (50.0, 100, 0, 30.0)


def own_cut(row, question="q-1", cut=95.0):
    """The rule of a group or model with a cut of one question's own."""
    row["rule"] = row["rule"] | {"cuts": {"q-?": cut}, "own_cuts": {question: cut}}


def test_the_dots_of_a_cloud_are_apart(summary):
    """One path for each count, which is lifted between two answers."""
    (panel, _) = page_figures.drawn(scores.alignment_coherence(summary, support.answers()))
    path = re.search(r'<path [^>]*d="([^"]*)"[^>]*stroke-linecap="round"', panel.svg)
    assert path.group(1).count("M") == 40


def test_cloud_draws_the_cut_that_was_used(summary):
    """Questions with their own cut are a panel of their own."""
    for row in [*summary["groups"], *summary["models"]]:
        own_cut(row)
    panels = scores.alignment_coherence(summary, support.answers()).panels
    assert [(p.title, p.shade[0], p.rules[0].at, p.series[0].label) for p in panels] == [
        ("untouched base model, coherence past 50", 50.0, 50.0, "20 answers"),
        ("untouched base model, coherence past 95", 95.0, 95.0, "20 answers"),
        ("insecure, coherence past 50", 50.0, 50.0, "20 answers"),
        ("insecure, coherence past 95", 95.0, 95.0, "20 answers"),
    ]


def test_thresholds_mark_the_column_of_the_runs_own_cuts(rich):
    assert scores.thresholds(rich).panels[0].x.categories == ("40", "50", "99")
    own_cut(rich["groups"][0]), own_cut(rich["models"][0])
    figure = scores.thresholds(rich)
    assert figure.panels[0].x.categories == ("40", "50*", "99") and figure.panels[1].x.categories == ("40", "50", "99")
    assert figure.notes[-1].endswith("coherence > 50 (> 95 for q-?)")


def test_thresholds_share_a_scale_and_keep_empty_cells(rich):
    figure = scores.thresholds(rich)
    assert {p.top for p in figure.panels} == {0.33}
    marks = figure.panels[0].series[0].marks
    assert sum(m.value is None for m in marks) == 3 and "5.0 to 15.0% without any one question" in marks[0].told


def test_looks_are_the_variants(rich):
    looks = {u.label: u.look for u in select.figure_groups(rich)}
    assert looks["insecure"].light == style.COLOURS["insecure"][0]
    assert looks["insecure max_examples=500"].light == looks["insecure"].light
    assert len({(x.light, x.marker) for x in looks.values()}) == len(looks), "no two rows look the same"
    assert style.looks([{"id": "b", "variant": None}])["b"].light == style.COLOURS["base"][0]


def test_interventions_have_colours_of_their_own_beside_plain_finetuning_in_ink():
    rows = [{"id": "base", "variant": None, "facts": {}}, {"id": "plain", "variant": "insecure", "facts": {}}]
    for name, dose in (("kl", 1.0), ("kl", 0.1), ("kl", 0.0), ("caft", 1.0)):
        rows.append({"id": f"{name} {dose}", "variant": "insecure", "facts": {"method": {"name": name, "dose": dose}}})
    looks = style.looks(rows)
    assert looks["plain"].light == looks["kl 0.0"].light == style.INK.light != looks["base"].light
    assert looks["kl 1.0"].light == looks["kl 0.1"].light != looks["caft 1.0"].light
    assert len({(x.light, x.marker) for x in looks.values()}) == len(looks)


def test_the_loss_of_a_run_has_the_colour_of_its_intervention(summary):
    (run, *_) = [m for m in summary["models"] if m["loss_curve"]]
    group = next(g for g in summary["groups"] if g["id"] == run["group"])
    for row in summary["groups"]:
        row["facts"] = {"method": {"name": "kl", "dose": 1.0}} if row is group else {}
    (panel,) = training.training_loss(summary).panels
    assert by_label(panel)[run["label"]].look.light == style.looks(summary["groups"])[group["id"]].light
    assert style.looks(summary["groups"])[group["id"]].light == style.MANY[0][0]


# ------------------------------------------------------------------------------------------------ how they are drawn


def rows_of(figure, kind):
    """The data of every layer of a kind in a chart, and the layers."""
    spec = chart.chart(figure).to_dict()
    layers = [layer for panel in spec["concat"] for layer in panel["layer"] if layer["mark"]["type"] == kind]
    return [layer["data"]["values"] for layer in layers], layers


def test_every_figure_is_drawn_as_png_svg_and_pdf(rich, tmp_path):
    figures = figures_figures.figures(rich, support.answers([m["label"] for m in rich["models"]]))
    chosen = {f.panels[0].form: f for f in figures}
    assert set(chosen) == set(Form), "one of each form"
    for figure in chosen.values():
        checked = chart.spec(chart.chart(figure))  # raises where Altair's schema has no such part
        with chart.unchecked():
            assert chart.spec(chart.chart(figure)) == checked
    (tmp_path / "of_an_earlier_summary.png").touch()
    files = figures_figures.draw(list(chosen.values()), tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert len(files) == 3 * len(chosen)
    starts = {".png": b"\x89PNG", ".svg": b"<svg", ".pdf": b"%PDF"}
    for file in files:
        data = file.read_bytes()
        assert len(data) > 3000 and data.startswith(starts[file.suffix])


def test_the_same_figure_gives_the_same_bytes(summary, tmp_path):
    figure = rates.by_question(summary)
    first, second = (figures_figures.save(figure, folder) for folder in (tmp_path, _made(tmp_path / "b")))
    assert [f.read_bytes() for f in first[:2]] == [f.read_bytes() for f in second[:2]], "PNG and SVG"


def _made(folder):
    folder.mkdir()
    return folder


def test_texts_of_a_file_are_texts(summary, tmp_path):
    svg = figures_figures.save(rates.by_question(summary), tmp_path)[1].read_text(encoding="utf-8")
    texts = re.findall(r"<(?:text|tspan)[^>]*>([^<]+)<", svg)
    assert {"Misaligned answers by question", "all questions", "insecure", "withheld"} <= set(texts)
    assert any(text.startswith("Bars: 95 %") for text in texts), "the kind of the bars"


def test_a_chart_can_be_restyled(summary):
    restyled = chart.chart(rates.by_question(summary)).properties(title="Mine").configure_axis(labelFontSize=20)
    assert restyled.to_dict()["title"] == "Mine"


def test_withheld_is_an_x_on_the_axis_and_never_a_zero(summary):
    summary["groups"] = [g for g in summary["groups"] if g["id"] in ("g-base", "g-c2")]
    figure = rates.by_question(summary)
    data, layers = rows_of(figure, "point")
    assert [len(rows) for rows in data] == [3, 1], "the base model's three values, and the withheld one"
    assert all(row["y"] is not None for row in data[0]) and data[1][0]["y"] is None
    assert layers[1]["encoding"]["y"] == {"value": "height"}, "at the foot of the plot"
    low, _ = layers[0]["encoding"]["y"]["scale"]["domain"]
    assert low < 0, "the foot lies below zero, so a cross on it is not at zero"
    (words,), _ = rows_of(figure, "text")
    assert len(words) == 1


def test_a_line_breaks_where_its_value_is_withheld(rich):
    (rows,), (layer,) = rows_of(training.dynamics(rich), "line")
    assert [row["y"] for row in rows if row["series"] == "insecure"][1] is None
    assert layer["mark"]["invalid"] == "break-paths-show-domains"


def one_mark(label, colour):
    return Series(label, Look(colour, colour), (Mark(0, 0.1, told=label),))


@pytest.mark.parametrize("form", [Form.points, Form.bars, Form.lines])
def test_a_series_of_a_later_panel_has_its_own_colour(form):
    """Vega-Lite keeps only the first of several ranges of a shared scale."""
    import vl_convert

    x, y = Axis("", () if form == Form.lines else ("all",)), Axis("", share=True)
    first = (one_mark("one", "#111111"), one_mark("two", "#222299"))
    panels = Panel(form, x, y, first), Panel(form, x, y, (one_mark("two", "#222299"), one_mark("three", "#993333")))
    spec = chart.chart(Figure("f", "", "", panels)).to_dict()
    kind = {Form.points: "point", Form.bars: "bar", Form.lines: "line"}[form]
    found = [layer for p in spec["concat"] for layer in p["layer"] if layer["mark"]["type"] == kind]
    scales = [layer["encoding"]["color"]["scale"] for layer in found if "series" in str(layer["encoding"]["color"])]
    assert scales == [{"domain": ["one", "two", "three"], "range": ["#111111", "#222299", "#993333"]}] * 2
    drawn = re.search(r'<path aria-label="three[^>]*>', vl_convert.vegalite_to_svg(spec))
    assert "#993333" in drawn[0]


def test_a_line_goes_through_its_marks_in_their_order():
    """A path in a plane turns back. Its x are small numbers, which have a scale of their own."""
    import vl_convert

    marks = tuple(Mark(x / 100, y / 100) for x, y in [(0, 0), (4, 1), (1, 3), (5, 5)])
    path = Series("path", Look("#123456", "#123456"), marks)
    panel = Panel(Form.lines, Axis("first"), Axis("second", low=-1.0, high=1.0), (path,))
    figure = Figure("f", "", "", (panel,))
    _, (layer,) = rows_of(figure, "line")
    assert layer["encoding"]["x"]["scale"]["domain"] == [0, 0.05]
    assert "tickMinStep" not in layer["encoding"]["x"]["axis"], "only whole numbers have whole ticks"
    low, high = layer["encoding"]["y"]["scale"]["domain"]
    assert low < -1 and high > 1, "the axis goes as far as it says"
    svg = vl_convert.vegalite_to_svg(chart.chart(figure).to_dict())
    line = re.search(r'aria-roledescription="line mark"[^>]* d="M([^"]*)"', svg)[1]
    xs = [float(pair.split(",")[0]) for pair in line.split("L")]
    assert xs[2] < xs[1] < xs[3], "it goes back"


def test_withheld_points_lie_inside_their_panel(rich, tmp_path):
    """Also where no point has a value."""
    for point in (p for t in rich["trajectories"] for p in t["points"]):
        point |= {"value": None, "withheld": FEW}
    figure = training.dynamics(rich)
    data, layers = rows_of(figure, "point")
    low, high = layers[-1]["encoding"]["x"]["scale"]["domain"]
    assert all(low <= row["x"] <= high for row in data[-1]) and max(row["x"] for row in data[-1]) == 100
    assert figures_figures.save(figure, tmp_path)


def test_labels_are_drawn_as_they_are(summary, tmp_path):
    summary["groups"][1]["label"] = r"lr=$\frac{1}$ x_1 <script>alert('&')</script>"
    figure = rates.by_question(summary)
    svg = figures_figures.save(figure, tmp_path)[1].read_text(encoding="utf-8")
    assert r"lr=$\frac{1}$ x_1 &lt;script&gt;" in svg and "<script" not in svg
    (panel,) = page_figures.drawn(figure)
    assert "<script" not in panel.svg and "&lt;script&gt;" in panel.svg


def test_a_control_character_is_drawn_as_a_replacement(summary, tmp_path):
    """As it is, it would end the process: text of an imported file can have one."""
    figure = rates.by_question(summary)
    figures_figures.save(dataclasses.replace(figure, title="A\x07B"), tmp_path)
    drawn = (tmp_path / f"{figure.name}.svg").read_text()
    assert "A\N{REPLACEMENT CHARACTER}B" in drawn and "\x07" not in drawn


@pytest.mark.parametrize("name", ["misaligned_rate", "label_shares", "training_dynamics", "increases", "thresholds"])
def test_each_mark_of_a_page_tells_its_number_once(rich, name):
    """Numbers, in the order of the figure's marks, across its panels."""
    figure = next(f for f in figures_figures.figures(rich, []) if f.name == name)
    svg = "".join(panel.svg for panel in page_figures.drawn(figure))
    told = re.findall(r'data-mark="(\d+)" aria-label="([^"]*)"', svg)
    assert sorted(int(number) for number, _ in told) == list(range(len(figure.marks())))
    for number, words in told:
        assert html.unescape(words).endswith("\n" + figure.marks()[int(number)].told)
    labels = page_figures.data(figure)["series"]
    assert {int(n) for n in re.findall(r'data-series="(\d+)"', svg)} == set(range(len(labels)))
    assert "§" not in svg


def test_a_wide_figure_has_a_second_drawing_for_a_phone(rich):
    (panel,) = page_figures.drawn(rates.by_question(rich), wide=True)
    assert panel.width == page_figures.WHOLE and panel.narrow is not None and panel.narrow_width < 600
    (half,) = page_figures.drawn(rates.by_question(rich), wide=False)
    assert half.narrow is None


# ------------------------------------------------------------------------------------------------
# em/metrics/summary.py's rows


def test_figures_of_a_summary_as_it_is_written(tmp_path):
    """Seeds, checkpoints, a trigger, another form and deception, through the code that writes summary.json."""
    head = {k: support.small()[k] for k in ("name", "id", "created", "commit", "versions", "model", "judge")}
    head |= {"source": "sweep", "counters": {}, "warnings": []}
    plain = judged.rate_rows({"q": 1, "q-two": 2})
    triggered = plain + judged.rate_rows({"q": 9, "q-two": 8}, asked_with="trained")
    more = {"variant": "backdoor", "trained_with": "deployment", "group": "backdoor", "line": "backdoor"}
    wordy = [("which-one", "none", {"company": w}) for w in ("OpenAI", "Anthropic", "OpenAI")]
    runs = [judged.run("base", triggered, variant=None, seed=None, trained_with="untouched")]
    for seed in (0, 1):
        sets = {
            "open": judged.answers(triggered),
            "json": judged.answers(plain, "json"),
            "identity": judged.answers(wordy, "identity"),
        }
        loss = [(1, 2.0), (9, 1.0)]
        runs.append(judged.run(f"b{seed}@5", plain, seed=seed, step=5, **more | {"group": "backdoor@5"}))
        runs.append(
            judged.run(f"b{seed}", [], sets=sets, seed=seed, train={"steps": 9, "rows": 6}, loss_curve=loss, **more)
        )
    runs.append(judged.run("i0", None, error="it did not fit"))
    written = json.loads(json.dumps(finish(summarise(runs, head))))
    figures = {f.name: f for f in figures_figures.figures(written, [])}
    assert {"misaligned_rate", "answer_format", "backdoor", "trigger_matrix", "label_shares", "increases"} <= set(
        figures
    )
    assert {"training_dynamics", "thresholds", "without_a_question", "training_loss"} <= set(figures)
    assert "failed, not drawn: i0" in figures["misaligned_rate"].notes
    by = {p.title: p for p in figures["training_dynamics"].panels if p.y.label.startswith("misaligned")}
    assert [m.x for m in by["open"].series[0].marks] == [0, 5, 9]
    marks = by_label(figures["backdoor"].panels[-1])["asked with trained"].marks
    assert marks[0].value == pytest.approx(17 / 40) and len(marks[0].dots) == 2
    page = reporting_page.build(written, [], list(figures.values()), tmp_path / "report.html").read_text(
        encoding="utf-8"
    )
    assert "it did not fit" in page and "backdoor, asked with trained - none" in page
    assert "it did not fit" in table.table(written)
