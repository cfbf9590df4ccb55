"""Memory and open files over two thousand images through the inferencer, read, predicted and written."""

import ctypes
import gc

import numpy as np
import pytest
from memory import MEASURABLE, used
from PIL import Image
from red import red_square
from torch import nn

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.imaging.settings import Settings
from mmbirefnet.imaging.sources import list_sources
from mmbirefnet.imaging.write import OutputWriter

IMAGES = 2000
SUFFIXES = ('.jpg', '.png', '.webp', '.tif', '.gif')


class Bright(nn.Module):
    """Logits of what is bright."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x, mode):
        return self.conv(x)


@pytest.mark.soak
@pytest.mark.skipif(not MEASURABLE, reason='reads /proc, which is of Linux')
def test_memory_and_open_files_stay_flat_over_2000_images(tmp_path):
    """Four good ones of each format and two broken ones in a folder, again and again."""
    rgb, _ = red_square(60, 80)
    for index in range(20):
        Image.fromarray(np.roll(rgb, index, 0)).save(tmp_path / f'{index}{SUFFIXES[index % 5]}')
    (tmp_path / 'cut.png').write_bytes((tmp_path / '1.png').read_bytes()[:99])
    (tmp_path / 'text.jpg').write_text('no image')
    inferencer = BiRefNetInferencer(Bright(), device='cpu')
    settings = Settings(input_size=64, batch_size=4, flip=True)
    seen, failed, done = [], [], 0
    while done < IMAGES:
        sources = list_sources(tmp_path, out_dir=tmp_path / 'out')
        writer = OutputWriter(tmp_path / 'out', ('mask', 'cutout'))
        writer.plan(sources)
        for prediction in inferencer.predict(sources, settings, on_error=lambda source, _: failed.append(source.name)):
            writer.write(prediction)
            done += 1
        if done % 100 == 0:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # what is free goes back: the rest is in use
            seen.append((done, *used()))
    assert done == IMAGES
    assert len(failed) == IMAGES // 10
    images, memory, files = np.array(seen, float)[len(seen) // 2 :].T
    per_image = [np.polyfit(images, values, 1)[0] for values in (memory, files)]
    print(f'{per_image[0]:.0f} bytes and {per_image[1]:.5f} files an image')
    assert per_image[0] < 500  # a map of one of them is 19200
    assert abs(per_image[1]) < 0.001
