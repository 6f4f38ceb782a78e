"""Image classifiers from files, heat maps, the picture report in a real browser."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import backlight
from backlight.errors import ArgumentError, FileError
from backlight.vision import PREPROCESSINGS, load_network
from backlight.vision.architectures import architecture
from backlight.vision.pictures import preprocessing
from tests.conftest import shared
from tests.test_engine import image as inputs
from tests.test_engine import seeded

pytestmark = pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")
matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
Image = pytest.importorskip("PIL.Image")

EXAMPLE = Path(__file__).parents[1] / "examples" / "heatmaps.py"


def command(*arguments, folder):
    return subprocess.run(
        [sys.executable, "-m", "backlight", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("heatmaps", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("digits")
    weights, pictures = module.digits(folder)
    return folder, weights, pictures


@pytest.fixture(scope="module")
def report(digits):
    folder, weights, pictures = digits
    names = folder / "names.txt"
    names.write_text("\n".join(f"<b>digit & {k}</b>" for k in range(10)))
    done = command(
        "explain", weights, *pictures[:4], "--architecture", "digits", "--preprocess", "grey", "--size", 8, "--classes", names,
        "--out", "maps.png", "--report", "maps.html", "--method", "gamma-decreasing", "--method", "occlusion", "--method", "gradient_x_input",
        folder=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_explain_writes_heat_maps_and_a_page_and_prints_the_sums(report):
    folder, said = report
    assert "digit-0.png" in said
    assert "gradient ×" in said
    with Image.open(folder / "maps.png") as picture:
        assert picture.size[0] > 800
    page = (folder / "maps.html").read_text()
    assert "<b>digit & 0</b>" not in page
    assert "&lt;b&gt;digit &amp; 0&lt;/b&gt;" in page
    assert "Gamma(gamma=1" in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_page_works_with_the_keyboard_and_says_everything_in_text(report, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    folder, _ = report
    browser.get((folder / "maps.html").as_uri())
    assert browser.get_log("browser") == []
    maps = browser.find_elements(By.CSS_SELECTOR, "img.map")
    assert len(maps) == 12
    assert all("relevance of each pixel for <b>digit &" in m.get_attribute("alt") for m in maps)
    assert all(int(m.get_property("naturalWidth")) == 8 for m in maps)
    under = browser.find_element(By.CSS_SELECTOR, "img.under")
    assert not under.is_displayed()
    box = browser.find_element(By.ID, "over")
    box.send_keys(Keys.SPACE)
    assert under.is_displayed()
    summary = browser.find_element(By.CSS_SELECTOR, "summary")
    summary.send_keys(Keys.ENTER)
    assert "2F" in browser.find_element(By.CSS_SELECTOR, "pre").text
    for width in (1400, 400):
        browser.set_window_size(width, 900)
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_an_exported_program_is_explained(digits):
    folder, weights, pictures = digits
    network = load_network(weights, "digits")
    torch.export.save(torch.export.export(network, (torch.zeros(1, 1, 8, 8),)), folder / "digits.pt2")
    done = command(
        "explain",
        "digits.pt2",
        pictures[3],
        "--preprocess",
        "grey",
        "--size",
        8,
        "--method",
        "auto",
        "--target",
        3,
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "class 3" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits.safetensors", "digit-0.png"], "say --architecture"),
        (["digits.safetensors", "digit-0.png", "--architecture", "squeezenet1_0"], "are not those of 'squeezenet1_0' (missing"),
        (["digits.safetensors", "nowhere.png", "--architecture", "digits"], "nowhere.png"),
        (["digits.safetensors", "digits.safetensors", "--architecture", "digits"], "cannot be read as a picture"),
        (["digits.safetensors", "digit-0.png", "--architecture", "digits", "--preprocess", "blue"], "imagenet, unit, grey"),
        (["digits.safetensors", "digit-0.png", "--architecture", "digits", "--preprocess", "grey", "--size", "8", "--method", "magic"], "no preset (epsilon"),
        (["digits.safetensors", "digit-0.png", "--architecture", "digits", "--preprocess", "grey", "--size", "8", "--target", "10"], "out of range"),
        (["digits.safetensors", "digit-0.png", "--architecture", "digits", "--out", "maps.jpg"], "maps.jpg"),
        (["weights.pth", "digit-0.png"], "may be a pickle"),
    ],
)  # fmt: skip
def test_bad_input_ends_in_one_clear_line(digits, arguments, said):
    folder, _, _ = digits
    (folder / "weights.pth").write_bytes(b"x")
    done = command("explain", *arguments, folder=folder)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr


def test_files_that_are_no_networks_are_refused(tmp_path):
    (tmp_path / "a.pt2").write_bytes(b"no archive")
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(FileError, match="cannot be read as an exported program"):
        load_network(tmp_path / "a.pt2")
    with pytest.raises(FileError, match="safetensors"):
        load_network(tmp_path / "a.safetensors", "digits")
    with pytest.raises(FileError, match="is not there"):
        load_network(tmp_path / "b.pt2")
    state = architecture("digits").state_dict()
    state["features.0.weight"] = torch.zeros(16, 1, 5, 5)
    save_file(state, tmp_path / "c.safetensors")
    with pytest.raises(FileError, match=r"features.0.weight .* has shape \(16, 1, 5, 5\)"):
        load_network(tmp_path / "c.safetensors", "digits")


def test_preprocessing_says_the_box_that_its_inputs_lie_in(tmp_path, rng):
    for name in PREPROCESSINGS:
        prepare = preprocessing(name, 16)
        pixels = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
        pixels[:10], pixels[-10:] = 0, 255
        Image.fromarray(pixels).save(tmp_path / "a.png")
        x = prepare.inputs([prepare.pixels(tmp_path / "a.png")])
        assert x.shape == (1, len(prepare.mean), 16, 16)
        low, high = prepare.low.reshape(-1, 1, 1), prepare.high.reshape(-1, 1, 1)
        assert (x[0] >= low - 1e-5).all()
        assert (x[0] <= high + 1e-5).all()


def test_the_trained_squeezenet_names_what_is_in_the_photographs():
    folder, photos = shared("imagenet_squeezenet1_0"), shared("photos")
    from backlight.vision import explain_pictures

    network = load_network(folder / "squeezenet1_0.safetensors", "squeezenet1_0")
    seen = explain_pictures(
        network,
        [photos / "coffee.jpg", photos / "chelsea.jpg"],
        preprocessing("imagenet"),
        methods=("gamma-decreasing", "auto"),
    )
    assert seen.classes == ("class 967", "class 285")
    for ex in seen.explanations.values():
        np.testing.assert_allclose(ex.values.sum((1, 2, 3)) / ex.output, 1, atol=0.05)


# -- ex.plot.image -----------------------------------------------------------------------------------------------------


@pytest.fixture
def pictured():
    net = seeded(architecture("digits"))
    x = inputs(3, 1, 8)
    return net, x, backlight.explain(net, x, 1, layers=["features.0"])


def test_a_heat_map_is_centred_at_zero_and_says_its_sum_and_scale(pictured):
    _, _, ex = pictured
    axes = ex.plot.image(0)
    assert axes.shape == (1, 2)
    cell = axes[0, 1]
    said = cell.get_xlabel()
    assert f"sum {ex.values[0].sum():+.4g} of score" in said
    assert "scale ±" in said
    assert "99.5 %" in said
    shown = cell.get_images()[0].get_array()
    relevance = ex.values[0].sum(0)
    # red where positive, blue where negative, white where zero
    assert ((shown[..., 0] > shown[..., 2]) == (relevance > 0)).mean() > 0.99


def test_methods_targets_and_layers_stand_side_by_side(pictured):
    net, x, ex = pictured
    other = backlight.explain(net, x, 1, method="gradient_x_input")
    axes = ex.plot.image([0, 2], compare={"gradient × input": other}, layers=["features.0"])
    assert axes.shape == (2, 4)
    assert [a.get_title() for a in axes[0]][1:] == [ex.method, "at features.0", "gradient × input"]
    several = backlight.explain(net, x, [0, 1, 2]).plot.image(1)
    assert [a.get_title() for a in several[0]][1:] == ["output 0", "output 1", "output 2"]
    assert ex.plot.image(over=True).shape == (3, 1)


def test_a_heat_map_can_be_drawn_on_given_axes(pictured):
    from matplotlib import pyplot as plt

    _, _, ex = pictured
    _, ax = plt.subplots()
    assert ex.plot.image(0, ax=ax) is ax
    with pytest.raises(ArgumentError, match="one heat map, and there are 3"):
        ex.plot.image(ax=ax)
    plt.close("all")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quantile": 0}, "quantile must lie above 0"),
        ({"layers": ["head"]}, "no relevance at layer 'head'"),
        ({"rows": []}, "no row to draw"),
    ],
)
def test_a_wrong_option_of_a_heat_map_is_named(pictured, options, said):
    with pytest.raises(ArgumentError, match=said):
        pictured[2].plot.image(**options)


def test_a_table_is_no_picture():
    ex = backlight.Explanation(np.ones((2, 3)), [3.0, 3.0], [0.0, 0.0], data=np.ones((2, 3)))
    with pytest.raises(ArgumentError, match="is no picture"):
        ex.plot.image()
