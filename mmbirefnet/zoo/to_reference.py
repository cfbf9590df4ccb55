"""Convert trained weights to the format of the reference implementation.

This is the inverse of :func:`mmbirefnet.utils.convert_birefnet_state_dict`: names, separate convolutions for offset and
modulator, one final convolution, and crops of the inward reference by rows, as in the current reference implementation.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mmbirefnet.fileio.atomic import replacing
from mmbirefnet.fileio.checkpoints import DCN_VERSION, HEADER_KEY, read_checkpoint
from mmbirefnet.models.backbones.swin import relative_position_index
from mmbirefnet.models.segmentors.lora import merge_adapters, read_adapters

from .architecture import MASK_WEIGHT, check_fit, infer_model_config
from .catalog import find_info
from .convert import LoadedBiRefNet, load_birefnet, strip_prefixes
from .crop_order import AUTO, ROWS
from .download import fetch
from .renames import find_family, infer_backbone

# Applied one after another to each key outside of the backbone.
RENAMES = (
    (r'^neck\.classifier\.', 'cls_head.0.'),
    (r'^neck\.squeeze\.', 'squeeze_module.0.'),
    (r'^neck\.projections\.(\d)\.', lambda match: f'decoder.pyramid_neck_x{int(match[1]) + 1}.conv.'),
    (r'^decode_head\.blocks\.(\d)\.reconstruction\.', r'decoder.decoder_block\1.'),
    (r'^decode_head\.laterals\.(\d)\.', r'decoder.lateral_block\1.conv.'),
    (r'^decode_head\.blocks\.(\d)\.side\.', r'decoder.conv_ms_spvn_\1.'),
    (r'^decode_head\.blocks\.(\d)\.outward\.conv\.', r'decoder.gdt_convs_\1.0.'),
    (r'^decode_head\.blocks\.(\d)\.outward\.norm\.', r'decoder.gdt_convs_\1.1.'),
    (r'^decode_head\.blocks\.(\d)\.outward\.gradient\.', r'decoder.gdt_convs_pred_\1.0.'),
    (r'^decode_head\.blocks\.(\d)\.outward\.attention\.', r'decoder.gdt_convs_attn_\1.0.'),
    (r'^decode_head\.inward\.', 'decoder.ipt_blk1.'),
    (r'^decode_head\.blocks\.(\d)\.inward\.', lambda match: f'decoder.ipt_blk{int(match[1]) + 1}.'),
    (r'(?<=^decoder\.ipt_blk\d\.)conv_in\.', 'conv1.'),
    (r'^decode_head\.conv_logits\.', 'decoder.conv_out1.0.'),
    (r'\.norm_(in|out)\.', r'.bn_\1.'),
    (r'\.shortcut\.', '.conv_resi.'),
    (r'\.aspp\.pooled\.conv\.', '.dec_att.global_avg_pool.1.'),
    (r'\.aspp\.pooled\.norm\.', '.dec_att.global_avg_pool.2.'),
    (r'\.aspp\.merge\.conv\.', '.dec_att.conv1.'),
    (r'\.aspp\.merge\.norm\.', '.dec_att.bn1.'),
)
# Kernel sizes of the branches in the ASPP of the reference.
DEFORMABLE_KERNELS, DILATED_KERNELS = (1, 1, 3, 7), (1, 3, 3, 3)
RELATIVE_BIAS = 'relative_position_bias_table'
FILES = ('model.safetensors', 'config.json', 'README.md')


def to_reference_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert parameters of :class:`mmbirefnet.models.BiRefNet` to those of the reference implementation.

    Every operation is differentiable, and converting back returns the same parameters, bit for bit.

    Args:
        state_dict: Parameters of this project, with or without the prefixes ``module.``, ``_orig_mod.`` and ``model.``.
            Doubled deformable kernels of old versions of this project, identified by the metadata, are halved.

    Returns:
        Parameters with the names of the reference; the crops of the inward reference are in the order ``rows``.

    Raises:
        ValueError: If the reference has no such network: several classes, another backbone, another ASPP, or other
            norms.
    """
    source = strip_prefixes(state_dict)
    _check_head(source)
    converted = _restore_backbone(source)
    for key, value in source.items():
        if key.startswith('backbone.') or key == 'decode_head.conv_logits_inward.weight':
            continue
        if _is_doubled(key, source):
            value = value / 2
        if key == 'decode_head.conv_logits.weight' and 'decode_head.conv_logits_inward.weight' in source:
            value = torch.cat([value, source['decode_head.conv_logits_inward.weight']], 1)
        name = _restore(key, source)
        if '.conv_offset.' in name:
            offsets = value.shape[0] // 3 * 2  # two coordinates for each value of the modulator
            converted[name.replace('.conv_offset.', '.offset_conv.')] = value[:offsets]
            converted[name.replace('.conv_offset.', '.modulator_conv.')] = value[offsets:]
        else:
            converted[name] = value
    return converted


def _is_doubled(key: str, source: Mapping[str, Tensor]) -> bool:
    """Whether it is a doubled deformable kernel of an old checkpoint, see ``DCNv2``."""
    layer = key.removesuffix('.weight')
    version = getattr(source, '_metadata', {}).get(layer, {}).get('version', DCN_VERSION)
    return f'{layer}.conv_offset.weight' in source and version < DCN_VERSION


def _restore_backbone(source: dict[str, Tensor]) -> dict[str, Tensor]:
    backbone = {key.removeprefix('backbone.'): value for key, value in source.items() if key.startswith('backbone.')}
    try:
        family, _ = find_family({key: tuple(value.shape) for key, value in backbone.items()})
    except ValueError as error:
        raise ValueError(f'the reference implementation has no such backbone: {error}') from error
    restored = {f'bb.{family.restore(key)}': value for key, value in backbone.items()}
    for key, value in backbone.items():
        if key.endswith(RELATIVE_BIAS):  # the reference also has a buffer
            index = relative_position_index((round(value.shape[0] ** 0.5) + 1) // 2)
            restored[f'bb.{key.replace(RELATIVE_BIAS, "relative_position_index")}'] = index
    return restored


def _check_head(source: dict[str, Tensor]) -> None:
    """Raise ``ValueError`` for parts that the reference lacks, except backbones."""
    if 'decode_head.conv_logits.weight' not in source:
        raise ValueError(f'not a BiRefNet of this project: found {len(source)} keys such as {sorted(source)[:4]}')
    if any(key.endswith(MASK_WEIGHT) for key in source):
        raise ValueError('the reference implementation has no guidance by a coarse mask, which this model has')
    classes = source['decode_head.conv_logits.weight'].shape[0]
    if classes != 1:
        raise ValueError(f'the reference implementation predicts one map, this model {classes} classes')
    for block in sorted({match[1] for key in source if (match := re.match(r'(.+\.aspp)\.branches\.', key))}):
        kernels = tuple(
            source[key].shape[-1] for i in range(9) if (key := f'{block}.branches.{i}.conv.weight') in source
        )
        wanted = DEFORMABLE_KERNELS if _is_deformable(block, source) else DILATED_KERNELS
        if kernels != wanted:
            raise ValueError(f'the reference implementation has no ASPP with kernels of {kernels} as in {block}')
    norms = [key for key in source if re.search(r'\.norm(_in|_out)?\.weight$', key) and not key.startswith('backbone.')]
    for key in norms:
        if key.replace('.weight', '.running_mean') not in source:
            raise ValueError(f'the reference implementation has BatchNorm only, {key} is of another norm')


def _is_deformable(aspp: str, source: dict[str, Tensor]) -> bool:
    return f'{aspp}.branches.0.conv.conv_offset.weight' in source


def _restore(key: str, source: dict[str, Tensor]) -> str:
    """Name of a parameter in the reference; ``conv_offset``, which is split later, is kept."""
    if match := re.fullmatch(r'(.+\.aspp)\.branches\.(\d)\.(conv|norm)\.(.+)', key):
        aspp, index, part, rest = match[1], int(match[2]), match[3], match[4]
        deformable = _is_deformable(aspp, source)
        branch = f'aspp_deforms.{index - 1}' if deformable and index else f'aspp{index + 1}'
        if part == 'norm':
            name = f'bn.{rest}'
        elif deformable and not rest.startswith('conv_offset'):
            name = f'atrous_conv.regular_conv.{rest}'
        else:
            name = f'atrous_conv.{rest}'
        key = f'{aspp.removesuffix("aspp")}dec_att.{branch}.{name}'
    for pattern, name in RENAMES:
        key = re.sub(pattern, name, key)
    return key


def write_reference(
    src: str | os.PathLike, dst: str | os.PathLike, crop_order: str = AUTO, adapters: str | os.PathLike | None = None
) -> list[Path]:
    """Write a checkpoint in the format of the reference implementation.

    Args:
        src: Checkpoint of this project or of the reference implementation (whose crops by columns are converted to
            rows), or the name of a model, see :func:`mmbirefnet.zoo.download.fetch`.
        dst: A ``.pth`` or ``.safetensors`` file, or a folder as on Hugging Face: ``model.safetensors``,
            ``config.json`` and a model card, ``README.md``. Existing files are replaced. The order of the crops and
            the input size are stored in the header of a ``.safetensors`` file; a ``.pth`` file has no place for them.
        crop_order: See :func:`mmbirefnet.utils.convert_birefnet_state_dict`.
        adapters: File of low-rank adapters to merge into the weights.

    Returns:
        Paths of the written files.

    Raises:
        FileNotFoundError, ImportError, ValueError: If ``src`` cannot be read, or the reference has no such network.
    """
    dst = Path(dst)
    if dst.suffix not in ('', '.pth', '.safetensors') and not dst.is_dir():
        raise ValueError(f'{dst}: must be a .pth or .safetensors file, or a folder (a name without a suffix)')
    loaded = load_birefnet(src, crop_order)
    if adapters is not None:
        loaded = with_adapters(loaded, adapters)
    try:
        _check_head(loaded.state_dict)
        check_fit(loaded.state_dict, infer_model_config(loaded.state_dict))
        state = to_reference_state_dict(loaded.state_dict)
        scores = [] if dst.suffix or adapters else _scores(src, loaded)
    except ValueError as error:
        raise ValueError(f'{src}: {error}') from error
    except (IndexError, RuntimeError) as error:  # parameters that cannot be put together
        raise ValueError(f'{src}: not a complete BiRefNet: parameters of other shapes ({error})') from error
    # Without copies, each part would be saved with the whole tensor.
    state = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    if dst.suffix == '.pth':
        dst.parent.mkdir(parents=True, exist_ok=True)
        with replacing(dst) as temporary:
            torch.save(state, temporary)
        return [dst]
    facts = _facts(loaded)
    if dst.suffix == '.safetensors':
        _write_safetensors(dst, state, facts)
        return [dst]
    card = _model_card(Path(src).name, facts, _training(loaded.meta), scores)
    paths = [dst / name for name in FILES]
    _write_safetensors(paths[0], state, facts)
    config = dict(architectures=['BiRefNet'], model_type='birefnet', **{HEADER_KEY: facts})
    for path, text in zip(paths[1:], (json.dumps(config, indent=2) + '\n', card)):
        with replacing(path) as temporary:
            Path(temporary).write_text(text, encoding='utf-8')
    return paths


def with_adapters(loaded: LoadedBiRefNet, path: str | os.PathLike) -> LoadedBiRefNet:
    """Merge low-rank adapters into the weights; the result is not identified as the released model.

    Raises:
        FileNotFoundError, ValueError: If the adapters cannot be read, or are for another model.
    """
    adapters, scale = read_adapters(path)
    try:
        state_dict = merge_adapters(loaded.state_dict, adapters, scale)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    meta = {key: value for key, value in loaded.meta.items() if key != 'model_name'}
    return loaded._replace(state_dict=state_dict, meta=meta)


def _write_safetensors(path: Path, state: dict[str, Tensor], facts: dict) -> None:
    try:
        from safetensors.torch import save_file
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{path}: writing .safetensors needs the package safetensors. '
            'Fix: pip install safetensors (or "mmbirefnet[optional]")'
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(state, temporary, metadata={'format': 'pt', HEADER_KEY: json.dumps(facts)})


def _facts(loaded: LoadedBiRefNet) -> dict:
    """Metadata that a program needs to run the model."""
    prefix = 'backbone.'
    shapes = {
        key.removeprefix(prefix): tuple(value.shape)
        for key, value in loaded.state_dict.items()
        if key.startswith(prefix)
    }
    facts = dict(backbone=infer_backbone(shapes).name, crop_order=ROWS)
    if 'input_size' in loaded.meta:
        size = loaded.meta['input_size']
        facts['input_size'] = size if size == 'image' else list(size)
    return facts


def _scores(src: str | os.PathLike, loaded: LoadedBiRefNet) -> list[tuple[str, str, float, str]]:
    """Rows of dataset, metric, value and source: from the last validation of the training, or else published."""
    if 'model_name' in loaded.meta:  # converted, not trained
        info = find_info(loaded.meta['model_name'])
        return [
            (score.dataset, metric, value, score.source)
            for score in (info.scores if info else ())
            for metric, value in score.metrics.items()
        ]
    content = read_checkpoint(fetch(src))
    hub = content.get('message_hub', {}) if isinstance(content, Mapping) else {}
    try:
        return [
            ('validation set', name.removeprefix('val/'), float(buffer.current()), 'last validation of the training')
            for name, buffer in hub.get('log_scalars', {}).items()
            if name.startswith('val/') and not name.endswith('time')
        ]
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f'its message_hub, which keeps the scores, is damaged ({error})') from error


def _training(meta: dict) -> list[tuple[str, str]]:
    """Rows of property and value, from the metadata that mmengine saves in the checkpoint of a run."""
    rows = []
    name = re.sub(r'_\d{8}_\d{6}$', '', str(meta.get('experiment_name', '')))  # without the time of its start
    if re.fullmatch(r'[\w.-]+', name):
        rows.append(('config of the training', name))
    for key, title in (('epoch', 'epochs'), ('iter', 'iterations')):
        if isinstance(meta.get(key), int) and meta[key] > 0:
            rows.append((title, str(meta[key])))
    return rows


def _model_card(
    name: str, facts: dict, training: list[tuple[str, str]], scores: list[tuple[str, str, float, str]]
) -> str:
    size = facts.get('input_size')
    sizes = (
        "the image's own size" if size == 'image' else f'{size[1]}x{size[0]} (width x height)' if size else 'unknown'
    )
    rows = [f'| {dataset} | {metric} | {value:.4g} | {source} |' for dataset, metric, value, source in scores]
    table = ['', '## Scores', '', '| dataset | metric | value | source |', '|---|---|---|---|', *rows] if rows else []
    lines = [
        '---',
        'pipeline_tag: image-segmentation',
        'tags:',
        '- BiRefNet',
        '- background-removal',
        '- dichotomous-image-segmentation',
        '---',
        '',
        f'# {name}',
        '',
        'A BiRefNet (Zheng et al., "Bilateral Reference for High-Resolution Dichotomous Image Segmentation", 2024)',
        'in the form of the reference implementation, written by mmbirefnet.',
        '',
        '| property | value |',
        '|---|---|',
        f'| backbone | {facts["backbone"]} |',
        f'| input size of the training | {sizes} |',
        '| crops of the inward reference | by rows, as in the current reference implementation |',
        '| normalization | RGB in [0, 1], mean 0.485, 0.456, 0.406, standard deviation 0.229, 0.224, 0.225 |',
        *(f'| {title} | {value} |' for title, value in training),
        *table,
    ]
    return '\n'.join(lines) + '\n'
