"""Which model wrote the maps of a folder, so that a test that goes on never mixes two."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from mmengine.config import Config

from mmbirefnet.fileio.atomic import replacing


def _record_of(folder: Path) -> Path:
    """The note is beside the folder, which holds maps alone."""
    folder = folder.resolve()
    return folder.with_name(f'.{folder.name}.predictions.json')


def describe_predictions(cfg: Config, checkpoint: str, **options: bool) -> dict:
    """What the maps of a test depend on: checkpoint, model, data set with its pipeline, and options."""
    parts = json.dumps([cfg.model.to_dict(), cfg.test_dataloader.dataset.to_dict()], sort_keys=True, default=str)
    facts = dict(checkpoint=checkpoint, config=hashlib.sha256(parts.encode()).hexdigest(), **options)
    if os.path.isfile(checkpoint):
        stat = os.stat(checkpoint)
        facts |= dict(checkpoint=os.path.abspath(checkpoint), size=stat.st_size, modified=stat.st_mtime_ns)
    return facts


def begin_predictions(folder: Path, facts: dict) -> None:
    """Note that the maps written to ``folder`` from now on are of this test."""
    record = _record_of(folder)
    record.parent.mkdir(parents=True, exist_ok=True)
    with replacing(record) as temporary:
        temporary.write_text(json.dumps(facts, indent=1), encoding='utf-8')


def resume_predictions(folder: Path, facts: dict) -> int | None:
    """The time since when the maps of ``folder`` are of this test, in nanoseconds; ``None`` if there are none.

    Raises:
        ValueError: If they are of another one.
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
            f'{folder}: its maps are of another test; {", ".join(changed)} differ. Fix: give another folder with '
            '--out, or start again without --resume'
        )
    return began
