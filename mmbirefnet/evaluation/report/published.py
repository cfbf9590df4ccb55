"""Published scores, from the ``Results`` of OpenMMLab metafiles."""

from __future__ import annotations

from pathlib import Path

import yaml

from mmbirefnet.evaluation.functional import MEASURES
from mmbirefnet.evaluation.report.tables import TableRow


def load_published(path: str | Path, config: str | None = None) -> list[TableRow]:
    """Rows of a metafile, one per result of a model, each with its source as the note.

    Args:
        path: A YAML file with ``Models``; each of their ``Results`` has ``Dataset``, ``Metrics`` and ``Source``.
        config: Stem of a config file: return only the rows of the models whose ``Config`` it is.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a result has no source, or a measure of another name than ours.
    """
    content = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    rows = []
    for model in content['Models']:
        if config is not None and Path(model.get('Config', '')).stem != config:
            continue
        for result in model.get('Results', ()):
            unknown = sorted(set(result['Metrics']) - set(MEASURES))
            if unknown or not result.get('Source'):
                what = f'unknown measures {", ".join(unknown)}' if unknown else 'no Source'
                raise ValueError(f'{path}: {model["Name"]} on {result["Dataset"]}: {what}')
            rows.append(TableRow(result['Dataset'], model['Name'], result['Metrics'], result['Source']))
    return rows
