// The table: sorted, searched and filtered by number, with only the rows in view in the document.

class List {
  constructor(table, pages, onOpen) {
    this.table = table;
    this.n = table.status.length;
    this.onOpen = onOpen;
    this.pages = pages;
    this.explainer = 0;
    this.query = "";
    this.status = null;
    this.sort = { key: "latent", down: false };
    this.rows = new Uint32Array(0);
    this.chosen = null;
    this.opened = null;
    this.grid = $("latents");
    this.body = $("rows");
    this.lowered = table.explainers.map((e) => e.text.map((text) => text?.toLowerCase() ?? ""));
    addEventListener("scroll", () => this.draw(0, { moved: true }), { passive: true });
    addEventListener("resize", () => this.draw(0, { moved: true }));
    addEventListener("beforeprint", () => this.draw(400));
    addEventListener("afterprint", () => this.draw());
  }

  columns() {
    const who = this.table.explainers[this.explainer];
    const metric = (name) => this.table[`${name}_${this.explainer}`];
    const any = (values) => values?.some((x) => !Number.isNaN(x));
    const source = { corpus: "on every held-out window", detection: "by detection", fuzzing: "by fuzzing" }[who?.source];
    const all = [
      { key: "latent", label: "Latent", title: "Id of the latent", number: true, value: (i) => i },
      { key: "status", label: "Status", title: "What triage found", value: (i) => this.table.status[i] },
      { key: "density", label: "Density", title: "Share of tokens on which the latent is active", number: true, value: (i) => this.table.density[i] },
      { key: "count", label: "Active", title: "Tokens on which the latent is active", number: true, value: (i) => this.table.count[i] },
      { key: "text", label: "Explanation", title: "Sort by the text of the explanation", text: true },
    ];
    if (who && any(metric("f1"))) {
      all.push(
        { key: "f1", label: "F1", title: `F1 with its 95 % interval, ${source}`, number: true, value: (i) => metric("f1")[i] },
        { key: "precision", label: "Prec.", title: `Precision, ${source}`, number: true, value: (i) => metric("precision")[i] },
        { key: "recall", label: "Recall", title: `Recall, ${source}`, number: true, value: (i) => metric("recall")[i] },
      );
    }
    for (const [key, label] of [["detection", "Detect."], ["fuzzing", "Fuzz."]]) {
      if (who && any(metric(key))) {
        all.push({ key, label, title: `Balanced accuracy of ${key}; chance is 0.50`, number: true, value: (i) => metric(key)[i] });
      }
    }
    return all;
  }

  // Rebuild the head, then the rows: after a choice of explainer.
  show() {
    this.shown = this.columns();
    if (!this.shown.some((c) => c.key === this.sort.key)) this.sort = { key: "latent", down: false };
    $("heads").replaceChildren(
      ...this.shown.map((column) =>
        h("th", { scope: "col", class: `${column.key}${column.number ? " number" : ""}` },
          h("button", { type: "button", title: column.title, "data-sort": column.key, onclick: () => this.sortBy(column) },
            column.label, h("span", { class: "arrow", "aria-hidden": "true" })))),
    );
    this.grid.setAttribute("aria-colcount", this.shown.length);
    this.update();
  }

  sortBy(column) {
    const same = this.sort.key === column.key;
    // Numbers are most wanted from the top; ids, names and texts from the beginning.
    const down = column.number && column.key !== "latent";
    this.sort = { key: column.key, down: same ? !this.sort.down : down };
    this.update();
  }

  matches() {
    const words = this.query.toLowerCase().split(/\s+/).filter(Boolean);
    const id = words.length === 1 && /^#?\d+$/.test(words[0]) ? words[0].replace("#", "") : null;
    const texts = this.lowered[this.explainer];
    const out = [];
    for (let i = 0; i < this.n; i++) {
      if (this.status !== null && this.table.status[i] !== this.status) continue;
      if (words.length) {
        const hit = id !== null && String(i).startsWith(id);
        if (!hit && !(texts && words.every((word) => texts[i].includes(word)))) continue;
      }
      out.push(i);
    }
    return Uint32Array.from(out);
  }

  order(rows) {
    const { key, down } = this.sort;
    const sign = down ? -1 : 1;
    if (key === "text") {
      const texts = this.lowered[this.explainer] ?? [];
      // Latents without a text stand last either way.
      return rows.sort((a, b) => !texts[a] - !texts[b] || sign * (texts[a] < texts[b] ? -1 : +(texts[a] > texts[b])) || a - b);
    }
    const value = this.shown.find((c) => c.key === key).value;
    const values = new Float64Array(this.n);
    for (const i of rows) values[i] = value(i);
    return rows.sort((a, b) => {
      const x = values[a], y = values[b];
      const missing = Number.isNaN(x) - Number.isNaN(y);
      return missing || (Number.isNaN(x) ? 0 : sign * (x - y)) || a - b;
    });
  }

  update() {
    this.rows = this.order(this.matches());
    for (const head of $("heads").children) {
      const key = head.firstChild.dataset.sort;
      const state = key === this.sort.key ? (this.sort.down ? "descending" : "ascending") : "none";
      head.setAttribute("aria-sort", state);
    }
    this.grid.setAttribute("aria-rowcount", this.rows.length + 1);
    $("found").textContent = this.rows.length === this.n
      ? count(this.n, "latent") : `${whole(this.rows.length)} of ${count(this.n, "latent")}`;
    $("none").hidden = this.rows.length > 0;
    this.draw();
  }

  // The rows in view and some beyond, between two spacers; `print` draws the first so many instead.
  draw(print = 0, { moved = false } = {}) {
    const height = parseFloat(getComputedStyle(this.grid).getPropertyValue("--row")) || 40;
    const top = this.body.getBoundingClientRect().top;
    const beyond = 12;
    const most = this.rows.length;
    const first = print ? 0 : Math.max(0, Math.min(most, Math.floor(-top / height) - beyond) & ~7);
    const last = print ? Math.min(most, print)
      : Math.max(first, Math.min(most, (Math.ceil((innerHeight - top) / height) + beyond) | 7));
    // A scroll that brings no new row into the margin leaves the document as it is.
    const range = `${first} ${last} ${height}`;
    if (moved && range === this.range) return;
    this.range = range;
    const spacer = (n) => h("tr", { class: "spacer", "aria-hidden": "true" },
      h("td", { "--space": `${n * height}px` }));
    const drawn = [];
    for (let at = first; at < last; at++) drawn.push(this.row(at));
    this.body.replaceChildren(spacer(first), ...drawn, spacer(print ? 0 : most - last));
    const active = drawn.find((row) => row.dataset.latent === String(this.chosen));
    if (active) this.grid.setAttribute("aria-activedescendant", active.id);
    else this.grid.removeAttribute("aria-activedescendant");
  }

  row(at) {
    const i = this.rows[at];
    const chosen = i === this.chosen, opened = i === this.opened;
    return h("tr", {
      id: `row-${i}`, "data-latent": i, "aria-rowindex": at + 2, "aria-selected": String(chosen),
      class: [chosen ? "chosen" : "", opened ? "opened" : ""].join(" ").trim(),
      onclick: (event) => {
        if (event.target.closest("a") || String(getSelection())) return;
        this.choose(at, { scroll: false });
        this.onOpen(i);
      },
    }, this.shown.map((column) => h("td", { class: `${column.key}${column.number ? " number" : ""}` }, this.cell(column, i) ?? "")));
  }

  cell(column, i) {
    switch (column.key) {
      case "latent":
        return h("a", { href: `#latent=${i}`, tabindex: "-1" }, String(i));
      case "status": {
        const name = this.table.statuses[this.table.status[i]];
        return h("span", { class: `state ${name}` }, name);
      }
      case "density":
        return percent(this.table.density[i]);
      case "count":
        return whole(this.table.count[i]);
      case "text": {
        const text = this.table.explainers[this.explainer]?.text[i];
        const why = this.table.reason[i];
        return text ? h("span", { class: "said" }, visible(text)) : h("span", { class: "said missing" }, visible(why ?? "no explanation"));
      }
      case "f1": {
        const [value, low, high] = ["f1", "low", "high"].map((name) => this.table[`${name}_${this.explainer}`][i]);
        return Number.isNaN(value) ? null : [interval(value, low, high), h("span", null, rate(value))];
      }
      default:
        return rate(column.value(i));
    }
  }

  at(i) {
    return this.rows.indexOf(i);
  }

  choose(at, { scroll = true } = {}) {
    if (!this.rows.length) return;
    at = Math.max(0, Math.min(this.rows.length - 1, at));
    this.chosen = this.rows[at];
    if (scroll) this.reveal(at);
    this.draw();
  }

  // Bring a row into view: near the edge that it lies beyond, or in the middle.
  reveal(at, { middle = false } = {}) {
    if (at < 0) return;
    const height = parseFloat(getComputedStyle(this.grid).getPropertyValue("--row")) || 40;
    const y = this.body.getBoundingClientRect().top + at * height;
    const head = this.body.previousElementSibling.getBoundingClientRect().height + $("list").firstElementChild.offsetHeight;
    if (y >= head && y + height <= innerHeight) return;
    if (middle) scrollBy(0, y - innerHeight / 2);
    else if (y < head) scrollBy(0, y - head - height);
    else scrollBy(0, y + 2 * height - innerHeight);
  }

  // Move by rows from the chosen one; the first move chooses the first row.
  move(by) {
    const at = this.chosen === null ? -1 : this.at(this.chosen);
    this.choose(at < 0 ? 0 : at + by);
    return this.chosen;
  }
}
