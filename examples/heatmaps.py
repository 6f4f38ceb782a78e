"""Heat maps in one minute: python examples/heatmaps.py [FOLDER].

With a trained SqueezeNet beside the project (shared/data/imagenet_squeezenet1_0), two photographs of scikit-learn are
explained by the recipe taught on VGG-16 and by gradient × input. Without it, a small network learns scikit-learn's
digits in seconds and explains ten of them. Writes heatmaps.png and heatmaps.html.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits, load_sample_images

from backlight.vision.architectures import architecture

TRAINED = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenet_squeezenet1_0"


def photographs(folder):
    """Scikit-learn's two photographs as files."""
    found = []
    images = load_sample_images()
    for name, pixels in zip(images.filenames, images.images, strict=True):
        found.append(folder / f"{Path(name).stem}.png")
        Image.fromarray(pixels).save(found[-1])
    return found


def digits(folder):
    """A network that read 1 500 digits, and ten that it did not, one of each kind."""
    torch.manual_seed(0)
    data = load_digits()
    x, y = torch.tensor(data.images[:, None] / 16, dtype=torch.float32), torch.tensor(data.target)
    network = architecture("digits").train()
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(25):
        for rows in torch.randperm(1500).split(100):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    right = float((network.eval()(x[1500:]).argmax(1) == y[1500:]).float().mean())
    print(f"a small network learnt digits: {100 * right:.1f} % of the others right")
    weights = folder / "digits.safetensors"
    save_file(network.state_dict(), weights)
    found = []
    for k in range(10):
        row = 1500 + int(np.flatnonzero(data.target[1500:] == k)[0])
        found.append(folder / f"digit-{k}.png")
        Image.fromarray((data.images[row] * 15.9).astype(np.uint8)).save(found[-1])
    return weights, found


def main(folder=Path("backlight-heatmaps")):
    """Make the pictures, then call the command that a user would."""
    folder.mkdir(exist_ok=True)
    if TRAINED.is_dir():
        options = ["--architecture", "squeezenet1_0", "--classes", str(TRAINED / "imagenet_classes.json")]
        weights, pictures = TRAINED / "squeezenet1_0.safetensors", photographs(folder)
    else:
        options = ["--architecture", "digits", "--preprocess", "grey", "--size", "8"]
        weights, pictures = digits(folder)
    outputs = ["--out", str(folder / "heatmaps.png"), "--report", str(folder / "heatmaps.html"), "--force"]
    command = [sys.executable, "-m", "backlight", "explain", str(weights), *map(str, pictures), *options, *outputs]
    return subprocess.call(command)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
