"""A headless browser that opens files of this machine and nothing else."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


@contextmanager
def started() -> Iterator[Browser]:
    """Chromium, or Chrome.

    Raises:
        AssertionError: there is none.
    """
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, f"no browser: install one of {', '.join(NAMES)}, as with `apt-get install chromium`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


def opened(browser: Browser, file: Path, **options: Any) -> tuple[Page, list[str]]:
    """A page of a file once its chart is drawn, and what goes wrong in it: requests of anything else, errors, warnings.

    Args:
        browser: that opens it.
        file: the page.
        **options: of the page, such as `color_scheme` and `viewport`.
    """
    page, wrong = browser.new_page(**options), []
    page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    address = file.as_uri()
    page.on("request", lambda r: None if r.url.startswith(("data:", address)) else wrong.append(f"request: {r.url}"))
    page.goto(address)
    page.wait_for_selector("#chart .scatterlayer .trace")
    return page, wrong
