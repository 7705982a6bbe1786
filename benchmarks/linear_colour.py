"""How far the linear colour mode is from the exact one, on real images.

    python benchmarks/linear_colour.py --data cifar10:test --data-root ~/data

Both get the same parameters, those of SimCLR's jitter; the difference is that of the hue (a rotation about the grey
axis instead of HSV) and of clamping once instead of after each operation.
"""

from __future__ import annotations

import argparse

import torch

from ssl_toolkit.augment import ColourJitter
from ssl_toolkit.data.loader import ImageLoader
from ssl_toolkit.data.sources import open_images


def main() -> None:
    parser = argparse.ArgumentParser(description="Error of the linear colour mode.", allow_abbrev=False)
    parser.add_argument("--data", default="cifar10:test")
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--size", type=int, default=32)
    options = parser.parse_args()
    torch.manual_seed(0)
    images = open_images(options.data, root=options.data_root)
    print("| jitter | mean error | 99 % below | maximum | correlation |\n|---|---:|---:|---:|---:|")
    for strength in ((0.8, 0.8, 0.8, 0.2), (0.4, 0.4, 0.4, 0.1), (0.4, 0.4, 0.2, 0.1)):
        exact, linear = (ColourJitter(strength, p=1.0, grey_p=0.0, hue=hue) for hue in ("exact", "linear"))
        pairs = []
        for batch in ImageLoader(images, options.size):
            one = exact(batch.image)
            pairs.append(torch.stack([one, linear(batch.image, params=exact._params)]).flatten(1))
        one, two = torch.cat(pairs, dim=1)
        error = (one - two).abs()
        tail = error[:: max(1, len(error) // 10**7)].quantile(0.99)
        correlation = torch.corrcoef(torch.stack([one, two]))[0, 1]
        print(f"| {strength} | {error.mean():.4f} | {tail:.3f} | {error.max():.2f} | {correlation:.4f} |", flush=True)


if __name__ == "__main__":
    main()
