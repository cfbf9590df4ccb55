"""The table of a test over the sets of a benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmbirefnet.registry import HOOKS


@HOOKS.register_module()
class BenchmarkTableHook(Hook):
    """Print a test's scores by set, and write them as Markdown, CSV and LaTeX to the run's log folder.

    Published scores of the same sets stand below ours. Sets that were asked for and not found are named.

    Args:
        published: Metafile to take published rows from: those of the released models that run with the config file, or
            all if it has none. ``'auto'``: ``metafile.yml`` beside the config file, if there is one; ``None``: no
            published rows.
        task: Whose columns to print, ``'DIS5K'``, ``'COD'``, ``'HRSOD'`` or ``'Matting'``; by default that of the sets.
        method: Name of our rows; by default the config file's.
    """

    priority = 'VERY_LOW'

    def __init__(self, published: str | None = 'auto', task: str | None = None, method: str | None = None) -> None:
        self.published = published
        self.task = task
        self.method = method

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the table."""
        # Scoring needs an extra package, which training does not: so it is imported here.
        from mmbirefnet.evaluation.report.tables import columns_of, in_table_order, to_markdown, write_tables

        config = Path(runner.cfg.filename or '')
        rows = own_rows(metrics or {}, runner.test_dataloader.dataset, self.method or config.stem or 'this')
        if not any(row.scores for row in rows):
            return
        names = in_table_order([row.name for row in rows])
        rows += self._published_rows(config)
        rows = [row for name in names for row in rows if row.name == name]
        columns = columns_of(rows, self.task)
        paths = write_tables(rows, columns, Path(runner.log_dir) / 'benchmark')
        runner.logger.info(f'\n{to_markdown(rows, columns)}\nwritten to {", ".join(map(str, paths))}')

    def _published_rows(self, config: Path) -> list:
        from mmbirefnet.evaluation.report.published import load_published

        metafile = self.published
        if metafile == 'auto':
            metafile = config.with_name('metafile.yml') if config.name else None
            metafile = metafile if metafile and metafile.is_file() else None
        rows = (load_published(metafile, config.stem) or load_published(metafile)) if metafile else []
        return [replace(row, method=f'{row.method} (published)') for row in rows]


def own_rows(metrics: dict[str, float], dataset, method: str) -> list:
    """Rows of a test's metrics, whose keys are ``<set>/<metric>``, or ``<metric>`` where there is one set only.

    Args:
        metrics: as the test loop returns them; keys of other metrics are passed over.
        dataset: with the names of its sets in ``metainfo['sets']``, and of those not found in ``missing_sets``.
        method: name of the rows.
    """
    from mmbirefnet.evaluation.report.tables import TableRow
    from mmbirefnet.evaluation.scoring import METRICS

    sets = getattr(dataset, 'metainfo', {}).get('sets') or ('test',)
    scores: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        name, _, metric = key.rpartition('/')
        if metric in METRICS:
            scores.setdefault(name or sets[0], {})[metric] = value
    rows = [TableRow(name, method, row) for name, row in scores.items()]
    return rows + [TableRow(name, method, note='not on disk') for name in getattr(dataset, 'missing_sets', ())]
