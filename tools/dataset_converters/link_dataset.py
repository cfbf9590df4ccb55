"""Create links to downloaded sets in our layout, <data root>/<family>/<set>/{im,gt}.

Without --map, known layouts are searched for in SOURCE and three levels below it:
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from mmbirefnet.datasets.preparation.find_sets import IMAGES, MASKS, PUBLISHED_SIZES
from mmbirefnet.datasets.preparation.layout import LAYOUTS, Layout, Plan, find_layouts, make_links, plan_links
from mmbirefnet.utils.console import escape_unprintable


def parse_args(argv=None) -> argparse.Namespace:
    known = '\n'.join(f'  {layout.set_path:22} {layout.images}, {layout.masks}' for layout in LAYOUTS)
    parser = argparse.ArgumentParser(
        description=f'{__doc__}{known}', formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', metavar='SOURCE', type=Path, help='folder of the unpacked download')
    parser.add_argument('data_root', metavar='DATA_ROOT', type=Path, help='data root in which to create the links')
    parser.add_argument(
        '--map',
        metavar='im=IMAGES,gt=MASKS',
        help='folders in SOURCE, or file patterns with * for the stem, for example im=photos,gt=alpha/*_matte.png',
    )
    parser.add_argument('--set', metavar='SET', help='with --map: name of the set, for example COD/CHAMELEON')
    parser.add_argument('--stems', metavar='PATTERN', default='*', help='with --map: only stems that match')
    args = parser.parse_args(argv)
    if not args.source.is_dir():
        parser.error(f'SOURCE: {args.source} is not a folder')
    if bool(args.map) != bool(args.set):
        parser.error('--map and --set must be used together')
    if args.map:
        args.map = dict(part.partition('=')[::2] for part in args.map.split(','))
        if sorted(args.map) != sorted((IMAGES, MASKS)) or not all(args.map.values()):
            parser.error(f'--map: expected {IMAGES}=...,{MASKS}=...')
        for pattern in args.map.values():
            folder = args.source / (pattern.rpartition('/')[0] if '*' in pattern else pattern)
            if pattern.count('*') > 1 or not folder.is_dir():
                parser.error(
                    f'--map: {folder} is not a folder'
                    if pattern.count('*') < 2
                    else f'--map: more than one * in {pattern}'
                )
    return args


def make_plans(args: argparse.Namespace) -> list[Plan]:
    """Plan the links.

    Raises:
        ValueError: If there is no known layout, or a set is found more than once.
    """
    if args.map:
        return [plan_links(Layout(args.set, args.map[IMAGES], args.map[MASKS], args.stems), args.source)]
    sources = defaultdict(list)
    for layout, folder in find_layouts(args.source):
        sources[layout.set_path].append((layout, folder))
    if not sources:
        raise ValueError(
            f'{args.source}: none of the known archives (see --help). Fix: describe its files with --map and --set'
        )
    for name, found in sources.items():
        if len(found) > 1:
            places = ' and '.join(str(folder / layout.images) for layout, folder in found)
            raise ValueError(f'{name} was found several times: {places}. Fix: pass one of the folders as SOURCE')
    return [plan_links(*found[0]) for found in sources.values()]


def main(argv=None) -> None:
    escape_unprintable()
    args = parse_args(argv)
    try:
        plans = make_plans(args)
        for plan in plans:
            make_links(plan, args.data_root)
    except (ValueError, FileExistsError) as error:
        sys.exit(f'error: {error}')
    for plan in plans:
        for path in plan.images_without_mask:
            print(f'{path}: left out, because it has no mask')
    for plan in plans:
        published = PUBLISHED_SIZES.get(Path(plan.set_path).name)
        of = f' of {published} published' if published else ''
        print(
            f'{args.data_root / plan.set_path}: {len(plan.links) // 2} pairs{of} linked; left out: '
            f'{len(plan.images_without_mask)} images without mask, {len(plan.masks_without_image)} masks without image'
        )
    sys.exit(any(plan.images_without_mask for plan in plans))


if __name__ == '__main__':
    main()
