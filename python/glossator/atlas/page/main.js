// Start-up, the address (`#latent=17`), the keyboard, the theme, the hint beside a token.

const wide = matchMedia("(min-width: 1080px)");
const page = $("page");
const held = $("held")?.textContent;
let table, list, pages = null;

const asked = () => {
  const found = /^#latent=(\d+)$/.exec(location.hash);
  const latent = found ? Number(found[1]) : null;
  return latent !== null && latent < table.status.length ? latent : null;
};

function go(latent, { replace = false } = {}) {
  const to = latent === null ? location.pathname + location.search : `#latent=${latent}`;
  history[replace ? "replaceState" : "pushState"](null, "", to);
  route();
}

function route() {
  const latent = asked();
  const before = list.opened;
  list.opened = latent;
  document.body.classList.toggle("reading", latent !== null);
  page.hidden = latent === null;
  if (latent === null) {
    page.replaceChildren();
    document.title = document.title.replace(/^Latent \d+ · /, "");
    if (before !== null) { list.reveal(list.at(before)); list.grid.focus({ preventScroll: true }); }
    list.draw();
    return;
  }
  list.chosen = latent;
  document.title = `Latent ${latent} · ${document.title.replace(/^Latent \d+ · /, "")}`;
  const step = (by, name, sign) => h("button", { type: "button", class: "quiet", "aria-label": name, title: name, onclick: () => turn(by) }, sign);
  page.replaceChildren(
    h("nav", { class: "turn", "aria-label": "Latents" },
      h("button", { type: "button", class: "quiet close", id: "close", onclick: () => go(null) }, "← All latents"),
      h("span", null, step(-1, "Previous latent (k)", "↑"), step(1, "Next latent (j)", "↓"))),
    ...pageView(latent, table, pages, { held }).flat(Infinity).filter(Boolean));
  page.setAttribute("aria-labelledby", "page-title");
  page.scrollTop = 0;
  if (before === null) list.reveal(list.at(latent), { middle: true });
  list.draw();
  if (document.activeElement === document.body || (!wide.matches && !page.contains(document.activeElement))) {
    $("page-title").focus({ preventScroll: true });
  }
}

function turn(by) {
  const latent = list.move(by);
  if (latent !== null) go(latent, { replace: true });
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = event.target, typing = at.matches("input, select, textarea");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("search").focus();
    $("search").select();
  } else if (event.key === "Escape") {
    hint(null);
    if (at.id === "search" && at.value) { at.value = ""; search(); }
    else if (at.id === "search") list.grid.focus();
    else if (list.opened !== null) go(null);
    else return;
    event.preventDefault();
  } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    if (at.matches("mark.hot")) nextMark(at, event.key === "ArrowRight" ? 1 : -1, event);
  } else if (at.matches("select") || page.contains(at) && !/^[jk]$/.test(event.key)) {
    return;
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    if (!wide.matches && list.opened !== null) return;
    event.preventDefault();
    if (at.id === "search") list.grid.focus({ preventScroll: true });
    const by = event.key === "ArrowDown" ? 1 : -1;
    if (list.opened !== null) turn(by); else list.move(by);
  } else if ((event.key === "j" || event.key === "k") && !typing) {
    turn(event.key === "j" ? 1 : -1);
  } else if (event.key === "Enter" && !at.matches("button, a, summary")) {
    if (at.id === "search" && list.rows.length && list.at(list.chosen) < 0) list.chosen = list.rows[0];
    if (list.chosen === null) return;
    event.preventDefault();
    if (list.opened !== list.chosen) go(list.chosen);
    $("page-title").focus({ preventScroll: true });
  } else if (at === list.grid && ["Home", "End", "PageDown", "PageUp"].includes(event.key)) {
    event.preventDefault();
    if (event.key === "Home") list.choose(0);
    else if (event.key === "End") list.choose(list.rows.length - 1);
    else list.move(event.key === "PageDown" ? 12 : -12);
  }
}

function nextMark(from, by, event) {
  const marks = [...from.closest(".passage").querySelectorAll("mark.hot")];
  const to = marks[marks.indexOf(from) + by];
  if (!to) return;
  event.preventDefault();
  from.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
}

// The token and its activation, beside it.
function hint(element) {
  const tip = $("tip");
  document.querySelector("[aria-describedby=tip]")?.removeAttribute("aria-describedby");
  tip.hidden = !element;
  if (!element) return;
  tip.textContent = element.dataset.tip;
  element.setAttribute("aria-describedby", "tip");
  const box = element.getClientRects()[0];
  const left = Math.max(6, Math.min(innerWidth - tip.offsetWidth - 6, box.left));
  const above = box.top - tip.offsetHeight - 6;
  tip.style.left = `${left}px`;
  tip.style.top = `${above < 4 ? box.bottom + 6 : above}px`;
}

function search() {
  list.query = $("search").value;
  list.update();
}

function choices() {
  const n = new Array(table.statuses.length).fill(0);
  for (const s of table.status) n[s]++;
  $("status").append(h("option", { value: "" }, "all"),
    ...table.statuses.flatMap((name, i) => (n[i] ? [h("option", { value: i }, `${name} (${whole(n[i])})`)] : [])));
  $("status").onchange = (event) => { list.status = event.target.value === "" ? null : Number(event.target.value); list.update(); };
  $("by").hidden = table.explainers.length < 2;
  $("explainer").append(...table.explainers.map((e, i) => h("option", { value: i }, e.name)));
  $("explainer").onchange = (event) => { list.explainer = Number(event.target.value); list.show(); facts(); };
  $("search").oninput = search;
}

// The header's numbers are of the explainer that the table shows.
function facts() {
  const who = table.explainers[list.explainer];
  if (!who) return;
  const f1 = table[`f1_${list.explainer}`];
  $("spread").replaceChildren(...(f1.some((x) => !Number.isNaN(x)) ? [spread(f1, "F1")] : []));
  $("facts").replaceChildren(...who.facts.map(([value, label, detail]) =>
    h("div", null, h("dt", null, label), h("dd", null, h("b", null, value), h("small", null, detail)))));
}

function themes() {
  const root = document.documentElement;
  $("theme").onclick = () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  };
}

async function start() {
  themes();
  if (!globalThis.DecompressionStream) throw new Error("this browser is too old to unpack it (no DecompressionStream)");
  table = await unpack("table-data");
  list = new List(table, pages, (latent) => go(latent));
  choices();
  list.show();
  facts();
  addEventListener("hashchange", route);
  addEventListener("popstate", route);
  wide.addEventListener("change", () => list.draw());
  addEventListener("keydown", keys);
  page.addEventListener("mouseover", (event) => hint(event.target.closest("[data-tip]")));
  page.addEventListener("mouseleave", () => hint(null));
  page.addEventListener("focusin", (event) => hint(event.target.closest("[data-tip]")));
  page.addEventListener("focusout", () => hint(null));
  addEventListener("scroll", () => hint(null), { passive: true });
  $("skip").onclick = (event) => { event.preventDefault(); list.grid.focus(); };
  if (asked() !== null) route();
  pages = new Pages(await unpack("pages-data"));
  if (list.opened !== null) route();
  document.body.dataset.ready = "true";
}

start().catch((error) => {
  $("trouble").hidden = false;
  $("trouble").textContent = `The atlas cannot be shown: ${error.message}`;
  throw error;
});
