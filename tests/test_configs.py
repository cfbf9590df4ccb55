"""Every config builds and runs, and its file name says what is in it."""

import ast
import collections
import copy
import itertools
import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from forks import findable
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample

from mmbirefnet.models import BiRefNet
from mmbirefnet.registry import HOOKS, MODELS
from mmbirefnet.utils import infer_backbone_name

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(filter(findable, (ROOT / 'configs').glob('[!_]*/*.py')))
NAME = re.compile(
    r'(?P<algorithm>[a-z\d-]+)_(?P<backbone>[a-z\d-]+)_(?P<gpus>\d+)xb(?P<batch>\d+)-(?P<length>\d+)(?P<unit>e|k)'
    r'_(?P<dataset>[a-z\d-]+?)-(?P<size>\d+x\d+(?:-\d+x\d+)?)'
)
# What the backbone of a name has among its settings. Behind a further hyphen the name may say more of it.
SWIN = dict(type='mmbirefnet.SwinTransformer')
BACKBONES = {
    **{f'swin-{arch}': dict(SWIN, arch=arch) for arch in 'tsbl'},
    'swin-nano': dict(SWIN, arch=dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=8)),
    **{f'pvtv2-b{k}': dict(model_name=f'pvt_v2_b{k}') for k in range(6)},
    **{f'dinov3-{s}': dict(model_name=f'vit_{name}_patch16_dinov3') for s, name in (
        *(('s', 'small'), ('splus', 'small_plus'), ('b', 'base'), ('l', 'large')),
        *(('hplus', 'huge_plus'), ('7b', '7b')),
    )},
    'vgg16': dict(type='mmpretrain.VGG', depth=16, norm_cfg=None),
    'vgg16-bn': dict(type='mmpretrain.VGG', depth=16, norm_cfg=dict(type='BN')),
    'r18': dict(depth=18),
    'r50': dict(depth=50),
    'mit-b2': dict(type='MixVisionTransformer', embed_dims=64, num_layers=[3, 4, 6, 3]),
    'convnext-t': dict(type='mmpretrain.ConvNeXt', arch='tiny'),
}  # fmt: skip
# The type of a name's data set and, for those of ours, the sets of its training.
HRSOD = {'duts': 'TR-DUTS', 'hrsod': 'TR-HRSOD', 'uhrsd': 'TR-UHRSD'}
DIS_TES = ['DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4']
PORTRAITS = ['TR-P3M-10k', 'TR-humans']
MATTES = ['TR-AM-2k', 'AIM-500', 'Human-2k_BG-20k', 'Distinctions-646_BG-20k', 'HIM2K', 'PPM-100']
GENERAL = ['DIS-TR', *DIS_TES, *(f'{t}-{s}' for s in ('DUTS', 'HRSOD', 'UHRSD', 'HRS10K') for t in ('TR', 'TE'))]
DATASETS = {
    'dis5k': ('mmbirefnet.DIS5KDataset', ['DIS-TR']),
    'dis5k-tr-tes': ('mmbirefnet.DIS5KDataset', ['DIS-TR', *DIS_TES]),
    'synthetic': ('mmbirefnet.DIS5KDataset', ['DIS-TR']),
    'cod': ('mmbirefnet.CODDataset', ['TR-COD10K', 'TR-CAMO']),
    'hrsod': ('mmbirefnet.HRSODDataset', list(HRSOD.values())),
    **{
        f'hrsod-{"-".join(sets)}': ('mmbirefnet.HRSODDataset', [HRSOD[name] for name in sets])
        for sets in (*itertools.combinations(HRSOD, 1), *itertools.combinations(HRSOD, 2))
    },
    'general': ('mmbirefnet.GeneralDataset', [*GENERAL, *PORTRAITS, 'TE-P3M-500-P']),
    # By the released models of these sizes.
    'general-2048x2048': (
        'mmbirefnet.GeneralDataset',
        [name for name in GENERAL if 'DUTS' not in name]
        + [*PORTRAITS, 'TE-P3M-500-P', 'TE-P3M-500-NP', *MATTES, 'TE-AM-2k', 'TE-Human-2k'],
    ),
    'general-2560x1440': (
        'mmbirefnet.GeneralDataset',
        [name for name in GENERAL if not name.endswith(('DUTS', '-HRSOD'))]
        + [*PORTRAITS, 'TE-P3M-500-P', *MATTES, 'TE-AM-2k'],
    ),
    'matting': ('mmbirefnet.MattingDataset', [*PORTRAITS, 'TE-P3M-500-P', *MATTES]),
    'portrait': ('mmbirefnet.MattingDataset', [*PORTRAITS, 'TE-P3M-500-NP']),
    'finetune': ('mmbirefnet.FolderDataset', None),
    'finetune-matting': ('mmbirefnet.FolderDataset', None),
    'ade20k': ('ADE20KDataset', None),
}
# Of 0.3 to 7 billion parameters; they are built, and their smaller likes run.
TOO_LARGE_TO_RUN = ('birefnet_dinov3-l_', 'birefnet_dinov3-hplus_', 'birefnet_dinov3-7b_')


@cache
def load(path):
    return Config.fromfile(path)


def fields_of(path):
    fields = NAME.fullmatch(path.stem)
    assert fields, 'names are {algorithm}_{backbone}_{gpus}xb{batch}-{epochs}e_{dataset}-{size}'
    return fields


def build(model, device='meta'):
    with torch.device(device):
        return MODELS.build(copy.deepcopy(model))  # segmentors change what they are built from


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
class TestName:
    def test_name_gives_the_backbone(self, path):
        cfg, name = load(path), fields_of(path)['backbone']
        known = max((known for known in BACKBONES if f'{name}-'.startswith(f'{known}-')), key=len)
        backbone = {'norm_cfg': None, **cfg.model.backbone}
        assert {key: backbone[key] for key in BACKBONES[known]} == BACKBONES[known]

    def test_batch_and_gpus(self, path):
        cfg, fields = load(path), fields_of(path)
        assert cfg.train_dataloader.batch_size == int(fields['batch'])
        # Schedules of mmsegmentation by iterations have no such setting.
        if fields['gpus'] != '1' and (fields['unit'] == 'e' or 'auto_scale_lr' in cfg):
            assert cfg.auto_scale_lr.base_batch_size == int(fields['gpus']) * int(fields['batch'])
            assert cfg.auto_scale_lr.get('base_batch_per_gpu', int(fields['batch'])) == int(fields['batch'])

    def test_name_gives_the_training_length(self, path):
        cfg, fields = load(path), fields_of(path)
        if fields['unit'] == 'e':
            assert cfg.train_cfg.max_epochs == int(fields['length'])
        else:
            assert cfg.train_cfg.max_iters == 1000 * int(fields['length'])

    def test_data(self, path):
        dataset, fields = load(path).train_dataloader.dataset, fields_of(path)
        kind, sets = DATASETS.get('{dataset}-{size}'.format(**fields.groupdict()), DATASETS[fields['dataset']])
        assert dataset.type == kind
        if sets is not None:
            found = dataset.sets if isinstance(dataset.sets, list) else [dataset.sets]
            assert len(found) == len(set(found))
            assert set(found) == set(sets)

    def test_name_gives_the_size(self, path):
        cfg, (*sizes,) = load(path), fields_of(path)['size'].split('-')
        sizes = [tuple(int(side) for side in size.split('x')) for size in sizes]
        loader = cfg.train_dataloader
        steps = {step.type: step for step in loader.dataset.pipeline}
        if 'RandomCrop' in steps:
            assert [tuple(steps['RandomCrop'].crop_size)[::-1]] == sizes
        elif 'mmbirefnet.ResizeToBatch' in steps:
            assert [tuple(loader.batch_sampler[name]) for name in ('min_size', 'max_size')] == sizes
        else:
            assert [tuple(steps['mmbirefnet.Resize'].scale)] == sizes
            for test in (cfg.val_dataloader, cfg.test_dataloader):
                assert [tuple(s.scale) for s in test.dataset.pipeline if s.type == 'mmbirefnet.Resize'] == sizes
            if 'tta_pipeline' in cfg:
                scales = [tuple(step.scale) for step in cfg.tta_pipeline[1].transforms[0]]
                assert scales[1:2] == sizes
                assert all(side % 32 == 0 for scale in scales for side in scale)


@cache
def build_once(model):
    return build(ConfigDict(ast.literal_eval(model)))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_builds(path):
    cfg = load(path)
    # Some backbones of others cannot be built without memory for their parameters.
    model = build(cfg.model, 'cpu') if path.parent.name == 'mix' else build_once(repr(cfg.model.to_dict()))
    frozen = 'backbone.' if cfg.model.backbone.get('frozen') else ()
    assert all(value.requires_grad for key, value in model.named_parameters() if not key.startswith(frozen))
    if path.parent.name == 'birefnet':
        assert infer_backbone_name(model.state_dict()) == fields_of(path)['backbone']


METAFILES = sorted((ROOT / 'configs').glob('*/metafile.yml'))


@pytest.mark.parametrize('path', METAFILES, ids=lambda path: path.parent.name)
def test_metafile_says_what_the_configs_do(path):
    entries = yaml.safe_load(path.read_text())['Models']
    models = {model['Name']: model['Metadata'] for model in entries if 'Converted From' not in model}
    named = [config for config in CONFIGS if config.parent == path.parent and '_finetune-' not in config.name]
    assert set(models) == {config.stem for config in named}
    for config in named:
        cfg, model = load(config), models[config.stem]
        sets = cfg.train_dataloader.dataset.sets
        assert model['Training Data'] in (sets, sets[0] if len(sets) == 1 else sets)
        assert (model['Batch Size'], model['Epochs']) == (cfg.auto_scale_lr.base_batch_size, cfg.train_cfg.max_epochs)


def test_published_scores_belong_to_released_models():
    """Nobody has published a score of a model that was trained with a config of ours."""
    for path in METAFILES:
        for model in yaml.safe_load(path.read_text())['Models']:
            assert ('Converted From' in model) == (model['Name'] != Path(model['Config']).stem), model['Name']
            assert 'Results' not in model or 'Converted From' in model, model['Name']


def table_of(text, first):
    """Rows, as lists of cells, of the table whose first column is headed so; links and code without their marks."""
    if f'\n| {first} |' not in text:
        return []
    lines = text.split(f'\n| {first} |', 1)[1].split('\n\n', 1)[0].splitlines()
    header = [cell.strip() for cell in lines[0].strip('| ').split(' | ')]
    rows = [re.sub(r'\[`?(.+?)`?\]\(.+?\)', r'\1', line).strip('| ').split(' | ') for line in lines[2:]]
    return [dict(zip(['first', *header], row, strict=True)) for row in rows]


@pytest.mark.parametrize('folder', sorted({path.parent for path in CONFIGS}), ids=lambda path: path.name)
def test_readme(folder):
    """It lists every config, and the published scores of the metafile."""
    text = (folder / 'README.md').read_text('utf-8')
    headings = re.findall(r'^## (.+)$', text, re.M)
    assert headings == ['Abstract', 'Configs', 'Results', 'Commands', 'Citation']
    listed = table_of(text, 'config')
    assert [row['first'] for row in listed] == sorted(path.stem for path in folder.glob('*.py'))
    for row in listed:
        fields = fields_of(folder / f'{row["first"]}.py')
        assert (row['backbone'], row['images per GPU']) == (fields['backbone'], fields['batch'])
    for path in re.findall(r'(?:configs|tools)/[\w./-]+', text):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r'\]\((\.[^)#]+)', text):
        assert (folder / path).exists(), path
    metafile = folder / 'metafile.yml'
    models = yaml.safe_load(metafile.read_text('utf-8'))['Models'] if metafile.exists() else []
    expected = [
        (model['Name'], result['Dataset'], result['Metrics'], result['Source'])
        for model in models
        for result in model.get('Results', ())
    ]
    found = []
    for row in table_of(text, 'weights'):
        name, dataset, source = row.pop('first'), row.pop('test set'), row.pop('source')
        row.pop('ours')
        found.append((name, dataset, {key: float(value) for key, value in row.items() if value != '–'}, source))
    assert found == expected
    for model in models:
        assert 'Converted From' not in model or model['Converted From']['Weights'] in text


def test_every_released_model_has_a_config_to_fine_tune_it_with():
    fine_tuning = {(fields_of(p)['backbone'], fields_of(p)['size']) for p in CONFIGS if '_finetune-' in p.name}
    entries = [model for path in METAFILES for model in yaml.safe_load(path.read_text())['Models']]
    released = [Path(model['Config']) for model in entries if 'Converted From' in model]
    assert len(released) == 17
    assert {(fields_of(config)['backbone'], fields_of(config)['size']) for config in released} <= fine_tuning


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_loss_schedule_names_losses_of_the_model(path):
    cfg = load(path)
    losses = {loss.type.rpartition('.')[2] for loss in _as_list(cfg.model.decode_head.loss_decode)}
    if 'loss_schedule' in cfg.default_hooks:
        assert set(HOOKS.build(cfg.default_hooks.loss_schedule).factors) <= losses


def bases(path):
    """The base configs of this project that a config file names."""
    names = re.search(r'^_base_ = (\[.*?\]|.+?)$', path.read_text('utf-8'), re.M | re.S)
    return [path.parent / name for name in re.findall(r"'(\.[^']+)'", names[1] if names else '')]


def levels(path):
    return max((1 + levels(base) for base in bases(path)), default=0)


def test_three_levels_of_inheritance():
    assert [path for path in CONFIGS if levels(path) > 3] == []


def test_configs_do_not_index_lists():
    """Steps and hooks have names: a position would mean something else when a base changes."""
    for path in sorted((ROOT / 'configs').glob('**/*.py')):
        text = path.read_text('utf-8')
        assert not re.search(r'pipeline\[|transforms\[', text), path
        assert 'custom_hooks' not in text, path


def _as_list(value):
    return value if isinstance(value, list) else [value]


def architecture(path):
    """What of a model's config decides on its parameters and its forward pass in evaluation."""
    model = load(path).model.to_dict()
    without = {'init_cfg', 'pretrained', 'loss_decode', 'with_cp', 'drop_path_rate', 'data_preprocessor', 'frozen'}

    def strip(value):
        if isinstance(value, dict):
            return {key: strip(inner) for key, inner in value.items() if key not in without}
        return value

    return json.dumps(strip(model), sort_keys=True)


# Algorithm and backbone of a name. The ablations run in a test of their own.
KINDS = collections.defaultdict(list)
for config in CONFIGS:
    if config.parent.name != 'birefnet_ablation' and not config.stem.startswith(TOO_LARGE_TO_RUN):
        KINDS['_'.join(config.stem.split('_')[:2])].append(config)


@pytest.mark.parametrize('kind', sorted(KINDS))
@pytest.mark.soak(keep=2)
def test_forward_pass(kind):
    """Each architecture of these: maps of an image's own size that depend on the image."""
    for path in {architecture(path): path for path in KINDS[kind]}.values():
        check_forward_pass(path)


def check_forward_pass(path):
    torch.manual_seed(0)
    model = build(load(path).model, 'cpu').eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    samples = [SegDataSample(metainfo=dict(ori_shape=(50, 70), img_shape=(64, 64))) for _ in images]
    with torch.no_grad():
        results = model.test_step(dict(inputs=list(images), data_samples=samples))
    first, second = (result.seg_logits.data for result in results)
    assert first.shape == (model.out_channels, 50, 70)
    assert first.isfinite().all()
    assert (first - second).abs().max() > 1e-6
    if model.out_channels == 1:
        assert 0 <= first.min() < first.max() <= 1
    assert set(results[0].pred_sem_seg.data.unique().tolist()) <= set(range(model.num_classes))


def test_size_of_the_published_model():
    """Figures of the reference for Swin-T, in millions of parameters."""
    model = build(load(ROOT / 'configs/birefnet/birefnet_swin-t_8xb4-500e_dis5k-1024x1024.py').model)

    def millions(module):
        return round(sum(parameter.numel() for parameter in module.parameters()) / 1e6, 1)

    assert millions(model.backbone) == 27.5
    assert millions(model.neck) == 4.1
    assert millions(model.decode_head) == 12.7


@pytest.mark.parametrize('registry', [MODELS, MMSEG_MODELS, MMENGINE_MODELS], ids=lambda registry: registry.scope)
def test_builds_from_any_registry(registry):
    """Also where nobody has set a default scope."""
    (path,) = (path for path in CONFIGS if path.stem.startswith('birefnet_swin-nano_1xb4-6e_'))
    with DefaultScope.overwrite_default_scope('mmengine'), torch.device('meta'):
        assert type(registry.build(load(path).model)) is BiRefNet
