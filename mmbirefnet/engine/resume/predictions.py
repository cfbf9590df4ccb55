"""Record which model wrote the predictions of a folder, so that a resumed test never mixes two models."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from mmengine.config import Config

from mmbirefnet.fileio.atomic import replacing


def _record_of(folder: Path) -> Path:
    """Path of the record, beside the folder, which contains only predictions."""
    folder = folder.resolve()
    return folder.with_name(f'.{folder.name}.predictions.json')


def describe_predictions(cfg: Config, checkpoint: str, **options: bool) -> dict:
    """Everything that the predictions of a test depend on: checkpoint, model, data set with pipeline, and options."""
    parts = json.dumps([cfg.model.to_dict(), cfg.test_dataloader.dataset.to_dict()], sort_keys=True, default=str)
    facts = dict(checkpoint=checkpoint, config=hashlib.sha256(parts.encode()).hexdigest(), **options)
    if os.path.isfile(checkpoint):
        stat = os.stat(checkpoint)
        facts |= dict(checkpoint=os.path.abspath(checkpoint), size=stat.st_size, modified=stat.st_mtime_ns)
    return facts


def begin_predictions(folder: Path, facts: dict) -> None:
    """Record that the predictions written to ``folder`` from now on are of this test."""
    record = _record_of(folder)
    record.parent.mkdir(parents=True, exist_ok=True)
    with replacing(record) as temporary:
        temporary.write_text(json.dumps(facts, indent=1), encoding='utf-8')


def resume_predictions(folder: Path, facts: dict) -> int | None:
    """Time in nanoseconds since when the predictions in ``folder`` are of this test; ``None`` if there are none.

    Raises:
        ValueError: If they are of another test.
    """
    record = _record_of(folder)
    try:
        began, found = record.stat().st_mtime_ns, json.loads(record.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f'{record}: damaged ({error}). Fix: start again without --resume') from error
    if found != facts:
        changed = sorted(key for key in {*found, *facts} if found.get(key) != facts.get(key))
        raise ValueError(
            f'{folder}: its predictions are of another test; {", ".join(changed)} differ. Fix: use another folder with '
            '--out, or start again without --resume'
        )
    return began
