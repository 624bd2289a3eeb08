"""The report on runs, as a file and in a browser."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

import browser
from conftest import tiny_config
from dynamite_jax import config as configs
from dynamite_jax.analysis import html_report, statistics
from dynamite_jax.commands import report
from finished_runs import summary

RETURNS = {"dynamite": [5.0, 7.0], "rl2": [3.0, 4.0], "varibad": [1.0, 2.0]}
CHUNKS = 6


def save_run(folder: Path, method: str, *, finished: bool = True, **changes: Any) -> Path:
    """A run of two seeds whose returns rise by 1 a chunk to those of `RETURNS`; chunks take a minute each."""
    folder.mkdir()
    configs.save(tiny_config("gridworld", method, **changes), folder / "config.json")
    end = np.array(RETURNS[method])
    records = [
        {
            "chunk": chunk,
            "env_steps": 1000 * chunk,
            "wall_s": 60.0 * chunk,
            "steps_per_s": 50.0,
            "return": (end + chunk - CHUNKS).tolist(),
            "return_iqm": 0.0,
            "vae/loss": [1.0 / chunk, 2.0 / chunk],
        }
        for chunk in range(1, CHUNKS + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if finished:
        left = summary(RETURNS[method], best=10.0)
        left |= {"steps_per_s": 12345.6, "compile_s": 3.21, "wall_s": 360.0, "peak_mb": 1234.5}
        left["machine"] = {"device": "cpu", "devices": 2, "processor": "x86"}
        (folder / "summary.json").write_text(json.dumps(left))
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report on two finished runs, of which one was drawn, and one that goes on."""
    root = tmp_path_factory.mktemp("report")
    runs = [
        save_run(root / "one", "dynamite", num_envs=16),
        save_run(root / "two", "rl2"),
        save_run(root / "three", "varibad", finished=False),
    ]
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    frames[0].save(runs[0] / "video.gif", save_all=True, append_images=frames[1:])
    frames[0].save(runs[0] / "beliefs.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["report", "--runs", *map(str, runs), "--out", str(root / "report.html")])
        report.main()
    return root / "report.html"


@pytest.fixture(scope="module")
def chromium():
    with browser.started() as started:
        yield started


def table(page, heading: str) -> list[list[str]]:
    """Rows of the tables of a part."""
    rows = page.locator(f"#{heading} tr")
    return [row.locator("th, td").all_inner_texts() for row in rows.all()]


def drawn(page) -> dict[str, Any]:
    """Name of each curve of the chart -> its points and line."""
    traces = page.evaluate("document.getElementById('chart').data")
    return {trace["name"]: trace for trace in traces}


def curves(page) -> int:
    """Lines that are to be seen."""
    page.wait_for_timeout(100)
    return page.locator("#chart .scatterlayer .trace path.js-line[style*='stroke-width: 2px']").count()


# -- what it shows ------------------------------------------------------------------------------------------------


def test_nothing_goes_wrong_and_nothing_is_asked_of_the_network(page, chromium):
    shown, wrong = browser.opened(chromium, page)
    assert wrong == [] and shown.title() == "gridworld"
    assert not re.findall(r"(?:src|href|srcset)=[\"']?(?!data:|#)[^\"' >]+", page.read_text().split("<script>")[0])


def test_curves_are_those_of_the_runs(page, chromium):
    shown, _ = browser.opened(chromium, page)
    lines = drawn(shown)
    assert set(lines) == {name + end for name in RETURNS for end in ("", " interval")} and curves(shown) == 3
    for name, end in RETURNS.items():
        middle = np.mean(end) + np.arange(1, CHUNKS + 1) - CHUNKS
        np.testing.assert_allclose(lines[name]["y"], middle)
        assert lines[name]["x"] == [1000 * chunk for chunk in range(1, CHUNKS + 1)]
    low, high = statistics.bootstrap_interval(RETURNS["dynamite"], resamples=html_report.RESAMPLES)
    band = lines["dynamite interval"]["y"]
    assert band[CHUNKS - 1 : CHUNKS + 1] == pytest.approx([high, low])
    assert shown.evaluate("document.getElementById('chart').layout.shapes.map((shape) => shape.y0)") == [10.0]


def test_a_run_that_is_not_wanted_leaves_the_chart(page, chromium):
    shown, _ = browser.opened(chromium, page)
    shown.get_by_label("rl2").uncheck()
    assert curves(shown) == 2 and "rl2" not in drawn(shown)
    shown.get_by_label("rl2").check()
    assert curves(shown) == 3


def test_other_metrics_are_shown_against_minutes(page, chromium):
    shown, _ = browser.opened(chromium, page)
    assert shown.locator("#metric option").all_inner_texts() == ["return", "steps_per_s", "vae/loss"]
    shown.get_by_label("Shown").select_option("vae/loss")
    shown.get_by_label("against").select_option("minutes")
    line = drawn(shown)["dynamite"]
    assert line["x"] == [1, 2, 3, 4, 5, 6] and line["y"] == pytest.approx(
        [1.5 / chunk for chunk in range(1, 7)], rel=1e-5
    )
    assert shown.evaluate("document.getElementById('chart').layout.shapes") == []


def test_pointing_at_a_curve_shows_its_values(page, chromium):
    shown, _ = browser.opened(chromium, page)
    box = shown.locator("#chart .nsewdrag").bounding_box()
    assert box
    for step in (20, 10, 5):
        shown.mouse.move(box["x"] + box["width"] - step, box["y"] + box["height"] / 2)
    shown.wait_for_selector("#chart .hoverlayer text")
    text = shown.locator("#chart .hoverlayer").text_content() or ""
    assert "dynamite" in text and "6.0000 [5.0000, 7.0000]" in text


def test_tables_have_what_runs_have_left(page, chromium):
    shown, _ = browser.opened(chromium, page)
    titles, *rows = table(shown, "results")
    assert [row[0] for row in rows] == ["dynamite", "rl2"]
    cells = dict(zip(titles, rows[0], strict=True))
    assert cells["return"] == "6.00 [5.00, 7.00]" and cells["score"].startswith("0.600 ")
    assert "bayes-optimal 10.00" in shown.locator("#results").inner_text()
    assert "(not finished yet: varibad)" in shown.locator("#curves").inner_text()
    assert table(shown, "speed")[1] == ["dynamite", "12,346", "3.2", "6.0", "1,234", "2 x cpu, x86"]


def test_fields_that_differ_come_first(page, chromium):
    shown, _ = browser.opened(chromium, page)
    differ = {row[0]: row[1:] for row in table(shown, "configuration") if row[0] in ("method", "num_envs")}
    assert differ == {"method": ["dynamite", "rl2", "varibad"], "num_envs": ["16", "8", "8"]}
    same = shown.locator("details:not([open])")
    assert not same.locator("table").is_visible()
    same.locator("summary").click()
    assert ["env", "gridworld", "gridworld", "gridworld"] in [
        row.locator("th, td").all_inner_texts() for row in shown.locator("details").last.locator("tr").all()
    ]


def test_what_was_drawn_is_in_it_and_what_was_not_is_told(page, chromium):
    shown, _ = browser.opened(chromium, page)
    assert shown.locator("figure").count() == 2
    widths = shown.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert widths == [40, 40]
    assert (
        "Nothing is drawn yet of rl2, varibad. Where there is something to draw, make video RUN="
        in shown.locator("main").inner_text()
    )
    still, _ = browser.opened(chromium, page, reduced_motion="reduce")
    sources = [image.split(",")[0] for image in still.evaluate("[...document.images].map((image) => image.currentSrc)")]
    assert sources == ["data:image/png;base64"] * 2


# -- for everybody ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_is_accessible_in_light_and_dark_on_wide_and_narrow_screens(scheme, width, page, chromium):
    options: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    shown, wrong = browser.opened(chromium, page, **options)
    violations = Axe().run(shown).response["violations"]
    assert [(fault["id"], fault["impact"]) for fault in violations] == [] and wrong == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    background = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 28)"}[scheme]
    text = shown.evaluate("getComputedStyle(document.querySelector('#chart .xtick text')).fill")
    assert text == {"light": "rgb(26, 26, 26)", "dark": "rgb(232, 232, 232)"}[scheme]


def test_it_is_used_by_keyboard(page, chromium):
    shown, _ = browser.opened(chromium, page)
    for _ in range(7):  # four links, and the runs behind them
        shown.keyboard.press("Tab")
        if shown.evaluate("document.activeElement.name") == "run":
            break
    shown.keyboard.press("Space")
    assert "dynamite" not in drawn(shown) and curves(shown) == 2
    for _ in range(3):
        shown.keyboard.press("Tab")
    shown.keyboard.press("ArrowDown")
    assert shown.locator("#metric").input_value() == "steps_per_s" and drawn(shown)["rl2"]["y"][0] == 50.0


def test_colours_follow_the_browser_while_it_is_open(page, chromium):
    shown, _ = browser.opened(chromium, page, color_scheme="light")
    shown.emulate_media(color_scheme="dark")
    shown.wait_for_timeout(100)
    text = shown.evaluate("getComputedStyle(document.querySelector('#chart .xtick text')).fill")
    assert text == "rgb(232, 232, 232)"


# -- the command --------------------------------------------------------------------------------------------------


def test_names_are_text_and_nothing_else(tmp_path, monkeypatch, chromium):
    name, out = "</script><img src=x onerror=alert(1)>", tmp_path / "a.html"
    run = save_run(tmp_path / "run", "dynamite")
    monkeypatch.setattr("sys.argv", ["report", "--runs", str(run), "--labels", name, "--out", str(out)])
    report.main()
    shown, wrong = browser.opened(chromium, out)
    assert wrong == [] and name in drawn(shown) and table(shown, "results")[1][0] == name


def test_runs_of_one_method_are_told_apart_by_their_folders(tmp_path, monkeypatch, chromium):
    runs = [str(save_run(tmp_path / name, "dynamite")) for name in ("a", "b")]
    monkeypatch.setattr("sys.argv", ["report", "--runs", *runs, "--out", str(tmp_path / "a.html")])
    report.main()
    shown, _ = browser.opened(chromium, tmp_path / "a.html")
    assert [row[0] for row in table(shown, "results")[1:]] == [f"dynamite ({run})" for run in runs]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--runs a --out a.pdf", "out is 'a.pdf'; its name must end in .html"),
        ("--runs a b --labels x", "labels are 1; they must be as many as runs, 2"),
        ("--runs a b --labels x x", "labels are x, x; they must differ"),
        ("--runs a a", "runs are a, a; they must differ"),
        ("--runs", "runs are none; name one run folder or more"),
        ("--runs a --out nowhere/a.html", "out is 'nowhere/a.html'; 'nowhere' must be a folder"),
        ("--runs a c", "runs: c has other env_options than a; they must be of one environment"),
        ("--runs a d", "runs: 'd' is no run folder; it must hold a config.json"),
    ],
)
def test_what_can_not_be_reported_is_refused(flags, message, tmp_path, refused):
    for name, options in (("a", {}), ("b", {}), ("c", {"p": 0.5})):
        save_run(tmp_path / name, "dynamite", env_options=options)
    assert refused(report, *flags.split()) == message


@pytest.mark.parametrize("content", [b"none", b"GIF89a"])
def test_a_damaged_picture_is_named(content, tmp_path, refused):
    save_run(tmp_path / "run", "dynamite")
    (tmp_path / "run" / "video.gif").write_bytes(content)
    assert refused(report, "--runs", "run") == "runs: 'run/video.gif' is no picture; remove it, or draw it anew"


def test_a_chunk_that_is_not_finite_is_a_gap(tmp_path, monkeypatch, chromium):
    run = save_run(tmp_path / "run", "dynamite")
    records = (run / "metrics.jsonl").read_text().splitlines()
    records[2] = re.sub(r'"vae/loss": .*?\]', '"vae/loss": [NaN, NaN]', records[2])
    (run / "metrics.jsonl").write_text("\n".join(records) + "\n")
    monkeypatch.setattr("sys.argv", ["report", "--runs", str(run), "--out", str(tmp_path / "a.html")])
    report.main()
    shown, wrong = browser.opened(chromium, tmp_path / "a.html")
    shown.get_by_label("Shown").select_option("vae/loss")
    y = drawn(shown)["dynamite"]["y"]
    assert wrong == [] and y[2] is None and None not in (*y[:2], *y[3:])


def test_a_run_of_an_earlier_version_is_reported(tmp_path, monkeypatch, chromium):
    old = Path(__file__).parents[1] / "files" / "run_v0"
    monkeypatch.setattr("sys.argv", ["report", "--runs", str(old), "--out", str(tmp_path / "a.html")])
    report.main()
    shown, wrong = browser.opened(chromium, tmp_path / "a.html")
    assert wrong == [] and len(table(shown, "results")) == 2 and len(table(shown, "speed")) == 2


def test_runs_that_are_not_finished_have_curves_alone(tmp_path, monkeypatch, chromium):
    run = save_run(tmp_path / "run", "varibad", finished=False)
    monkeypatch.setattr("sys.argv", ["report", "--runs", str(run), "--out", str(tmp_path / "a.html")])
    report.main()
    shown, wrong = browser.opened(chromium, tmp_path / "a.html")
    assert wrong == [] and set(drawn(shown)) == {"varibad", "varibad interval"} and not table(shown, "results")


def test_a_run_without_metrics_is_refused(tmp_path, refused):
    run = save_run(tmp_path / "run", "dynamite", finished=False)
    (run / "metrics.jsonl").unlink()
    assert refused(report, "--runs", "run") == "runs: 'run' has no metrics yet; it must have finished a chunk"


def test_a_report_needs_its_extra(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    line = refused(report, "--runs", "a")
    assert line == "the package plotly is missing, which the extra report installs"
