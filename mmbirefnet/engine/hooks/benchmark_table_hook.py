"""Table of the scores of a test, by set."""

from __future__ import annotations

from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmbirefnet.evaluation.report import (
    TableRow,
    columns_of,
    from_keys,
    load_published,
    rows_of_sets,
    to_markdown,
    write_tables,
)
from mmbirefnet.registry import HOOKS


@HOOKS.register_module()
class BenchmarkTableHook(Hook):
    """Print the scores of a test by set, and write them as Markdown, CSV and LaTeX to the log folder of the run.

    Published scores of the same sets follow. The table names sets that are missing.

    Args:
        published: Metafile with published rows: those of the released models for the config file, or all if there are
            none. ``'auto'`` uses ``metafile.yml`` beside the config file, if it exists; ``None`` adds no rows.
        task: Task whose columns are printed, ``'DIS5K'``, ``'COD'``, ``'HRSOD'`` or ``'Matting'``; by default that of
            the sets.
        method: Name of our rows; by default the name of the config file.
    """

    priority = 'VERY_LOW'

    def __init__(self, published: str | None = 'auto', task: str | None = None, method: str | None = None) -> None:
        self.published = published
        self.task = task
        self.method = method

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the table."""
        config = Path(runner.cfg.filename or '')
        method = self.method or config.stem or 'this'
        dataset = runner.test_dataloader.dataset
        sets = getattr(dataset, 'metainfo', {}).get('sets') or ('test',)
        scores = from_keys(metrics or {}, sets[0])
        if not scores:
            return
        missing = {(method, name): 'not on disk' for name in getattr(dataset, 'missing_sets', ())}
        rows = rows_of_sets({method: scores}, missing, self._published_rows(config))
        columns = columns_of(rows, self.task)
        paths = write_tables(rows, columns, Path(runner.log_dir) / 'benchmark')
        runner.logger.info(f'\n{to_markdown(rows, columns)}\nwritten to {", ".join(map(str, paths))}')

    def _published_rows(self, config: Path) -> list[TableRow]:
        metafile = self.published
        if metafile == 'auto':
            metafile = config.with_name('metafile.yml') if config.name else None
            metafile = metafile if metafile and metafile.is_file() else None
        return (load_published(metafile, config.stem) or load_published(metafile)) if metafile else []
