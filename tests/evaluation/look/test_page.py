import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from evaluation.look.page import MOST_BYTES, Network, PageFrames, Shown, frames_of_page, quantized

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_CLICK = """<script>
(async () => {
  const pause = () => new Promise((done) => setTimeout(done, 20));
  const turn = async (before) => { while (document.body.dataset.drawn === before) await pause(); };
  await turn(undefined);
  const maps = () => look.networks.map((_, n) => element(`map-${n}`).toDataURL());
  const before = maps(), canvas = element("colors-1"), box = canvas.getBoundingClientRect();
  const [clientX, clientY] = [box.left + 0.9 * box.width, box.top + 0.1 * box.height];
  canvas.dispatchEvent(new MouseEvent("click", { clientX, clientY }));
  await turn("1");
  document.body.dataset.result = JSON.stringify({
    changed: maps().map((map, n) => map !== before[n]),
    similarities: look.networks.map((_, n) => Array.from(similarities(n, 1))),
    requests: performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:")),
  });
})();
</script></body>"""


def made_page() -> tuple[str, list[torch.Tensor]]:
    """A page of two frames and two networks with other grids, and their features (2, gh, gw, D)."""
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 3, 4, 16, generator=generator), 1000 * torch.randn(2, 2, 2, 5, generator=generator)]
    networks = [Network("a<b>", (3, 4), 16), Network("c", (2, 2), 5)]
    frames = PageFrames()
    for number in range(2):
        colors = [np.zeros((*network.grid, 3), np.uint8) for network in networks]
        picture = Image.new("RGB", (64, 48), (90, 90 * number, 30))
        frames.add(Shown(number, picture, [quantized(some[number]) for some in features], colors, []))
    return frames.render("clip", networks, 2, 10, {"protocol": "t-core"}), features


def test_the_page_asks_for_nothing_from_a_network() -> None:
    page, _ = made_page()
    assert not re.findall(r"https?:|//[a-z]|url\(|@import|<link|src=[\"'](?!data:|{)", page.replace("</script>", ""))
    assert "a&lt;b&gt;" in page
    assert "<b>" not in page.replace("</b>", "")


def test_cosines_of_stored_features_are_those_of_the_features() -> None:
    features = torch.randn(5, 5, 384, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 5)[:, None]
    stored = torch.from_numpy(quantized(features)).double()
    assert stored.abs().amax(1).eq(127).all()
    cosines, expected = (F.normalize(rows, dim=1) for rows in (stored, features.double().flatten(0, 1)))
    assert (cosines @ cosines.T - expected @ expected.T).abs().max() < 0.005
    assert not quantized(torch.zeros(1, 1, 8)).any()


def test_long_clips_and_many_networks_stay_below_the_limit() -> None:
    small = Network("s", (16, 22), 384)
    assert frames_of_page(10, [small]) == list(range(10))
    few = frames_of_page(36_000, [small] * 2)
    assert (few[0], few[-1]) == (0, 35_999)
    assert 0.7 * MOST_BYTES < len(few) * 2 * 16 * 22 * 384 * 4 / 3 < MOST_BYTES
    assert frames_of_page(10, [Network("g", (120, 120), 1536)]) == []


def test_frames_are_left_out_until_the_page_is_small_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.look.page.MOST_BYTES", 60_000)
    frames, network = PageFrames(), Network("s", (3, 4), 16)
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    for number in range(30):
        features = quantized(torch.ones(3, 4, 16))
        frames.add(Shown(number, Image.fromarray(noise), [features], [np.zeros((3, 4, 3), np.uint8)], []))
    page = frames.render("clip", [network], 30, 10, {})
    assert 30_000 < len(page) <= 60_000
    kept = page.count('"picture": "data:image/jpeg')
    assert f"30 frames at 10 a second. The page has {kept} of them" in page


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_click_changes_the_maps_to_the_similarities_of_that_patch(tmp_path: Path) -> None:
    page, features = made_page()
    (tmp_path / "page.html").write_text(page.replace("</body>", _CLICK))
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    command = [CHROMIUM, *options, "--virtual-time-budget=20000", "--dump-dom", f"file://{tmp_path}/page.html"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    found = re.search(r'data-result="([^"]*)"', dom)
    assert found, dom[-1000:]
    result: dict[str, Any] = json.loads(unescape(found[1]))
    assert result["changed"] == [True, True]
    assert result["requests"] == []
    for some, chosen, shown in zip(features, (3, 1), result["similarities"], strict=True):  # first row, last column
        rows = F.normalize(some.flatten(1, 2), dim=-1)
        np.testing.assert_allclose(shown, rows[1] @ rows[0, chosen], atol=0.02)
