// Elements and numbers. Text from data enters the page through text nodes only.

const $ = (id) => document.getElementById(id);

function make(create, name, attributes, children) {
  const element = create(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key.startsWith("--")) element.style.setProperty(key, value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

const h = (name, attributes, ...children) =>
  make((n) => document.createElement(n), name, attributes, children);
const svg = (name, attributes, ...children) =>
  make((n) => document.createElementNS("http://www.w3.org/2000/svg", n), name, attributes, children);

const grouped = new Intl.NumberFormat("en");
const whole = (n) => grouped.format(n);
const count = (n, one, many = `${one}s`) => `${whole(n)} ${n === 1 ? one : many}`;
const rate = (x) => (Number.isNaN(x) ? "" : x.toFixed(2));

function size(x) {
  if (x === 0 || Number.isNaN(x)) return "0";
  return Math.abs(x) >= 100 ? x.toFixed(0) : x.toPrecision(3);
}

function percent(x) {
  if (Number.isNaN(x)) return "";
  if (x === 0) return "0 %";
  return `${(100 * x).toPrecision(x >= 0.1 ? 3 : 2).replace(/e-(\d+)/, "e−$1")} %`;
}

// What cannot be seen, or would turn the text around, is shown by a sign of its own.
const SIGNS = { "\n": "⏎", "\r": "␍", "\t": "⇥" };
const visible = (text) =>
  text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, (c) =>
    SIGNS[c] ?? `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
// A token on its own: its spaces too.
const named = (text) => visible(text).replace(/ /g, "␣");
