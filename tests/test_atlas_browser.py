"""The atlas in a real browser, from disk and offline: what a reader does, and what must not be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from atlas_world import PLANT, World
from glossator.atlas import build_atlas
from glossator.atlas.columns import latent_columns
from glossator.atlas.pages import choose_pages

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing: apt-get install chromium"
    ),
]


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world") / "index")


@pytest.fixture(scope="module")
def atlas(world, tmp_path_factory):
    return build_atlas(tmp_path_factory.mktemp("atlas") / "atlas.html", **world.arguments())


class Reader:
    """A page of the browser that notes every request, error and line of the console."""

    def __init__(self, browser, atlas, width=1400, height=900, theme="light"):
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, offline=True
        )
        self.page = self.context.new_page()
        self.requests, self.said = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.address = atlas.as_uri()

    def open(self, fragment=""):
        self.page.goto(self.address + fragment)
        self.page.wait_for_selector("body[data-ready=true]")
        return self.page

    def rows(self):
        """The ids of the rows in the document, from the top."""
        return [
            int(row.get_attribute("data-latent"))
            for row in self.page.query_selector_all("#rows tr[data-latent]")
        ]


@pytest.fixture
def reader(browser, atlas):
    reader = Reader(browser, atlas)
    yield reader
    reader.context.close()
    # The address itself is the only request, and nothing was complained of.
    assert {url.split("#")[0] for url in reader.requests} <= {reader.address}
    assert reader.said == []


def test_the_table_shows_the_latents_and_the_header_their_numbers(reader):
    page = reader.open()
    assert reader.rows()[:3] == [0, 1, 2]
    assert page.inner_text("#found") == "40 latents"
    assert page.inner_text("h1") == "40 latents of model.layers.6"
    assert "explained" in page.inner_text("#facts")
    assert "a judge of 135 M parameters is near chance" in page.inner_text(".notes")
    assert page.get_attribute("#latents", "aria-rowcount") == "41"


def test_a_click_on_a_head_sorts_and_another_turns_it_round(reader, world):
    page = reader.open()
    f1 = {
        row["explanation_id"]: row["value"]
        for row in world.tables()["scores"].to_pylist()
        if row["metric"] == "f1"
    }
    by_latent = {
        row["latent"]: f1[row["explanation_id"]]
        for row in world.tables()["explanations"].to_pylist()
        if row["explanation_id"] in f1
    }
    page.click("th.f1 button")
    assert page.get_attribute("th.f1", "aria-sort") == "descending"
    assert page.get_attribute("th.latent", "aria-sort") == "none"
    down = [by_latent[latent] for latent in reader.rows()[:10]]
    assert down == sorted(down, reverse=True)
    assert down[0] == max(by_latent.values())
    page.click("th.f1 button")
    assert page.get_attribute("th.f1", "aria-sort") == "ascending"
    up = [by_latent[latent] for latent in reader.rows()[:10]]
    assert up == sorted(up)
    assert up[0] == min(by_latent.values())


def test_a_page_leads_to_the_nearest_latents(reader, world):
    page = reader.open("#latent=2")
    ids = world.neighbours.ids
    links = page.query_selector_all(".near a")
    assert [link.inner_text() for link in links] == [f"Latent {near}" for near in ids[2, :8]]
    assert page.inner_text(".near li:first-child small") == "parent"
    assert page.query_selector(".near li:nth-child(2) small") is None
    links[0].click()
    page.wait_for_function(f"location.hash === '#latent={ids[2, 0]}'")
    assert page.inner_text("#page-title").startswith(f"Latent {ids[2, 0]} ")
    page = reader.open(f"#latent={len(ids) - 1}")
    assert page.query_selector(".near") is None


def test_search_finds_words_of_explanations_and_ids(reader):
    page = reader.open()
    page.fill("#search", "kind 17")
    assert reader.rows() == [17]
    page.fill("#search", "3")
    assert set(reader.rows()) >= {3, 30, 39}
    page.fill("#search", "no such words")
    assert reader.rows() == []
    assert page.is_visible("#none")
    page.press("#search", "Escape")
    assert page.inner_text("#found") == "40 latents"


def test_the_status_filter_leaves_that_status(reader, world):
    page = reader.open()
    status = world.tables()["latents"]["status"].to_pylist()
    page.select_option("#status", label=f"rare ({status.count('rare')})")
    assert reader.rows() == [i for i, name in enumerate(status) if name == "rare"]
    page.fill("#search", "kind 6")
    assert reader.rows() == [6]


def test_another_explainer_changes_texts_scores_and_header(reader):
    page = reader.open()
    page.select_option("#explainer", label="judge <b>model</b>")
    assert PLANT in page.inner_text("tr[data-latent='2'] .said")
    assert page.inner_text("tr[data-latent='2'] td.detection") == "0.55"
    assert page.inner_text("#facts dd b") == "1"
    assert page.query_selector("th.f1") is None


def test_a_latent_opens_and_shows_explanations_scores_figures_and_examples(reader, world):
    page = reader.open()
    page.click("tr[data-latent='2'] .said")
    assert page.url.endswith("#latent=2")
    assert page.inner_text("#page-title").startswith("Latent 2")
    assert page.locator(".explanation").count() == 2
    forest = page.locator(".explanation").first.locator(".forest .line[role=listitem]")
    assert [line.split("\n")[0] for line in forest.all_inner_texts()] == [
        "F1",
        "precision",
        "recall",
    ]
    label = forest.first.locator("svg").get_attribute("aria-label")
    assert re.fullmatch(r"0\.\d\d, 95 % interval from 0\.\d\d to [01]\.\d\d", label)
    assert "12,345 rightly silent" in page.inner_text(".outcomes")
    assert "no value: no logprobs were given" in page.inner_text("#page")
    assert page.locator(".bars").count() == 1
    assert page.locator(".bars .whisker").count() == 30
    assert page.locator(".histogram .heat").count() == 10
    assert page.inner_text(".top_logits li").split() == ["e", "2.50"]

    deciles = [
        int(item.get_attribute("data-decile")) for item in page.query_selector_all(".example")
    ]
    assert deciles == sorted(deciles, reverse=True)
    assert set(deciles) == set(range(11))
    assert page.locator(".example.silent").count() == 4
    assert page.locator(".example.silent mark").count() == 0
    assert 20 <= page.locator(".example .side.explain").count() <= 22
    assert page.locator(".example:not(.silent) .side.score").count() == 10
    assert page.locator(".pilcrow").count() > 0
    top = float(world.index.summary()["max_activation"][2])
    assert f"0 to {top:.3g}" in page.inner_text(".examples > .legend")


def test_a_token_says_its_activation_on_hover_and_on_focus(reader):
    page = reader.open("#latent=1")
    mark = page.locator("mark.hot").first
    mark.hover()
    code = round(float(mark.evaluate("e => e.style.getPropertyValue('--heat')")) * 255)
    share = f"{round(code / 2.55)} % of the maximum"
    assert re.fullmatch(rf"\S+  [\d.]+ · {share}( · the rule fires)?", page.inner_text("#tip"))
    page.mouse.move(2, 2)
    assert not page.is_visible("#tip")
    several = page.locator(".passage", has=page.locator("mark.hot:nth-of-type(2)")).first
    several.locator("mark.hot").first.focus()
    assert page.is_visible("#tip")
    page.keyboard.press("ArrowRight")
    assert several.locator("mark.hot").nth(1).evaluate("mark => mark === document.activeElement")
    assert page.get_attribute("mark.hot:focus", "aria-describedby") == "tip"


def test_a_deep_link_opens_its_latent_and_a_wrong_one_the_table(reader):
    page = reader.open("#latent=17")
    assert page.inner_text("#page-title").startswith("Latent 17")
    assert page.title().startswith("Latent 17 · ")
    assert page.get_attribute("tr[data-latent='17']", "aria-selected") == "true"
    reader.open("#latent=4000")
    assert not page.is_visible("#page")


def test_the_keyboard_alone_reads_the_atlas(reader):
    page = reader.open()
    page.keyboard.press("/")
    page.keyboard.type("kind 1")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.url.endswith("#latent=10")
    assert page.evaluate("document.activeElement.id") == "page-title"
    page.keyboard.press("j")
    assert page.url.endswith("#latent=11")
    page.keyboard.press("k")
    assert page.url.endswith("#latent=10")
    page.keyboard.press("Escape")
    assert not page.is_visible("#page")
    assert "#" not in page.url
    assert page.evaluate("document.activeElement.id") == "latents"
    page.keyboard.press("ArrowDown")
    assert page.get_attribute("#latents", "aria-activedescendant") == "row-11"
    page.go_back()
    assert page.url.endswith("#latent=10")
    assert page.is_visible("#page")


def test_planted_mark_up_stays_text(reader):
    page = reader.open("#latent=2")
    assert page.locator("img").count() == 0
    assert page.title().startswith("Latent 2 · Atlas of")
    assert PLANT in page.inner_text(".masthead")
    assert PLANT in page.inner_text("blockquote >> nth=1")
    shown = "".join(page.locator(".passage").all_inner_texts())
    assert "<img" in shown
    assert page.evaluate("document.querySelectorAll('script').length") == 1


def test_whitespace_is_visible_and_padding_is_not_shown(reader, world):
    shown = ""
    for latent in range(1, 12):
        page = reader.open(f"#latent={latent}")
        shown += "".join(page.locator(".passage").all_inner_texts())
    assert "⏎" in shown
    assert "⇥" in shown
    assert "☕ 日本茶" in shown
    padding = world.text.pieces([0])[0]
    assert padding * 4 not in shown


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 420])
def test_text_has_contrast_and_nothing_is_wider_than_the_screen(browser, atlas, theme, width):
    reader = Reader(browser, atlas, width=width, theme=theme)
    page = reader.open("#latent=2")
    for selector in ("#page", "html"):
        assert page.eval_on_selector(selector, "e => e.scrollWidth <= e.clientWidth + 1"), selector
    ratios = page.evaluate(_CONTRAST)
    assert min(ratios.values()) >= 4.5, ratios
    reader.context.close()


_CONTRAST = """() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const over = (top, under) => {
    const a = top[3] ?? 1;
    return top.slice(0, 3).map((v, i) => a * v + (1 - a) * under[i]);
  };
  const behind = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const light = (c) => {
    const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = c.map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const of = (e) => {
    const back = behind(e), front = over(parse(getComputedStyle(e).color), back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const out = {};
  const names = ["blockquote", ".by", ".why", ".line .n", ".figures small", ".passage", ".peak",
    ".side.score", ".side.explain", ".legend", ".chip", ".kicker", ".about b", ".facts small",
    ".glance dt", ".said", ".said.missing", "td.count", ".verdict", ".foot"];
  for (const name of names) {
    const e = document.querySelector(name);
    if (e) out[name] = of(e);
  }
  out.hottest = Math.min(...[...document.querySelectorAll("mark.hot:not(.blank)")].map(of));
  return out;
}"""


def test_on_a_narrow_screen_the_page_covers_the_table_and_closes_again(browser, atlas):
    reader = Reader(browser, atlas, width=420, height=860)
    page = reader.open()
    page.click("tr[data-latent='5'] .said")
    assert page.evaluate("document.activeElement.id") == "page-title"
    box = page.locator("#page").bounding_box()
    assert box["x"] == 0
    assert box["width"] == 420
    page.click("#close")
    assert not page.is_visible("#page")
    assert reader.said == []
    reader.context.close()


def test_the_theme_can_be_turned(reader):
    page = reader.open()
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_print_holds_the_rows_that_the_screen_left_out(reader):
    page = reader.open()
    page.set_viewport_size({"width": 1400, "height": 500})
    assert len(reader.rows()) < 40
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert reader.rows() == list(range(40))


def test_many_latents_scroll_with_few_rows_and_the_page_says_what_the_file_holds(browser, tmp_path):
    world = World(tmp_path / "index", n_latents=12_000, n_documents=60)
    atlas = build_atlas(tmp_path / "atlas.html", **world.arguments())
    reader = Reader(browser, atlas)
    page = reader.open()
    assert "lists all 12,000 latents and holds the pages of 10,000" in page.inner_text("#held")
    assert page.inner_text("#found") == "12,000 latents"
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_selector("tr[data-latent='11999']")
    assert len(reader.rows()) < 100
    # 6,000 rows up a steady distance shows the row that belongs there.
    height = page.eval_on_selector("tr[data-latent='11999']", "e => e.offsetHeight")
    page.evaluate(f"scrollBy(0, {-6000 * height})")
    page.wait_for_selector("tr[data-latent='11999']", state="detached")
    assert all(5_000 < latent < 7_000 for latent in reader.rows())

    rows = latent_columns(world.tables()["latents"], world.n_latents)
    held = choose_pages(rows, pages=None, max_pages=10_000, seed=0)
    left_out = next(latent for latent in range(12_000) if latent not in held)
    reader.open(f"#latent={left_out}")
    assert "is not in this file" in page.inner_text("#page")
    assert "10,000 of them" in page.inner_text("#page")
    assert reader.said == []
    reader.context.close()
