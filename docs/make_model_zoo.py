"""Write ``docs/en/model_zoo.md``.

The page is generated from the configs, their metafiles and the catalog of released models. Parameters and FLOPs are
counted in forward passes on the meta device.
"""

import argparse
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmbirefnet.models.layers.dcn.layer import DCNv2
from mmbirefnet.registry import MODELS
from mmbirefnet.zoo import get_info, list_models

ROOT = Path(__file__).parents[1]
PAGE = ROOT / 'docs/en/model_zoo.md'
NAMES = {
    'birefnet': 'DIS5K',
    'birefnet_cod': 'Camouflaged object detection',
    'birefnet_hrsod': 'High-resolution salient object detection',
    'birefnet_general': 'General use',
    'birefnet_matting': 'Matting',
    'birefnet_hr': '2048x2048',
    'birefnet_dynamic': 'Images of any size',
    'birefnet_ablation': 'Ablations',
    'birefnet_synthetic': 'Generated images, for the demo',
}
INTRODUCTION = """# Model zoo

Released models, their published scores, and the configs. `python docs/make_model_zoo.py` generates this page from the
configs, their metafiles and the catalog.

## Released models

Each name works wherever a checkpoint is expected, see [models by name](user_guides/models.md). Input sizes are width x
height; "own size" is the size of each image. The license of the weights does not replace
[the terms of the training data](user_guides/models.md#released-models). "Fine-tune" is the config that fine-tunes the
model on your own images.

"""
SCORES = """
## Published scores

As published by the source in the last column; none was measured here. [The benchmark](user_guides/benchmark.md)
explains the measures. A dash means that the source does not give the score.

"""
CONFIGS = """
## Configs

The names are `{algorithm}_{backbone}_{gpus}xb{images per GPU}-{epochs}e_{data}-{width}x{height}`. M is the number of
parameters of the whole model, in millions. GFLOP counts multiplications and additions for one image at the input size
(at 1024x1024 for models of any size). It includes the products of attention, which torch does not count on a CPU, so
`tools/analysis_tools/benchmark.py` prints a little less there. [Mixing](advanced_guides/mixing.md) lists the configs
with parts of OpenMMLab's other packages.
"""


def table(header: list[str], rows: list[list[str]], numeric: int = 0) -> str:
    """A Markdown table whose last columns are aligned to the right."""
    marks = ['---'] * (len(header) - numeric) + ['---:'] * numeric
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in (header, marks, *rows)) + '\n'


def link(path: str) -> str:
    return f'[`{Path(path).stem}`](../../configs/{path})'


def released() -> str:
    rows = []
    for info in map(get_info, list_models()):
        repository = f'[{info.repository}](https://huggingface.co/{info.repository})'
        licences = f'code {info.licence.code}; weights {info.licence.weights}; data: {info.licence.data}'
        rows.append(
            [f'`{info.name}`', info.task, info.size, info.backbone, repository, licences, link(info.finetune_config)]
        )
    return table(['name', 'task', 'input size', 'backbone', 'repository', 'licenses', 'fine-tune'], rows)


def metafiles() -> Iterator[dict]:
    """Entries of all metafiles, in the order of ``model-index.yml``."""
    for path in yaml.safe_load((ROOT / 'model-index.yml').read_text('utf-8'))['Import']:
        yield from yaml.safe_load((ROOT / path).read_text('utf-8'))['Models']


def scores() -> str:
    found = [(model['Name'], result) for model in metafiles() for result in model.get('Results', ())]
    measures = [*dict.fromkeys(name for _, result in found for name in result['Metrics'])]
    rows = [
        [
            f'`{name}`',
            result['Dataset'],
            *(format_score(result['Metrics'].get(measure)) for measure in measures),
            result['Source'],
        ]
        for name, result in found
    ]
    return table(['model', 'test set', *measures, 'source'], rows)


def format_score(value: float | None) -> str:
    return '–' if value is None else f'{value:.0f}' if value > 10 else f'{value:.3f}'


def forward_of_the_same_work(self: DCNv2, x: Tensor) -> Tensor:
    """Replace a deformable convolution by plain ones with the same FLOPs, which torch counts."""
    self.conv_offset(x)
    return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@functools.cache
def cost(model: str, size: tuple[int, int]) -> tuple[str, str]:
    """Parameters in millions, and GFLOP of one image.

    Args:
        model: The config's ``model``, without its losses, as Python.
        size: (height, width).
    """
    cfg = Config.fromstring(f'model = {model}', '.py').model
    with torch.device('meta'), torch.no_grad():
        network = MODELS.build(cfg).eval()
        for module in network.modules():
            if isinstance(module, DCNv2):
                module.forward = functools.partial(forward_of_the_same_work, module)
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, *size), mode='tensor')
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return f'{parameters / 1e6:.1f}', f'{counter.get_total_flops() / 1e9:.0f}'


def cost_of(path: Path) -> tuple[str, str]:
    """Cost of the model of a config."""
    size = '1024x1024' if path.parent.name == 'birefnet_dynamic' else path.stem.split('-')[-1]
    width, height = map(int, size.split('x'))
    model = Config.fromfile(path).model.to_dict()
    model['decode_head']['loss_decode'] = dict(type='mmbirefnet.BCELoss')  # losses do not change the cost
    model['backbone']['init_cfg'] = None
    return cost(repr(model), (height, width))


def configs(cost_of: Callable[[Path], tuple[str, str]] = cost_of) -> str:
    weights = defaultdict(list)
    for model in metafiles():
        if 'Converted From' in model:
            weights[Path(model['Config']).stem].append(f'`{model["Name"]}`')
    parts = []
    for folder, title in NAMES.items():
        paths = sorted((ROOT / 'configs' / folder).glob('*.py'))
        rows = [[link(f'{folder}/{path.name}'), ', '.join(weights[path.stem]) or '–', *cost_of(path)] for path in paths]
        parts.append(f'\n### {title}\n\n' + table(['config', 'released weights', 'M', 'GFLOP'], rows, numeric=2))
    return ''.join(parts)


def page(**options) -> str:
    with DefaultScope.overwrite_default_scope('mmseg'):
        return INTRODUCTION + released() + SCORES + scores() + CONFIGS + configs(**options)


def read_costs() -> dict[str, list[str]]:
    """Costs on the existing page, by the link to the config."""
    rows = [line.strip('| ').split(' | ') for line in PAGE.read_text('utf-8').splitlines() if line.startswith('| [`')]
    return {row[0]: row[2:] for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--new', action='store_true', help='count only configs that are not on the page yet')
    known = read_costs() if parser.parse_args().new else {}

    def known_cost_of(path: Path) -> list[str] | tuple[str, str]:
        return known.get(link(f'{path.parent.name}/{path.name}')) or cost_of(path)

    PAGE.write_text(page(cost_of=known_cost_of), 'utf-8')


if __name__ == '__main__':
    main()
