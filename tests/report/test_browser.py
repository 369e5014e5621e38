"""The page in a real browser: nothing is asked of the network or said on the console, and nothing sticks out."""

import shutil

import pytest
from report_files import write_evaluation, write_run

from fastait.report.page import make

playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

STICKING_OUT = """() => {
    const width = document.documentElement.clientWidth;
    const boxed = (e) => e.closest('.wide') !== null;
    return [...document.body.querySelectorAll('*')]
        .filter((e) => !boxed(e) && e.getBoundingClientRect().right > width + 1)
        .map((e) => e.outerHTML.slice(0, 80));
}"""

OVERLAPPING = """() => {
    // Texts of a chart that lie upon each other.
    const found = [];
    for (const chart of document.querySelectorAll('svg[role=img]')) {
        const texts = [...chart.querySelectorAll('text')].map((t) => [t.textContent, t.getBoundingClientRect()]);
        for (let i = 0; i < texts.length; i++) for (let j = 0; j < i; j++) {
            const [a, b] = [texts[i][1], texts[j][1]];
            const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            if (wide > 1 && high > 3) found.push([chart.getAttribute('aria-label'), texts[i][0], texts[j][0]]);
        }
    }
    return found;
}"""

SMALLEST = """() => Math.min(...[...document.querySelectorAll('svg[role=img] text')].map((t) =>
    t.getBoundingClientRect().height))"""

CONTRAST = """() => {
    const light = (colour) => {
        const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map((v) => v / 255)
            .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const paper = light(getComputedStyle(document.body).backgroundColor);
    return Math.min(...['p', 'td', 'dt', '.n', 'svg text'].map((name) => {
        const e = document.querySelector(name);
        const ink = light(getComputedStyle(e)[name === 'svg text' ? 'fill' : 'color']);
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    }));
}"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    runs = [write_run(folder / f"run-{i}-{'long' * 12}", 30, collapsed=20 + i) for i in range(3)]
    models = {run.name: run for run in runs}
    evaluation = write_evaluation(
        folder / "eval", models, attacks=("fgsm", "pgd20", "pgd100", "quick"), epsilons=(8 / 255, 16 / 255)
    )
    file = folder / "page.html"
    file.write_text(make(runs, [evaluation], figures=False))
    return file


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        # A container's root cannot have Chromium's sandbox; the page is this test's own.
        yield (launched := started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]))
        launched.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_in_a_browser(browser, page_file, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate(STICKING_OUT) == []
    assert page.evaluate(OVERLAPPING) == []
    assert page.evaluate(SMALLEST) > 9
    assert page.evaluate(CONTRAST) > 4.5
    assert page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    page.click("text=Curves")
    assert page.evaluate("window.scrollY") > 0
    assert said == []
    context.close()


def test_a_script_does_not_run(browser, page_file):
    """Were a name not escaped after all, the policy would stop it."""
    text = page_file.read_text().replace(
        "<main>", "<main><script>document.title = 'ran'</script><img src='http://x.test/a'>"
    )
    bad = page_file.with_name("bad.html")
    bad.write_text(text)
    page, asked = browser.new_page(), []
    page.on("response", lambda response: asked.append(response.url))
    page.goto(bad.as_uri())
    assert page.title() != "ran"
    assert [url for url in asked if url.startswith("http")] == []
    page.close()


def test_a_print_is_light(browser, page_file):
    page = browser.new_page(color_scheme="dark")
    page.goto(page_file.as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(31, 35, 40)"
    assert len(page.pdf()) > 10_000
    page.close()
