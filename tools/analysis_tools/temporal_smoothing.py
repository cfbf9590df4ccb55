"""Draw the effect of temporal smoothing on noisy predictions of a moving object with known alpha."""

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mmbirefnet.video.temporal import TemporalSmoother

SIZE, FRAMES, STEP = (160, 320), 24, 4  # (H, W), and motion of the object in pixels per frame


def render(index: int) -> tuple[np.ndarray, np.ndarray]:
    """A textured disk with spokes 3 pixels wide on a textured background: uint8 ``(H, W, 3)`` and its alpha."""
    rng = np.random.default_rng(0)
    textures = [cv2.resize(rng.integers(low, low + 110, (side, 2 * side, 3), np.uint8), SIZE[::-1])
                for low, side in ((20, 20), (130, 40))]  # fmt: skip
    center = (90 + STEP * index, SIZE[0] // 2)
    alpha = np.zeros(SIZE, np.uint8)
    cv2.circle(alpha, center, 30, 255, -1, cv2.LINE_AA)
    for angle in np.arange(0, 2 * np.pi, np.pi / 6):
        end = (round(center[0] + 60 * np.cos(angle)), round(center[1] + 60 * np.sin(angle)))
        cv2.line(alpha, center, end, 255, 3, cv2.LINE_AA)
    alpha = alpha.astype(np.float32) / 255
    foreground = np.roll(textures[1], STEP * index, 1)
    return np.rint(textures[0] + alpha[..., None] * (foreground - textures[0].astype(float))).astype(np.uint8), alpha


def flicker(predictions: list[np.ndarray]) -> float:
    """Mean change of the prediction from frame to frame at points that move with the object."""
    moved = [np.abs(after[:, STEP:] - before[:, :-STEP]) for before, after in zip(predictions, predictions[1:])]
    return float(np.mean([change[:, 20:-20] for change in moved[3:]]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path, help='image to write')
    parser.add_argument('--smoothing', type=float, default=0.7, metavar='W', help='(default: %(default)s)')
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    smooth = TemporalSmoother(args.smoothing)
    frames, truth = zip(*map(render, range(FRAMES)))
    noise = (cv2.GaussianBlur(rng.normal(0, 1, SIZE).astype(np.float32), (0, 0), 3) * 2.0 for _ in truth)
    noisy = [np.clip(alpha + change, 0, 1) for alpha, change in zip(truth, noise)]
    steady = [smooth(frame, prediction) for frame, prediction in zip(frames, noisy)]
    spokes = [alpha - cv2.morphologyEx(alpha, cv2.MORPH_OPEN, np.ones((9, 9))) for alpha in truth]
    for name, predictions in (('single frames', noisy), (f'smoothing {args.smoothing}', steady)):
        error = np.sqrt(np.mean([np.square(p - t)[:, 20:-20] for p, t in zip(predictions[4:], truth[4:])]))
        kept = np.mean([(p * s).sum() / (t * s).sum() for p, t, s in zip(predictions[4:], truth[4:], spokes[4:])])
        print(f'{name}: flicker {flicker(predictions):.4f}, RMSE {error:.4f}, alpha of the spokes {kept:.3f}')
    rows = [np.hstack([255 * p[-1] for p in (truth, noisy, steady)])]
    changes = [np.abs(p[-1][:, STEP:] - p[-2][:, :-STEP]) for p in (truth, noisy, steady)]
    rows.append(np.hstack([np.pad(255 * np.clip(2 * c, 0, 1), ((0, 0), (0, STEP))) for c in changes]))
    Image.fromarray(np.vstack(rows).astype(np.uint8)).save(args.out, quality=85)


if __name__ == '__main__':
    main()
