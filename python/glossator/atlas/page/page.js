// The page of one latent: explanations with their scores, activations, logits, neighbours, examples.

const DOCUMENT_START = 1, MASKED = 2, PADDING = 4;
const NO_LATENT = 2 ** 32 - 1;
const SCORE_SIDE = 1, SILENT = 2, RULE_KNOWN = 4, RULE_FIRES = 8;
const CHANCE = { balanced_accuracy: 0.5, auroc: 0.5 };
const FIRST = ["f1", "precision", "recall", "balanced_accuracy", "specificity", "accuracy", "auprc", "auroc", "correlation"];
const SPOKEN = { f1: "F1", auprc: "AUPRC", auroc: "AUROC" };
function spoken(metric) {
  const token = /^tokens?_(.*)$/.exec(metric);
  return token ? `${spoken(token[1])} per token` : SPOKEN[metric] ?? metric.replaceAll("_", " ");
}

class Pages {
  constructor(data) {
    Object.assign(this, data);
    this.at = new Map(Array.from(this.page_latent, (latent, i) => [latent, i]));
    this.token = joinPlanes(this.tokens, this.context.length * this.width);
    this.active = bounds(this.active_n);
    this.fired = bounds(this.fired_n);
  }

  has(latent) {
    return this.at.has(latent);
  }

  explanationsOf(page) {
    const [from, to] = [this.page_explanations[page], this.page_explanations[page + 1]];
    return Array.from({ length: to - from }, (_, i) => ({ ...this.explanations[from + i], scores: this.scoresOf(from + i) }));
  }

  scoresOf(explanation) {
    const out = [];
    for (let i = this.score_bounds[explanation]; i < this.score_bounds[explanation + 1]; i++) {
      out.push({
        ...this.groups[this.score_group[i]], decile: this.score_decile[i], value: this.score_value[i],
        low: this.score_low[i], high: this.score_high[i], nil: this.score_null[i], q: this.score_q[i],
        n: this.score_n[i], missing: this.score_missing[i], reason: this.reasons[this.score_reason[i]],
      });
    }
    return out;
  }

  examplesOf(page) {
    const out = [];
    for (let e = this.page_examples[page]; e < this.page_examples[page + 1]; e++) {
      const codes = new Map(), fired = new Set();
      for (let i = this.active[e]; i < this.active[e + 1]; i++) codes.set(this.active_offset[i], this.active_code[i]);
      for (let i = this.fired[e]; i < this.fired[e + 1]; i++) fired.add(this.fired_offset[i]);
      const flags = this.example_flags[e];
      out.push({
        window: this.example_window[e], decile: this.example_decile[e], codes, fired,
        peak: Math.max(0, ...codes.values()), side: flags & SCORE_SIDE ? "score" : "explain",
        silent: !!(flags & SILENT), ruled: !!(flags & RULE_KNOWN), fires: !!(flags & RULE_FIRES),
      });
    }
    return out;
  }

  nearOf(page) {
    const out = [];
    for (let i = this.near * page; i < this.near * (page + 1); i++) {
      if (this.near_id[i] === NO_LATENT) continue;
      out.push({ latent: this.near_id[i], cosine: this.near_cosine[i], relation: this.near_relation ? this.relations[this.near_relation[i]] : "" });
    }
    return out;
  }

  // Runs of tokens that are one character's: most are one token. Padding is left out.
  tokensOf(window, codes, fired) {
    const out = [];
    for (let t = 0; t < this.width; t++) {
      const mark = this.marks[window * this.width + t];
      if (mark & PADDING) continue;
      const text = this.strings[this.token[window * this.width + t]];
      const code = codes.get(t) ?? 0, last = out.at(-1);
      if (text === "" && last && !(mark & DOCUMENT_START)) {
        last.code = Math.max(last.code, code);
        last.fires ||= fired.has(t);
        last.parts++;
      } else {
        out.push({ text, code, fires: fired.has(t), starts: !!(mark & DOCUMENT_START), masked: !!(mark & MASKED), parts: 1 });
      }
    }
    return out;
  }
}

const chips = (tokens, names, most = 48) => {
  const chip = (token) => h("code", { class: "chip" }, visible(names[token]));
  const out = h("span", { class: "chips" }, tokens.slice(0, most).map(chip));
  if (tokens.length > most) {
    out.append(h("button", { type: "button", class: "quiet", onclick: (event) => event.target.replaceWith(...tokens.slice(most).map(chip)) },
      `and ${whole(tokens.length - most)} more`));
  }
  return out;
};

function nearby({ before, after }) {
  if (!after) return before === 1 ? "the token before" : `the ${before} tokens before`;
  return `the ${before} tokens before and ${after} after`;
}

function ruleView(rule, names) {
  const line = (label, tokens, where) =>
    h("div", null, h("dt", null, label, where ? h("small", null, ` ${where}`) : null), h("dd", null, chips(tokens, names)));
  return h("dl", { class: "rule" },
    line("fires on", rule.tokens),
    rule.require ? line("with", rule.require.tokens, `in ${nearby(rule.require)}`) : null,
    rule.exclude ? line("without", rule.exclude.tokens, `in ${nearby(rule.exclude)}`) : null);
}

const inUnit = (score) => Number.isNaN(score.value) || (score.value >= 0 && score.value <= 1);
function rank(metric) {
  const at = FIRST.indexOf(metric.replace(/^tokens?_/, ""));
  return (at < 0 ? 99 : at) + (metric.startsWith("token") ? 20 : 0);
}

function forest(scores, kind) {
  const axis = h("div", { class: "line scale", "aria-hidden": "true" }, h("span"), h("span", { class: "ticks" }, h("i", null, "0"), h("i", null, "0.5"), h("i", null, "1")), h("span"), h("span"));
  return h("div", { class: "forest", role: "list" }, scores.map((s) => h("div", { class: "line", role: "listitem" },
    h("span", { class: "metric" }, spoken(s.metric), kind ? h("small", null, ` ${s.kind}`) : null),
    interval(s.value, s.low, s.high, { width: 200, height: 18, mark: CHANCE[s.metric] ?? NaN, nil: s.nil }),
    Number.isNaN(s.value)
      ? h("span", { class: "why void" }, `no value: ${visible(s.reason || "no reason stated")}`)
      : h("span", { class: "figures" }, h("b", null, rate(s.value)),
        Number.isNaN(s.high) && Number.isNaN(s.low) ? null : h("small", { title: visible(s.reason) || null }, ` ${Number.isNaN(s.low) ? "?" : rate(s.low)}–${Number.isNaN(s.high) ? "?" : rate(s.high)}`)),
    h("span", { class: "n" }, [s.n ? `n ${whole(s.n)}` : "", s.missing ? `${whole(s.missing)} missing` : "",
      Number.isNaN(s.nil) ? "" : `null ${rate(s.nil)}`, Number.isNaN(s.q) ? "" : `q ${s.q.toPrecision(2)}`].filter(Boolean).join(" · ")))), axis);
}

// The counts of a check on the corpus, in words.
function outcomes(scores) {
  const values = Object.fromEntries(scores.map((s) => [s.metric, s.value]));
  const words = { tp: "found", fn: "missed", fp: "false alarms", tn: "rightly silent" };
  return ["", "token_"].map((unit) => {
    const told = Object.entries(words).filter(([key]) => unit + key in values)
      .map(([key, word]) => h("span", null, h("b", null, whole(values[unit + key])), ` ${word}`));
    return told.length ? h("p", { class: "outcomes" }, h("span", null, unit ? "tokens" : "windows"), told) : null;
  });
}

const TITLES = { corpus: "On every held-out window", detection: "Detection", fuzzing: "Fuzzing" };

function scoreGroup(scores) {
  const { scorer, protocol } = scores[0];
  const kinds = [...new Set(scores.map((s) => s.kind).filter((kind) => kind && kind !== "all"))];
  const overall = scores.filter((s) => s.decile === 0 && !/^(token_)?[tf][pn]$/.test(s.metric));
  const lines = overall.filter(inUnit).sort((a, b) => rank(a.metric) - rank(b.metric));
  const rest = overall.filter((s) => !inUnit(s));
  // Why an interval is open, said once.
  const open = [...new Set(lines.filter((s) => !Number.isNaN(s.value) && s.reason).map((s) => s.reason))];
  const byDecile = new Map();
  for (const s of scores) {
    if (s.decile === 0) continue;
    if (!byDecile.has(s.metric)) byDecile.set(s.metric, new Map());
    byDecile.get(s.metric).set(s.decile, s);
  }
  return h("section", { class: "scores" },
    h("h4", null, TITLES[scorer] ?? scorer, scorer === "corpus" ? null : h("small", null, ` ${[visible(protocol), kinds.length === 1 ? `${kinds[0]} negatives` : ""].filter(Boolean).join(" · ")}`)),
    lines.length ? forest(lines, kinds.length > 1) : null,
    open.map((reason) => h("p", { class: "why" }, visible(reason))),
    scorer === "corpus" ? outcomes(scores.filter((s) => s.decile === 0)) : null,
    rest.length ? h("p", { class: "outcomes" }, rest.map((s) => h("span", null, h("b", null, size(s.value)), ` ${spoken(s.metric)}`))) : null,
    [...byDecile].sort((a, b) => rank(a[0]) - rank(b[0])).slice(0, 2).map(([metric, at]) =>
      h("figure", null, h("figcaption", null, `${spoken(metric)} by decile of activation`), decileBars(at, spoken(metric), CHANCE[metric] ?? (scorer === "corpus" ? NaN : 0.5)))));
}

function explanationView(explanation, pages) {
  const groups = new Map();
  for (const s of explanation.scores) {
    const key = `${s.scorer}\n${s.protocol}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(s);
  }
  return h("section", { class: "explanation" },
    h("p", { class: "by" }, visible(pages.explainers[explanation.by])),
    h("blockquote", null, visible(explanation.text)),
    explanation.rule ? ruleView(explanation.rule, pages.names) : null,
    groups.size ? h("div", { class: "groups" }, [...groups.values()].map(scoreGroup)) : h("p", { class: "why" }, "Not scored."));
}

function logitsView(pages, page) {
  const most = Math.max(1e-9, ...["top_logits", "bottom_logits"].flatMap((f) => pages.logits[f][page].map(([, v]) => Math.abs(v))));
  const column = (field, title) => pages.logits[field][page].length
    ? h("div", null, h("h4", null, title), h("ol", { class: `logits ${field}` }, pages.logits[field][page].map(([name, value]) =>
      h("li", { "--share": Math.abs(value) / most }, h("code", null, visible(pages.names[name])), h("span", { class: "number" }, value.toFixed(2).replace("-", "−"))))))
    : null;
  const both = [column("top_logits", "Promotes"), column("bottom_logits", "Suppresses")].filter(Boolean);
  return both.length ? h("section", { class: "panel" }, h("h3", null, "Logits"), h("div", { class: "pair" }, both)) : null;
}

// By decoder direction; what the neighbour is to this latent stands beside it.
function nearView(pages, page) {
  const near = pages.nearOf(page);
  if (!near.length) return null;
  return h("section", { class: "panel" }, h("h3", null, "Nearest latents"),
    h("p", { class: "legend" }, "by the cosine of decoder directions"),
    h("ol", { class: "logits near" }, near.map(({ latent, cosine, relation }) =>
      h("li", { "--share": Math.max(0, cosine) }, h("a", { href: `#latent=${latent}` }, `Latent ${latent}`),
        relation && relation !== "independent" ? h("small", null, relation) : null,
        h("span", { class: "number" }, cosine.toFixed(3).replace("-", "−"))))));
}

// One example; tokens are text nodes in spans, active ones can be reached with Tab and ← →.
function exampleView(example, pages, max) {
  const tokens = pages.tokensOf(example.window, example.codes, example.fired);
  let reachable = true;
  const line = h("p", { class: "passage", dir: "auto" });
  for (const token of tokens) {
    if (token.starts) line.append(h("span", { class: "pilcrow", title: "a document starts here" }, "¶"));
    // A line break or an indent is shown as signs, so that the window stays one paragraph.
    const shown = token.text.trim() === "" ? visible(token.text).replace(/ /g, token.text.length > 1 || token.code ? "·" : " ") : visible(token.text);
    const value = (token.code / 255) * max;
    const tip = `${named(token.text) || "∅"}${token.parts > 1 ? ` (${token.parts} tokens)` : ""}  ${token.code ? `${size(value)} · ${Math.round(token.code / 2.55)} % of the maximum` : "silent"}${token.fires ? " · the rule fires" : ""}${token.masked ? " · masked" : ""}`;
    const classes = [token.code ? "hot" : "", token.fires ? "fires" : "", token.masked ? "masked" : "", token.text.trim() === "" && token.text !== " " ? "blank" : ""].join(" ").trim();
    line.append(token.code
      ? h("mark", { class: classes, "--heat": (token.code / 255).toFixed(3), tabindex: reachable ? "0" : "-1", "data-tip": tip, "aria-label": `${shown} ${size(value)}` }, shown || "�")
      : h("span", { class: classes || null, "data-tip": tip }, shown));
    if (token.code) reachable = false;
  }
  const verdict = !example.ruled ? null
    : example.silent ? (example.fires ? "false alarm" : null) : example.fires ? null : "missed";
  const w = example.window, where = `context ${pages.context[w]}, offset ${pages.offset[w]}, document ${pages.documents[pages.document[w]].toString(16).padStart(16, "0")}`;
  return h("li", { class: `example ${example.silent ? "silent" : ""}`, "data-decile": example.decile },
    h("span", { class: "tags", title: where },
      example.silent ? null : h("span", { class: "peak" }, size((example.peak / 255) * max)),
      h("span", { class: `side ${example.side}` }, example.side),
      verdict ? h("span", { class: "verdict" }, verdict) : null),
    line);
}

function examplesView(examples, pages, max, ruled) {
  if (!examples.length) return h("section", { class: "panel examples" }, h("h3", null, "Examples"), h("p", { class: "why" }, "None: no window of the corpus activates this latent."));
  const groups = new Map();
  for (const e of examples) groups.set(e.decile, [...(groups.get(e.decile) ?? []), e]);
  const group = ([decile, rows]) => h("section", { class: "decile" },
    h("h4", null, decile ? h("span", { class: "rank", "--heat": decile / 10 }, `decile ${decile}`) : h("span", { class: "rank" }, "silent"),
      decile === 10 ? h("small", null, " strongest") : decile === 0 ? h("small", null, " windows drawn at random on which the latent is not active") : null),
    h("ol", null, rows.map((e) => exampleView(e, pages, max))));
  return h("section", { class: "panel examples" }, h("h3", null, "Examples"),
    h("p", { class: "legend" }, h("span", null, h("i", { class: "ramp" }), `0 to ${size(max)}`),
      ruled ? h("span", null, h("span", { class: "fires" }, "underlined"), " the rule fires") : null,
      h("span", null, h("span", { class: "side explain" }, "explain"), " or ", h("span", { class: "side score" }, "score"), ": the side of its document")),
    [...groups].map(group));
}

function pageView(latent, table, pages, { held }) {
  const status = table.statuses[table.status[latent]];
  const fact = (label, value, small) => (value === null ? null : h("div", null, h("dt", null, label), h("dd", null, value, small ? h("small", null, ` ${small}`) : null)));
  const density = table.density[latent];
  const facts = h("dl", { class: "glance" },
    fact("active on", count(table.count[latent], "token"), Number.isNaN(density) || !density ? "" : `${percent(density)}, 1 in ${whole(Math.round(1 / density))}`),
    fact("windows", whole(table.windows[latent]), `${whole(table.windows_scoring[latent])} to score`),
    fact("documents", whole(table.documents[latent])),
    table.type[latent] ? fact("type", visible(table.type[latent])) : null);
  const head = [facts, table.reason[latent] ? h("p", { class: "why" }, visible(table.reason[latent])) : null];
  const title = h("h2", { id: "page-title", tabindex: "-1" }, `Latent ${latent} `, h("span", { class: `state ${status}` }, status));
  if (!pages) return [title, head, h("p", { class: "why" }, "Unpacking the examples …")];
  if (!pages.has(latent)) {
    const said = table.explainers.map((e) => [e.name, e.text[latent]]).filter(([, text]) => text);
    return [title, head, said.map(([name, text]) => h("section", { class: "explanation" }, h("p", { class: "by" }, visible(name)), h("blockquote", null, visible(text)))),
      h("p", { class: "notes" }, `The page of this latent is not in this file. ${held ?? ""}`)];
  }
  const page = pages.at.get(latent);
  const explanations = pages.explanationsOf(page), examples = pages.examplesOf(page);
  const limits = pages.deciles.subarray(11 * page, 11 * page + 11), max = pages.max_activation[page];
  return [title, head,
    explanations.length ? explanations.map((e) => explanationView(e, pages)) : h("p", { class: "why" }, "No explanation."),
    h("div", { class: "panels" },
      Number.isNaN(limits[0]) ? null : h("section", { class: "panel" }, h("h3", null, "Activation"),
        h("p", { class: "legend" }, "maxima of windows; each bar holds a tenth of them"), histogram(limits)),
      logitsView(pages, page), nearView(pages, page)),
    examplesView(examples, pages, max, explanations.some((e) => e.rule))];
}
