"""Score saved predictions of one or more methods on one or more sets, without a model.

Writes tables (Markdown, CSV, LaTeX), the scores of each image, precision-recall and F-measure curves, and a contact
sheet of the worst images. If the file names are those of DIS5K, it also writes tables by class and by group. The exit
status is 1 if a prediction is missing or cannot be read; the tables then give the number of scored images.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # see docs/en/notes/performance.md; read when torch is imported

import cv2
import numpy as np
from mmengine.utils import ProgressBar

from mmbirefnet.datasets.transforms.decode import read_image
from mmbirefnet.evaluation import MEASURES, lower_is_better
from mmbirefnet.evaluation.map_files import check_trimap, find_trimap, list_images, match_maps, read_pair, score_files
from mmbirefnet.evaluation.report import (
    TASK_COLUMNS,
    TableRow,
    columns_of,
    load_published,
    rows_by,
    rows_of_sets,
    to_csv,
    to_markdown,
    with_means,
    write_tables,
)
from mmbirefnet.evaluation.scoring import check_measures, mean_scores, summarize
from mmbirefnet.evaluation.scoring_pool import TIMEOUT, ScoringPool, resolve_workers
from mmbirefnet.utils.console import escape_unprintable, printable
from mmbirefnet.visualization.curves import draw_curves
from mmbirefnet.visualization.sheets import SheetRow, draw_contact_sheet


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--gt', nargs='+', required=True, metavar='[SET=]DIR', help='folders of masks, or sets that contain gt/'
    )
    parser.add_argument(
        '--pred',
        nargs='+',
        required=True,
        metavar='[METHOD=]DIR',
        help='folders of predictions, with one subfolder per set if there are several sets',
    )
    parser.add_argument('--out', default='eval_maps', metavar='DIR', help='output folder (default: %(default)s)')
    parser.add_argument(
        '--measures',
        '--metrics',
        nargs='+',
        help=f'measures to compute, of {", ".join(MEASURES)} (default: all that the options allow)',
    )
    parser.add_argument(
        '--soft-masks', action='store_true', help='compute MAE, MSE, SAD, Grad and Conn from gray levels, for mattes'
    )
    parser.add_argument(
        '--trimap',
        metavar='DIR|N',
        help='also compute SAD-T, MSE-T, Grad-T and Conn-T over the unknown region of trimaps: either the name of the '
        'folder of trimaps, next to the folder of masks, or the number of pixels by which to dilate the region of '
        'fractional alpha',
    )
    parser.add_argument(
        '--stretch-hce', action='store_true', help='compute HCE from stretched predictions, as in PySODMetrics'
    )
    parser.add_argument(
        '--task', choices=TASK_COLUMNS, help='use the columns of papers on this task (default: chosen by the sets)'
    )
    parser.add_argument('--published', metavar='FILE', help='metafile whose published scores are added to the table')
    parser.add_argument(
        '--worst',
        type=int,
        default=8,
        metavar='N',
        help='images per contact sheet; 0 for no sheet (default: %(default)s)',
    )
    parser.add_argument(
        '--worst-by',
        default='wFmeasure',
        choices=list(MEASURES),
        metavar='MEASURE',
        help='measure that selects the worst images (default: %(default)s)',
    )
    parser.add_argument('--workers', default='auto', help="number of processes, or 'auto' (default)")
    parser.add_argument(
        '--timeout',
        type=float,
        default=TIMEOUT,
        metavar='SECONDS',
        help='time limit for an image; 0 for no limit (default: %(default).0f)',
    )
    args = parser.parse_args()
    if not args.timeout >= 0:
        parser.error(f'--timeout {args.timeout}: must be 0 or greater')
    try:
        args.trimap = check_trimap(int(args.trimap) if args.trimap and args.trimap.isdecimal() else args.trimap)
        args.measures = check_measures(args.measures, args.soft_masks, args.trimap is not None)
        args.workers = resolve_workers(args.workers if args.workers == 'auto' else int(args.workers))
        args.gt = named_folders(args.gt, lambda path: path.parent if path.name == 'gt' else path)
        args.pred = named_folders(args.pred, lambda path: path)
    except ValueError as error:
        parser.error(str(error))
    if args.worst and args.worst_by not in args.measures:
        parser.error(f'--worst-by {args.worst_by} is not among --measures')
    return args


def named_folders(options, owner):
    """Parse ``[NAME=]DIR``. The name is by default that of the folder ``owner(DIR)``."""
    folders = {}
    for option in options:
        name, _, folder = option.rpartition('=') if not Path(option).is_dir() else ('', '', option)
        name = name or owner(Path(folder).resolve()).name
        if name in folders:
            raise ValueError(f'two folders are named {name}. Fix: write NAME=DIR')
        folders[name] = Path(folder)
    return folders


def score_all(args):
    """Score all methods on all sets.

    Returns:
        Scores of each image by (method, set), then stem; number of masks by set; problems as lines of text.
    """
    files, problems = {}, []
    for set_name, folder in args.gt.items():
        masks = folder / 'gt' if (folder / 'gt').is_dir() else folder
        for method, maps in args.pred.items():
            place = maps / set_name if (maps / set_name).is_dir() or len(args.gt) > 1 else maps
            matched = files[method, set_name] = match_maps(masks, place)
            problems += [f'missing: {place / stem}.png' for stem in matched.missing]
            if matched.unused:
                print(f'{place}: {len(matched.unused)} predictions without a mask are not used', file=sys.stderr)

    pool = ScoringPool(score_files, args.workers, args.timeout)
    jobs = [(key, stem) for key, matched in files.items() for stem in matched.pairs]
    trimaps = [args.trimap] * len(jobs)
    if isinstance(args.trimap, str):
        trimaps = [find_trimap(files[key].pairs[stem][0], stem, args.trimap) for key, stem in jobs]
    results, progress = [], ProgressBar(len(jobs), file=sys.stderr) if jobs else None
    for (key, stem), trimap in zip(jobs, trimaps, strict=True):
        mask, score_map = files[key].pairs[stem]
        pool.submit(mask, score_map, args.measures, args.soft_masks, args.stretch_hce, trimap, name=score_map)
        results += pool.take()
        progress.update()
    results += pool.finish()

    scores = {key: {} for key in files}
    for (key, stem), result in zip(jobs, results, strict=True):
        if isinstance(result, str):
            problems.append(f'unreadable: {result}')
        else:
            scores[key][stem] = result
    sizes = {set_name: len(matched.pairs) + len(matched.missing) for (_, set_name), matched in files.items()}
    return files, scores, sizes, problems


def make_rows(args, scores, sizes):
    """Rows of the table: each set with all methods, then the published ones."""
    notes, rows = {}, {method: {} for method in args.pred}
    for (method, set_name), images in scores.items():
        if len(images) < sizes[set_name]:
            notes[method, set_name] = f'{len(images)} of {sizes[set_name]} images'
        summary = summarize(mean_scores(images.values())) if images else {}
        rows[method][set_name] = {name: summary[name] for name in args.measures if name in summary}
    for method, sets in rows.items():  # means over incomplete sets are not comparable
        complete = with_means({name: row for name, row in sets.items() if (method, name) not in notes})
        rows[method] = sets | complete
    return rows_of_sets(rows, notes, load_published(args.published) if args.published else [])


def write_images(args, scores):
    """One line per image, method and set."""
    rows = [
        TableRow(f'{set_name}/{stem}', method, summarize(image))
        for (method, set_name), images in scores.items()
        for stem, image in images.items()
    ]
    if rows:
        columns = [name for name in args.measures if name in rows[0].scores]
        to_csv(rows, columns, args.out / 'images.csv', 'image')


def write_breakdowns(args, scores):
    """Tables by class and by group, each method over all sets."""
    for what, stem in (('class_name', 'classes'), ('group', 'groups')):
        rows = []
        for method in args.pred:
            own = {f'{s}/{stem}': v for (m, s), images in scores.items() if m == method for stem, v in images.items()}
            rows += rows_by(what, method, own)
        if rows:
            rows.sort(key=lambda row: row.name)
            write_tables(rows, columns_of(rows, args.task or 'DIS5K'), args.out / stem, what.partition('_')[0])


def write_curves(args, scores):
    """Write a figure of curves per set."""
    for set_name in args.gt:
        curves = {m: mean_scores(images.values()) for (m, s), images in scores.items() if s == set_name and images}
        curves = {method: curve for method, curve in curves.items() if 'Fm' in curve}
        if curves:
            draw_curves(curves, set_name, args.out / f'curves_{set_name}.png')


def write_worst(args, files, scores):
    """Write a contact sheet of the worst images per method and set."""
    for (method, set_name), images in scores.items():
        if not images or args.worst < 1:
            continue
        values = {stem: summarize(image)[args.worst_by] for stem, image in images.items()}
        worst = sorted(values, key=values.get, reverse=lower_is_better(args.worst_by))[: args.worst]
        set_images = images_of(args.gt[set_name])
        rows = []
        for stem in worst:
            score_map, mask = read_pair(*files[method, set_name].pairs[stem])
            image = read_image(str(set_images[stem]))[..., ::-1] if stem in set_images else None
            caption = f'{args.worst_by} {values[stem]:.3f}  {printable(stem)}'
            rows.append(SheetRow(image, np.rint(mask * 255).astype(np.uint8), score_map, caption))
        path = args.out / f'worst_{method}_{set_name}.jpg'
        cv2.imwrite(str(path), draw_contact_sheet(rows, with_error=True)[..., ::-1])


def images_of(folder):
    """Images of the set of a folder of masks, by stem; empty if there is no ``im/``."""
    root = folder if (folder / 'im').is_dir() else folder.parent
    return list_images(root / 'im') if (root / 'im').is_dir() else {}


def main():
    escape_unprintable()
    args = parse_args()
    args.out = Path(args.out)
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        files, scores, sizes, problems = score_all(args)
        rows = make_rows(args, scores, sizes)
    except (OSError, RuntimeError, ValueError) as error:
        raise SystemExit(f'error: {error}') from None
    columns = columns_of(rows, args.task)
    write_tables(rows, columns, args.out / 'table')
    write_images(args, scores)
    write_breakdowns(args, scores)
    write_curves(args, scores)
    write_worst(args, files, scores)

    print(f'\n{to_markdown(rows, columns)}\nwritten to {args.out}/')
    if problems:
        print(*problems, sep='\n', file=sys.stderr)
        raise SystemExit(1)


if __name__ == '__main__':
    main()
