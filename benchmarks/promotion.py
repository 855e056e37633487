"""How often a version would go to production, by how much better it really is: a simulation.

    python benchmarks/promotion.py

Two models are right on the same images but for a share of them, on which one of the two is right.
How many of those go to the new model is drawn, so many times, and each rule of `registry.rule` is
asked. Next to them stands the rule that a difference of 0.005 is enough.
"""

from __future__ import annotations

import argparse

import numpy as np

from grocery.comparison.difference import score_interval

MARGIN = 0.005


def main() -> None:
    """Draw, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[371, 2485])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.02, 0.05, 0.1])
    parser.add_argument("--gains", type=float, nargs="+", default=[0, -0.01, -0.02, 0.02])
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--draws", type=int, default=20_000)
    arguments = parser.parse_args()
    print("| images | right on one side only | gain | better | not worse | above 0.005 |")
    print("|---|---|---|---|---|---|")
    for images in arguments.images:
        for gain in arguments.gains:
            for share in arguments.shares:
                if abs(gain) > share:
                    continue
                shares = [(share - gain) / 2, (share + gain) / 2, 1 - share]
                rng = np.random.default_rng(0)  # so that a row is the same in any table
                drawn = rng.multinomial(images, shares, size=arguments.draws)[:, :2]
                pairs, times = np.unique(drawn, axis=0, return_counts=True)
                low = np.array(
                    [score_interval(int(old), int(new), images)[0] for old, new in pairs]
                )
                above = (pairs[:, 1] - pairs[:, 0]) / images >= MARGIN
                rules = (low > 0, low > -arguments.tolerance, above)
                rates = [f"{times[held].sum() / arguments.draws:.1%}" for held in rules]
                print(f"| {images} | {share:.0%} | {gain:+.0%} | {' | '.join(rates)} |")


if __name__ == "__main__":
    main()
