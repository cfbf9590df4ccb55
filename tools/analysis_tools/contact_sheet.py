"""Draw images, masks and predictions of folders side by side in one figure."""

import argparse

import cv2
import numpy as np

from mmbirefnet.datasets.transforms.decode import read_image
from mmbirefnet.evaluation.map_files import list_images, match_maps, read_pair
from mmbirefnet.utils.console import escape_unprintable, printable
from mmbirefnet.visualization import SheetRow, draw_contact_sheet


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', help='folder of images (default: no images in the sheet)')
    parser.add_argument('--gt', required=True, help='folder of masks')
    parser.add_argument('--pred', required=True, help='folder of predictions, as written by tools/test.py --out')
    parser.add_argument('--out', required=True, help='image file to write, such as sheet.png')
    parser.add_argument(
        '--count', type=int, default=8, help='number of samples, chosen at even intervals (default: %(default)s)'
    )
    parser.add_argument('--width', type=int, default=320, help='width of a panel in pixels (default: %(default)s)')
    parser.add_argument(
        '--error', action='store_true', help='add a panel of errors: false positives in red, false negatives in blue'
    )
    args = parser.parse_args()
    if args.count < 1 or args.width < 8:
        parser.error('--count must be 1 or more, and --width 8 or more')
    return args


def main():
    escape_unprintable()
    args = parse_args()
    try:
        files = match_maps(args.gt, args.pred)
        images = list_images(args.images) if args.images else {}
        if not files.pairs:
            raise ValueError(f'no prediction in {args.pred} has the stem of a mask in {args.gt}')
        stems = list(files.pairs)
        count = min(args.count, len(stems))
        rows = []
        for stem in (stems[index * len(stems) // count] for index in range(count)):
            score_map, mask = read_pair(*files.pairs[stem])
            if args.images and stem not in images:
                raise ValueError(f'no image {stem} in {args.images}')
            image = read_image(str(images[stem]))[..., ::-1] if args.images else None
            rows.append(SheetRow(image, np.rint(mask * 255).astype(np.uint8), score_map, printable(stem)))
    except (OSError, ValueError) as error:
        raise SystemExit(f'error: {error}') from None
    sheet = draw_contact_sheet(rows, args.width, args.error)
    if not cv2.imwrite(args.out, sheet[..., ::-1]):
        raise SystemExit(f'error: cannot write {args.out}')
    print(f'{args.out}: {count} of {len(stems)} samples')


if __name__ == '__main__':
    main()
