"""Published scores, from the ``Results`` of OpenMMLab metafiles."""

from __future__ import annotations

from pathlib import Path

import yaml

from mmbirefnet.evaluation.report.tables import TableRow
from mmbirefnet.evaluation.scoring import METRICS


def load_published(path: str | Path) -> list[TableRow]:
    """Rows of a metafile, one per model and data set, each with its source as the note.

    Args:
        path: a YAML file with ``Models``; each of their ``Results`` has ``Dataset``, ``Metrics`` and ``Source``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a result has no source, or a metric of another name than ours.
    """
    content = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    rows = []
    for model in content['Models']:
        for result in model.get('Results', ()):
            unknown = sorted(set(result['Metrics']) - set(METRICS))
            if unknown or not result.get('Source'):
                what = f'unknown metrics {", ".join(unknown)}' if unknown else 'no Source'
                raise ValueError(f'{path}: {model["Name"]} on {result["Dataset"]}: {what}')
            rows.append(TableRow(result['Dataset'], model['Name'], result['Metrics'], result['Source']))
    return rows
