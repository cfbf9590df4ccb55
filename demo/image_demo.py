"""Cut the object out of an image: ``python demo/image_demo.py IMG CONFIG CHECKPOINT --out-file cutout.png``."""

import argparse
import os
from pathlib import Path

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # see docs/en/notes/performance.md; read when torch is imported

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.apis.job import ImageJob
from mmbirefnet.cli.options import add_output_argument
from mmbirefnet.imaging.sources import list_sources
from mmbirefnet.imaging.write import OutputWriter


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Cut the object out of an image')
    parser.add_argument('img', help='image file')
    parser.add_argument('config', help="config file, or the name of one of this project's")
    parser.add_argument('checkpoint', help='checkpoint of this project or released')
    parser.add_argument('--out-file', type=Path, default=Path('cutout.png'), help='file to write (default: cutout.png)')
    add_output_argument(parser, 'output to write (default: cutout)', default='cutout')
    parser.add_argument('--background', help='color or image, for --save composite')
    parser.add_argument('--device', help='default: a GPU if there is one')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    writer = OutputWriter(args.out_file, args.save, background=args.background, single_file=True)
    job = ImageJob(BiRefNetInferencer(args.config, args.checkpoint, args.device), writer)
    list(job.run(job.plan(list_sources(args.img))))
    print(f'wrote {args.out_file}')


if __name__ == '__main__':
    main()
