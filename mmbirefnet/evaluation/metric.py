"""The measures of dichotomous image segmentation as an mmengine metric."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import mmengine.dist as dist
import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.structures import BaseDataElement

from mmbirefnet.datasets import DichotomousDataset
from mmbirefnet.datasets.transforms.decode import read_map, read_mask
from mmbirefnet.evaluation.map_files import OBJECT_ABOVE, check_trimap, find_trimap, unknown_region
from mmbirefnet.evaluation.report import MEANS, to_keys, with_means
from mmbirefnet.evaluation.scoring import Scores, aggregate, check_measures, score_pair
from mmbirefnet.evaluation.scoring_pool import TIMEOUT, ScoringPool, resolve_workers
from mmbirefnet.fileio.atomic import replacing
from mmbirefnet.registry import METRICS

_ROUNDING = 1e-4  # bilinear resizing may exceed [0, 1] by rounding


@METRICS.register_module()
class DichotomousMetric(BaseMetric):
    """The measures of dichotomous image segmentation and matting, for predictions with probabilities.

    Predictions are scored in 8 bits (probability times 255, truncated) against masks above 128 of 255, both at the
    original size of the image, as in published tables. ``docs/en/user_guides/benchmark.md`` describes each measure, its
    source, and its value in edge cases (empty or full mask, constant prediction).

    Data samples need ``seg_logits`` (probabilities, (1, H, W)), and ``gt_sem_seg`` (float (1, H, W) in [0, 1], or
    integer labels 0 and 1) or ``seg_map_path``. If the images have several values of ``set_name``, each set is scored
    separately, and the keys are ``<set>/<metric>``.

    Args:
        measures: Measures to compute, out of ``mmbirefnet.evaluation.MEASURES``; by default all, those of mattes
            (``SAD``, ``Grad``, ``Conn``) only with ``soft_masks``, and those over a trimap only with ``trimap``. (The
            name ``metrics`` is not possible: mmengine interprets an evaluator with this key.)
        means: Rows to add, each the mean over several sets; by default ``DIS-TE(1-4)``. A row is omitted if one of its
            sets is missing.
        output_dir: Folder to write predictions to, as ``<stem>.png``, in subfolders by set if there are several. The
            stem is that of the sample, including subfolders, or the name of its ``img_path``.
        format_only: Write the predictions and compute nothing; for images without masks.
        keep_results: Accepted for mmsegmentation's ``test.py``; written predictions are always kept.
        soft_masks: Whether masks are soft, as in matting: ``MAE`` and ``MSE`` then compare prediction and mask in
            [0, 1] without stretching or thresholds, and ``SAD``, ``Grad`` and ``Conn`` are added. The other measures do
            not change.
        trimap: Adds ``SAD-T``, ``MSE-T``, ``Grad-T`` and ``Conn-T`` over the unknown region of a trimap. Either the
            name of the folder of trimaps beside the folder of masks (unknown where a trimap is neither 0 nor 255), or
            the number of pixels by which the region of fractional alpha is dilated.
        stretch_hce: Compute ``HCE`` as PySODMetrics does, from the prediction stretched to [0, 1], with a threshold of
            0.5, so that objects with low probabilities are not missing. By default, the threshold is 128 of 255,
            without stretching, as in the reference evaluation.
        num_workers: Processes that score while the model runs; 0 scores in this process, and ``'auto'`` uses the cores
            of the machine. Each needs about 20 bytes per pixel.
        timeout: Seconds that a worker process may need for an image. If it needs longer, an error names the image; 0
            for no limit.
        collect_device, prefix, collect_dir: See ``mmengine.evaluator.BaseMetric``.

    Raises:
        ValueError: If an option is invalid, or a prediction does not fit its mask (the error names the image).
    """

    default_prefix = ''  # keys without a prefix are accepted

    def __init__(
        self,
        measures: Sequence[str] | None = None,
        means: Mapping[str, Sequence[str]] | None = None,
        output_dir: str | None = None,
        format_only: bool = False,
        keep_results: bool = True,
        soft_masks: bool = False,
        stretch_hce: bool = False,
        trimap: int | str | None = None,
        num_workers: int | str = 0,
        timeout: float = TIMEOUT,
        collect_device: str = 'cpu',
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        if format_only and output_dir is None:
            raise ValueError('format_only=True only writes predictions: give output_dir')
        if not keep_results and output_dir is not None:
            raise ValueError('keep_results=False: predictions in output_dir are always kept. Fix: omit output_dir')
        self.trimap = check_trimap(trimap)
        self.format_only = format_only
        self._measures = measures
        self.soft_masks = soft_masks
        check_measures(measures, soft_masks, trimap is not None)
        self.means = MEANS if means is None else means
        self.stretch_hce = stretch_hce
        self.output_dir = None if output_dir is None else Path(output_dir)
        self._pool = ScoringPool(_score_sample, resolve_workers(num_workers), timeout)
        self._map_paths: dict[Path, str] = {}
        self._written: list[tuple[dict, Path]] = []  # predictions of an earlier run that are not scored yet

    @property
    def measures(self) -> tuple:
        """Names of the measures that are computed; ``SoftMaskHook`` may set ``soft_masks``, which adds some."""
        return () if self.format_only else check_measures(self._measures, self.soft_masks, self.trimap is not None)

    def process(self, data_batch: Any, data_samples: Sequence[dict | BaseDataElement]) -> None:
        """Score one batch, or pass it to the worker processes."""
        for sample in data_samples:
            self._submit(sample.to_dict() if isinstance(sample, BaseDataElement) else sample)

    def _submit(self, sample: dict, written: Path | None = None) -> None:
        """Score a prediction, or the file that an earlier run wrote."""
        image = dict(image=_image_path(sample), set=sample.get('set_name', ''))
        map_path = None if written else self._map_path(image, sample.get('stem'))
        try:
            score_map = read_map(str(written)) if written else to_score_map(sample['seg_logits']['data'])
            annotation = _annotation_of(sample) if self.measures else None
            mask = None if annotation is None else to_mask(annotation)
            alpha = to_alpha(annotation) if self.soft_masks and self.measures else None
            trimap = _trimap_of(sample, self.trimap) if self.measures else None
        except (TypeError, ValueError) as error:
            raise type(error)(f'{image["image"]}: {error}') from error
        options = (self.measures, self.stretch_hce, trimap, map_path)
        self._pool.submit(image, score_map, mask, alpha, *options, name=image['image'])
        self.results.extend(self._pool.take())

    def take_written(self, dataset: DichotomousDataset, newer_than: int = 0) -> list[int]:
        """Use the files that an earlier run wrote to ``output_dir`` as predictions; :meth:`evaluate` scores them.

        Each process reads its share of the files. Files that cannot be read do not count.

        Args:
            dataset: Data set of the test.
            newer_than: Time in nanoseconds; older files do not count.

        Returns:
            Indices of the images without a prediction, the same in all processes.
        """
        rank, ranks = dist.get_dist_info()
        missing = []
        for index in range(rank, len(dataset), ranks):
            info = dataset.get_data_info(index)
            info['stem'] = dataset.stem_of(info['img_path'])
            path = self._map_path(dict(image=_image_path(info), set=info.get('set_name', '')), info['stem'])
            if _is_written(path, newer_than):
                self._written.append((info, path))
            else:
                missing.append(index)
        return sorted(itertools.chain.from_iterable(dist.all_gather_object(missing)))

    def evaluate(self, size: int) -> dict[str, float]:
        """Wait for the workers, gather the results of all ranks, and compute the metrics on rank 0 for all ranks.

        Args:
            size: Number of images in the data set.

        Raises:
            RuntimeError: If not every image of the data set has been scored.
        """
        for info, path in self._written:
            self._submit(info, path)
        self._written.clear()
        self.results.extend(self._pool.finish())
        ranks = dist.get_world_size()
        if ranks > 1:
            # mmengine zips the lists of the ranks, which would truncate all to the length of the shortest.
            longest = torch.tensor(len(self.results))
            dist.all_reduce(longest, 'max')
            self.results += [None] * (int(longest) - len(self.results))
            self._images, size = size, ranks * int(longest)
        else:
            self._images = size
        return super().evaluate(size)

    def compute_metrics(self, results: Sequence[dict | None]) -> dict[str, float]:
        """Compute the metrics over all images, by set if there are several.

        Args:
            results: One entry per image (as in ``self.results``); ``None`` is skipped.
        """
        results = [result for result in results if result is not None]
        if dist.get_world_size() > 1:
            results = _without_padding(results, self._images)
        if not self.measures:
            return {}
        # Sum in one order, so that the number of processes does not change the last bit.
        results = sorted(results, key=lambda result: (result['set'], str(result['image'])))
        sets: dict[str, list[Scores]] = {}
        for result in results:
            sets.setdefault(result['set'], []).append(result['scores'])
        if len(sets) < 2 and not self._several_sets():
            return aggregate((scores for group in sets.values() for scores in group), self.measures)
        rows = {name: aggregate(scores, self.measures) for name, scores in sets.items()}
        return to_keys(with_means(rows, self.means))

    @staticmethod
    def calculate(
        score_maps: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        measures: Sequence[str] | None = None,
    ) -> dict[str, float]:
        """Compute the measures of a set of predictions, without a runner.

        Args:
            score_maps: uint8 (H, W) each, probability times 255.
            masks: bool (H, W) each.
            measures: Names; all by default.
        """
        return aggregate(
            score_pair(score_map, mask, measures) for score_map, mask in zip(score_maps, masks, strict=True)
        )

    def result_keys(self, sets: Sequence[str]) -> list[str]:
        """Keys that :meth:`evaluate` returns for the images of these sets, without computing anything."""
        rows = [*sets, *(mean for mean, parts in self.means.items() if set(parts) <= set(sets))]
        names = [f'{row}/{name}' for row in rows for name in self.measures] if len(sets) > 1 else self.measures
        return [f'{self.prefix}/{name}' if self.prefix else name for name in names]

    def _several_sets(self) -> bool:
        return len((self.dataset_meta or {}).get('sets') or ()) > 1

    def _map_path(self, image: dict, stem: str | None) -> Path | None:
        if self.output_dir is None:
            return None
        if image['image'] is None:
            raise ValueError('output_dir: the data samples need img_path, which names the files')
        folder = self.output_dir / image['set'] if self._several_sets() else self.output_dir
        path = folder / f'{stem or Path(image["image"]).stem}.png'
        if self._map_paths.setdefault(path, image['image']) != image['image']:
            raise ValueError(f'{self._map_paths[path]} and {image["image"]} would both be written to {path}')
        return path


def to_score_map(probabilities: torch.Tensor) -> np.ndarray:
    """Convert probabilities (1, H, W) or (H, W) in [0, 1] to uint8 (H, W): times 255, truncated.

    Raises:
        ValueError: If the shape is different, or values are outside [0, 1], such as logits.
    """
    if probabilities.ndim == 3 and probabilities.shape[0] == 1:
        probabilities = probabilities[0]
    if probabilities.ndim != 2:
        raise ValueError(f'seg_logits: expected one map of shape (1, H, W), got {tuple(probabilities.shape)}')
    probabilities = probabilities.detach().float()
    low, high = (float(v) for v in torch.aminmax(probabilities))
    if not -_ROUNDING <= low <= high <= 1 + _ROUNDING:
        raise ValueError(f'seg_logits: expected probabilities in [0, 1], got values in [{low:.4g}, {high:.4g}]')
    return (probabilities * 255).to(torch.uint8).cpu().numpy()


def to_mask(annotation: torch.Tensor | np.ndarray) -> np.ndarray:
    """Convert a mask (1, H, W) or (H, W) to bool (H, W): floats in [0, 1] above 128 / 255, or labels 0 and 1.

    Raises:
        ValueError: If the shape is different, or there are labels other than 0 and 1.
    """
    annotation = annotation.detach().cpu().numpy() if isinstance(annotation, torch.Tensor) else annotation
    if annotation.ndim == 3 and annotation.shape[0] == 1:
        annotation = annotation[0]
    if annotation.ndim != 2:
        raise ValueError(f'gt_sem_seg: expected one mask of shape (1, H, W), got {annotation.shape}')
    if np.issubdtype(annotation.dtype, np.floating):
        return annotation > OBJECT_ABOVE
    if annotation.dtype != np.bool_ and annotation.max(initial=0) > 1:
        raise ValueError(
            'gt_sem_seg: expected float values in [0, 1] or labels 0 and 1, '
            f'got {annotation.dtype} up to {annotation.max()}. Fix: load the mask with mmbirefnet.LoadMask'
        )
    return annotation.astype(bool)


def to_alpha(annotation: torch.Tensor | np.ndarray) -> np.ndarray:
    """Convert a soft mask (1, H, W) or (H, W) to float32 (H, W) in [0, 1].

    Raises:
        ValueError: If the shape is different, or the dtype is not floating point.
    """
    annotation = annotation.detach().cpu().numpy() if isinstance(annotation, torch.Tensor) else annotation
    if not np.issubdtype(annotation.dtype, np.floating):
        raise ValueError(
            f'gt_sem_seg: soft_masks=True expects float values in [0, 1], got {annotation.dtype}. '
            'Fix: load the mask with mmbirefnet.LoadMask'
        )
    return annotation.reshape(annotation.shape[-2:]).astype(np.float32)


def _image_path(sample: dict) -> str | None:
    return sample.get('img_path') or sample.get('seg_map_path')


def _annotation_of(sample: dict) -> torch.Tensor | np.ndarray:
    if 'gt_sem_seg' in sample:
        return sample['gt_sem_seg']['data']
    path = sample.get('seg_map_path')
    if path is None:
        raise ValueError('no mask: the data sample has neither gt_sem_seg nor seg_map_path')
    return read_mask(str(path))


def _trimap_of(sample: dict, trimap: int | str | None) -> int | Path | None:
    if not isinstance(trimap, str):
        return trimap
    path = sample.get('seg_map_path')
    if path is None:
        raise ValueError(f'trimap={trimap!r}: the data sample has no seg_map_path. Fix: give pixels, such as trimap=25')
    return find_trimap(path, sample.get('stem') or Path(path).stem, trimap)


def _is_written(path: Path, newer_than: int) -> bool:
    try:
        return path.stat().st_mtime_ns >= newer_than and read_map(str(path)) is not None
    except OSError:
        return False


def _score_sample(
    image: dict,
    score_map: np.ndarray,
    mask: np.ndarray | None,
    alpha: np.ndarray | None,
    measures: Sequence[str],
    stretch_hce: bool,
    trimap: int | Path | None,
    map_path: Path | None,
) -> dict:
    """Write and score one prediction; runs in a worker process."""
    if map_path is not None:
        map_path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(map_path, sync=False) as temporary:
            temporary.write_bytes(cv2.imencode('.png', score_map)[1])
    if not measures:
        return image
    try:
        unknown = None if trimap is None else unknown_region(mask if alpha is None else alpha, trimap)
        return dict(image, scores=score_pair(score_map, mask, measures, alpha, stretch_hce, unknown))
    except ValueError as error:
        raise ValueError(f'{image["image"]}: {error}') from error


def _without_padding(results: list[dict], images: int) -> list[dict]:
    """Keep one result per image; samplers repeat images so that all ranks have the same number."""
    unique = {(r['set'], r['image']): r for r in results if r['image'] is not None}
    unnamed = [r for r in results if r['image'] is None]
    results = list(unique.values()) + unnamed[: max(images - len(unique), 0)]
    if len(results) != images:
        raise RuntimeError(f'the data set has {images} images, but {len(results)} different ones were scored')
    return results
