"""The documentation as a site: no broken link, and nothing in it asks another host for anything."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}
"""Elements for which a browser fetches something, and the attribute that says what."""


class Fetched(HTMLParser):
    """What a browser would fetch to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if LOADS.get(tag) == name]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed (make docs)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()


def test_no_page_asks_another_host(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        fetched = Fetched()
        fetched.feed(page.read_text(encoding="utf-8"))
        assert fetched.found, f"{page.name}: not even a style sheet is found, so this test sees nothing"
        foreign = [one for one in fetched.found if re.match(r"(?:[a-z]+:)?//", one)]
        assert not foreign, f"{page.name}: {foreign}"
    for sheet in site.rglob("*.css"):
        asked = re.findall(
            r"(?:url\(\s*[\"']?|@import\s+[\"'])(?:https?:)?//[^)\"']+", sheet.read_text(encoding="utf-8")
        )
        assert not asked, f"{sheet.name}: {asked}"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_in_a_browser_from_a_folder(site):
    """Search finds, narrow screens do not scroll sideways, and nothing is asked for but files of the site."""
    sync_api = pytest.importorskip("playwright.sync_api")
    asked, errors = [], []
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name in ("index", "tutorial", "results", "howto/read-the-report"):
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 400, f"{name} is wider than the screen"
        page.set_viewport_size({"width": 1400, "height": 900})
        page.goto((site / "howto" / "python.html").as_uri())
        page.click(".md-search__input")
        page.keyboard.type("clipfrac")
        page.wait_for_selector(".md-search-result__item", timeout=20_000)
        browser.close()
    assert not errors, errors
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
