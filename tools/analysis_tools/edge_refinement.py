"""Measure the effect of ``--refine`` on composites with known alpha.

There are three kinds of textured objects: disks with hair, blurred shapes, and sharp shapes with the shading and noise
of the synthetic data set. Their alpha is reduced to a quarter of its size, blurred and enlarged, like a prediction for
a large image, and refined. The output has the SAD of each kind, the sum of absolute errors of alpha divided by 1000
(Rhemann et al., CVPR 2009), before and after. The last column is the SAD after refining the true alpha, ideally 0.
"""

import argparse
from collections.abc import Iterator

import cv2
import numpy as np

from mmbirefnet.datasets.preparation.synthetic import make_sample
from mmbirefnet.imaging.refine import METHODS, refine_map

SIZE = (480, 640)
HAIRS, STEPS = 250, 12


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=METHODS[:1], help='(default: %(default)s)')
    parser.add_argument('--samples', type=int, default=4, help='images of each kind (default: %(default)s)')
    return parser.parse_args()


def draw_texture(rng: np.random.Generator) -> np.ndarray:
    """A random color with noise at three scales, float32 RGB ``(H, W, 3)`` in [0, 1]."""
    texture = np.full((*SIZE, 3), rng.random(3), np.float32)
    for side, strength in ((4, 0.25), (16, 0.15), (64, 0.1)):
        noise = rng.random((side, side, 3)).astype(np.float32) - 0.5
        texture += strength * cv2.resize(noise, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(texture, 0, 1)


def draw_hairy_disk(rng: np.random.Generator) -> np.ndarray:
    """Alpha of a disk with hairs one pixel wide, float32 ``(H, W)``."""
    height, width = SIZE
    center, radius = np.array([width // 2, height // 2]), height // 5
    alpha = cv2.circle(np.zeros(SIZE, np.uint8), center.tolist(), radius, 255, -1)
    for angle in rng.uniform(0, 2 * np.pi, HAIRS):
        steps = [center + 0.95 * radius * np.array([np.cos(angle), np.sin(angle)])]
        for _ in range(STEPS):
            angle += rng.normal(0, 0.15)
            steps.append(steps[-1] + rng.uniform(4, 9) * np.array([np.cos(angle), np.sin(angle)]))
        cv2.polylines(alpha, [np.int32(np.array(steps) * 16)], False, 255, 1, cv2.LINE_AA, shift=4)
    return alpha.astype(np.float32) / 255


def draw_samples(kind: str, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images uint8 RGB ``(H, W, 3)`` and their alpha, float32 ``(H, W)``; ``kind`` is hair, blurred or sharp."""
    for index in range(count):
        rng = np.random.default_rng(index)
        sample = make_sample(0, 'DIS-VD', index, SIZE)
        alpha = sample.mask.astype(np.float32) / 255
        if kind == 'sharp':
            yield np.ascontiguousarray(sample.image[..., ::-1]), alpha
            continue
        alpha = draw_hairy_disk(rng) if kind == 'hair' else cv2.GaussianBlur(alpha, (0, 0), 2)
        foreground, background = draw_texture(rng), draw_texture(rng)
        image = background + alpha[..., None] * (foreground - background)
        yield np.rint(image * 255).astype(np.uint8), alpha


def coarsen(alpha: np.ndarray) -> np.ndarray:
    """Alpha like the prediction of a model at a quarter of the image size."""
    height, width = alpha.shape
    small = cv2.resize(alpha, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), 1), (width, height), interpolation=cv2.INTER_LINEAR)


def sad(prediction: np.ndarray, alpha: np.ndarray) -> float:
    return float(np.abs(prediction - alpha).sum() / 1000)


def main() -> None:
    args = parse_args()
    print(f'{"method":12} {"kind":8} {"before":>7} {"after":>7} {"of true alpha":>14}')
    for method in args.methods:
        for kind in ('hair', 'blurred', 'sharp'):
            errors = []
            for image, alpha in draw_samples(kind, args.samples):
                coarse = coarsen(alpha)
                refined, kept = (refine_map(image, soft_map, method) for soft_map in (coarse, alpha))
                errors.append([sad(coarse, alpha), sad(refined, alpha), sad(kept, alpha)])
            before, after, changed = np.mean(errors, axis=0)
            print(f'{method:12} {kind:8} {before:7.2f} {after:7.2f} {changed:14.2f}', flush=True)


if __name__ == '__main__':
    main()
