"""The report in a real browser: nothing is asked of the network, nothing is amiss, and what can be pressed works.

Skipped where there is no Chromium; CI installs it.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from rl4nlu.reports import collect, differences, write
from rl4nlu.tasks import find
from runs_made import make_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TASKS = ("glue/rte", "glue/wnli")
METHODS = {"zero-shot": 0.5, "few-shot": 0.55, "sft": 0.7, "ppo": 0.8}
SECTIONS = ("scores", "differences", "curves", "confusion", "calibration", "cost", "examples", "all-metrics", "rerun")


def make_runs(folder, tasks, methods, seeds, rows=80):
    """Runs of every method on every task; the trained ones with several seeds, and curves."""
    rng = np.random.default_rng(0)
    for task in tasks:
        labels = find(task).labels
        golds = [labels[i] for i in rng.integers(len(labels), size=rows)]
        prompts = {
            str(i): f"The premise of row {i}, which is long enough.\nDoes the claim follow?" for i in range(rows)
        }
        for method, share in methods.items():
            trained = method not in ("zero-shot", "few-shot")
            for seed in range(seeds if trained else 1):
                said = [g if rng.random() < share else str(rng.choice(labels)) for g in golds]
                sure = rng.uniform(0.55, 0.99, size=rows).tolist()
                names = ("loss", "reward", "accuracy", "kl", "entropy", "unparsable", "clipfrac", "held_out")
                speed = {"examples_per_second": 16.0, "tokens_per_second": 320.0}
                steps = [
                    {"step": i + 1, **{name: float(rng.random()) for name in names}, **speed}
                    for i in range(40 if trained else 0)
                ]
                more = {"shots": 5} if method == "few-shot" else {}
                where = folder / f"{method}-{task.replace('/', '-')}-{seed}"
                settings = f"task: {task}\nbatch_size: 32\n"
                make_run(where, task, method, said, golds, seed, sure, steps, prompts, settings, **more)
    return collect([folder])


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    runs = make_runs(folder / "runs", TASKS, METHODS, 2)
    write(runs, folder / "report.html", differences(runs))
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    playwright = pytest.importorskip("playwright.sync_api")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield chromium
        chromium.close()


@pytest.fixture(params=[1400, 400])
def page(browser, page_file, request):
    """The page at a width; afterwards the browser must have said nothing and asked for nothing."""
    said, asked = [], []
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    yield page
    page.close()
    assert said == []
    assert asked == [page_file.as_uri()]


def test_every_section_is_there_and_fits(page):
    for name in SECTIONS:
        assert page.locator(f"h2#{name}").is_visible(), name
        assert page.locator(f"nav a[href='#{name}']").count() == 1
    width, content = page.evaluate("[innerWidth, document.documentElement.scrollWidth]")
    assert content <= width, "the page as a whole does not scroll sideways"
    assert page.locator(".pictures svg").count() == 2 * 8 + 2 * 4
    assert page.locator("figure table").count() == 2 * 4
    assert page.locator("article").count() == 40


def test_the_text_can_be_read(page):
    """WCAG 2.2 AA: a contrast of at least 4.5 between every text and what lies behind it."""
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    worst = page.evaluate("""() => {
        const parts = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
        const light = (colour) => {
            const [r, g, b] = parts(colour).slice(0, 3).map((v) => v / 255)
                .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const behind = (one) => {
            for (let at = one; at; at = at.parentElement) {
                const colour = getComputedStyle(at).backgroundColor;
                if ((parts(colour)[3] ?? 1) > 0) return colour;
            }
            return "rgb(255, 255, 255)";
        };
        let worst = [99, ""];
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        for (let node = walker.nextNode(); node; node = walker.nextNode()) {
            const one = node.parentElement;
            if (!node.textContent.trim() || one.closest("script") || !one.getClientRects().length) continue;
            const style = getComputedStyle(one), inSvg = one.closest("svg");
            const [a, b] = [light(inSvg ? style.fill : style.color), light(behind(one))].sort((x, y) => y - x);
            const contrast = (a + 0.05) / (b + 0.05);
            if (contrast < worst[0]) worst = [contrast, node.textContent.slice(0, 40)];
        }
        return worst;
    }""")
    assert 4.5 <= worst[0] < 99, worst


def test_tables_are_sorted_by_their_heads(page):
    table = page.locator("h2#scores + .scroll table")
    head = table.locator("th", has_text="ppo")

    def column():
        cells = table.locator("tbody tr").evaluate_all("rows => rows.map((row) => row.cells[6].dataset.key ?? 'mean')")
        return [float(cell) if cell != "mean" else cell for cell in cells]

    before = column()
    head.locator("button").click()
    assert column() == [*sorted(before[:2], reverse=True), "mean"]
    assert head.get_attribute("aria-sort") == "descending"
    head.locator("button").click()
    assert column() == [*sorted(before[:2]), "mean"]
    table.locator("th").first.locator("button").click()
    names = table.locator("tbody tr").evaluate_all("rows => rows.map((row) => row.cells[0].dataset.key ?? 'mean')")
    assert names == ["glue/wnli", "glue/rte", "mean"]


def test_examples_are_filtered_and_sorted(page):
    filters = page.locator(".filters")

    def shown():
        return page.locator("article:visible")

    def answers(head):
        return shown().evaluate_all(
            "(cards, head) => cards.map((card) => card.querySelector(`tr[data-head='${head}']`).dataset.right)", head
        )

    assert filters.locator("output").inner_text() == "40 of 40 shown"
    filters.locator("[name=task]").select_option("glue/wnli")
    assert set(shown().evaluate_all("cards => cards.map((card) => card.dataset.task)")) == {"glue/wnli"}
    filters.locator("[name=task]").select_option("")
    filters.locator("[name=first]").select_option("sft")
    filters.locator("[name=first-is]").select_option("0")
    filters.locator("[name=second]").select_option("ppo")
    filters.locator("[name=second-is]").select_option("1")
    count = shown().count()
    assert 0 < count < 40
    assert set(answers("sft")) == {"0"}
    assert set(answers("ppo")) == {"1"}
    assert filters.locator("output").inner_text() == f"{count} of 40 shown"
    filters.locator("[name=first-is]").select_option("")
    filters.locator("[name=second-is]").select_option("")
    filters.locator("[name=sort]").select_option("wrong")
    wrong = shown().evaluate_all("cards => cards.map((card) => Number(card.dataset.wrong))")
    assert wrong == sorted(wrong, reverse=True)
    assert wrong[0] > wrong[-1]
    row = shown().first.locator("pre").inner_text().split(",")[0]
    filters.locator("[name=words]").fill(row.upper())
    assert 0 < shown().count() < 40
    assert all(row in text for text in shown().locator("pre").all_inner_texts())


def test_print_opens_what_is_folded(page):
    folded = page.locator("h2#rerun ~ details pre").first
    assert not folded.is_visible()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert folded.is_visible()
    assert not page.locator(".filters").is_visible()


def test_without_a_script_all_can_be_read(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("article").count() == 40
    assert page.locator("article").last.is_visible()
    context.close()


def test_long_names_fit_a_phone(browser, tmp_path):
    name = "a-method-with-a-name-of-more-letters-than-any-phone-has-room-for-in-one-line-whatever-its-make"
    golds = [find("glue/rte").labels[0]] * 10
    for i in range(2):
        make_run(tmp_path / f"{i}", "glue/rte", "sft", golds, golds, name=f"{name}-{i}")
    runs = collect([tmp_path])
    write(runs, tmp_path / "report.html", differences(runs))
    page = browser.new_page(viewport={"width": 400, "height": 900})
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()


def test_methods_on_other_rows_are_said_to_be_so(tmp_path):
    golds = [find("glue/rte").labels[0]] * 10
    make_run(tmp_path / "a", "glue/rte", "zero-shot", golds, golds)
    make_run(tmp_path / "b", "glue/rte", "sft", golds[:5], golds[:5], n=5)
    runs = collect([tmp_path])
    write(runs, tmp_path / "report.html", differences(runs))
    text = (tmp_path / "report.html").read_text()
    assert "not asked the same rows: glue/rte: zero-shot and sft." in text


@pytest.mark.slow
def test_many_tasks_and_methods_stay_below_the_limit(tmp_path):
    """A whole benchmark: 16 tasks, 6 methods, two seeds; two megabytes are promised."""
    names = [*(f"glue/{n}" for n in ("cola", "sst2", "mrpc", "qqp", "mnli", "mnli-mm", "qnli", "rte", "wnli"))]
    names += [f"superglue/{n}" for n in ("boolq", "cb", "copa", "rte", "wic", "wsc", "axb")]
    runs = make_runs(tmp_path / "runs", names, {**METHODS, "classify": 0.7, "hybrid": 0.75}, 2)
    write(runs, tmp_path / "report.html", [])
    assert (tmp_path / "report.html").stat().st_size < 2e6
