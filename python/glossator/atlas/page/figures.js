// Small figures, drawn in SVG with the page's own colours.

const told = (value, low, high) =>
  Number.isNaN(low) && Number.isNaN(high) ? rate(value)
    : `${rate(value)}, 95 % interval ${Number.isNaN(low) ? "without a lower bound" : `from ${rate(low)}`} to ${rate(high)}`;

// One line of a forest plot: the interval, the value, and the value of the null as a ring.
function interval(value, low, high, { width = 64, height = 14, mark = NaN, nil = NaN } = {}) {
  const pad = 4, x = (v) => (pad + (width - 2 * pad) * Math.max(0, Math.min(1, v))).toFixed(1);
  const y = height / 2;
  const out = svg("svg", { class: "interval", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": told(value, low, high) },
    svg("line", { class: "axis", x1: x(0), x2: x(1), y1: y, y2: y }));
  if (!Number.isNaN(mark)) out.append(svg("line", { class: "mark", x1: x(mark), x2: x(mark), y1: 1, y2: height - 1 }));
  const to = Number.isNaN(high) ? value : high, from = Number.isNaN(low) ? value : low;
  if (from !== to && !Number.isNaN(from)) out.append(svg("line", { class: `range${Number.isNaN(low) ? " open" : ""}`, x1: x(from), x2: x(to), y1: y, y2: y }));
  if (!Number.isNaN(nil)) out.append(svg("circle", { class: "nil", cx: x(nil), cy: y, r: 2.6 }));
  if (!Number.isNaN(value)) out.append(svg("circle", { class: "value", cx: x(value), cy: y, r: 3.1 }));
  return out;
}

// Bars with whiskers over the deciles 1 to 10; `at` maps a decile to {value, low, high, n}.
function decileBars(at, name, chance = NaN) {
  const step = 30, height = 78, base = 62, top = 6;
  const y = (v) => base - (base - top) * Math.max(0, Math.min(1, v));
  const out = svg("svg", { class: "bars", viewBox: `0 0 ${step * 10 + 26} ${height}`, role: "img", "aria-label": `${name} by decile: ${
    [...at].map(([d, s]) => `decile ${d} ${Number.isNaN(s.value) ? "none" : rate(s.value)}`).join(", ")}` });
  for (const v of [0, 0.5, 1]) {
    out.append(svg("line", { class: v === chance ? "mark" : "axis", x1: 22, x2: 22 + step * 10, y1: y(v), y2: y(v) }),
      svg("text", { x: 18, y: y(v) + 3, "text-anchor": "end" }, String(v)));
  }
  for (let d = 1; d <= 10; d++) {
    const x = 22 + step * (d - 1), middle = x + step / 2, score = at.get(d);
    out.append(svg("text", { x: middle, y: height - 4, "text-anchor": "middle" }, String(d)));
    if (!score || Number.isNaN(score.value)) continue;
    const bar = svg("g", { class: "bar" },
      svg("title", null, `decile ${d}: ${told(score.value, score.low, score.high)}, n = ${whole(score.n)}`),
      svg("rect", { class: "hit", x, y: top, width: step, height: base - top }),
      svg("rect", { class: "fill", x: x + 6, width: step - 12, y: y(score.value), height: Math.max(0.5, base - y(score.value)), rx: 1.5 }));
    if (!Number.isNaN(score.low) && !Number.isNaN(score.high)) {
      bar.append(svg("line", { class: "whisker", x1: middle, x2: middle, y1: y(score.low), y2: y(score.high) }),
        ...[score.low, score.high].map((v) => svg("line", { class: "whisker", x1: middle - 3, x2: middle + 3, y1: y(v), y2: y(v) })));
    }
    out.append(bar);
  }
  return out;
}

// Window maxima: ten bars of equal area, each as wide as its decile's range of activation.
function histogram(limits) {
  const width = 326, height = 92, base = 72, left = 4, right = width - 4;
  const low = limits[0], high = limits[10];
  const x = (v) => left + (right - left) * (high > low ? (v - low) / (high - low) : 0);
  const widths = Array.from({ length: 10 }, (_, d) => Math.max(3, x(limits[d + 1]) - x(limits[d])));
  const stretch = (right - left) / widths.reduce((a, b) => a + b, 0);
  const tallest = Math.min(...widths);
  const out = svg("svg", { class: "histogram", viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Activation by decile, from ${size(low)} to ${size(high)}; median ${size(limits[5])}` });
  let at = left;
  for (let d = 0; d < 10; d++) {
    const wide = widths[d] * stretch, tall = Math.max(2, (base - 4) * (tallest / widths[d]));
    out.append(svg("g", { class: "bar" },
      svg("title", null, `decile ${d + 1}: ${size(limits[d])} to ${size(limits[d + 1])}`),
      svg("rect", { class: "hit", x: at, y: 0, width: wide, height: base }),
      svg("rect", { class: "heat", "--heat": (d + 1) / 10, x: at + 0.5, y: base - tall, width: Math.max(1, wide - 1), height: tall })));
    at += wide;
  }
  out.append(svg("line", { class: "axis", x1: left, x2: right, y1: base + 0.5, y2: base + 0.5 }));
  const median = left + stretch * widths.slice(0, 5).reduce((a, b) => a + b, 0);
  out.append(svg("text", { x: left, y: height - 6 }, size(low)), svg("text", { x: right, y: height - 6, "text-anchor": "end" }, size(high)));
  if (median > left + 60 && median < right - 60) {
    out.append(svg("line", { class: "mark", x1: median, x2: median, y1: base, y2: base + 5 }),
      svg("text", { x: median, y: height - 6, "text-anchor": "middle" }, `median ${size(limits[5])}`));
  }
  return out;
}

// How a column of values between 0 and 1 is spread: twenty bars.
function spread(values, name) {
  const bins = new Array(20).fill(0);
  let n = 0;
  for (const v of values) if (!Number.isNaN(v)) { bins[Math.min(19, Math.floor(v * 20))]++; n++; }
  const most = Math.max(1, ...bins), step = 9, height = 46;
  return svg("svg", { class: "spread", viewBox: `0 0 ${step * 20} ${height + 14}`, width: step * 20, role: "img", "aria-label": `${name} of ${count(n, "explanation")}` },
    bins.map((b, i) => svg("g", null, svg("title", null, `${(i / 20).toFixed(2)} to ${((i + 1) / 20).toFixed(2)}: ${whole(b)}`),
      svg("rect", { class: "fill", x: i * step + 0.5, width: step - 1, y: height - (b / most) * (height - 2), height: (b / most) * (height - 2) }))),
    svg("line", { class: "axis", x1: 0, x2: step * 20, y1: height + 0.5, y2: height + 0.5 }),
    svg("text", { x: 0, y: height + 12 }, "0"), svg("text", { x: step * 10, y: height + 12, "text-anchor": "middle" }, name),
    svg("text", { x: step * 20, y: height + 12, "text-anchor": "end" }, "1"));
}
