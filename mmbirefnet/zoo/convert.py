"""Convert checkpoints of the reference implementation."""

import logging
import os
import re
import reprlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmbirefnet.fileio.atomic import sha256_of
from mmbirefnet.fileio.checkpoints import HEADER_KEY, read_checkpoint, read_header, state_dict_of
from mmbirefnet.imaging.settings import INPUT_SIZES, is_input_size

from .catalog import EARLY_NETWORK, ModelInfo, folder_config, identify
from .crop_order import AUTO, COLUMNS, GRIDS, ORDERS, columns_to_rows, resolve_crop_order
from .download import fetch, print_terms
from .renames import find_reference_family, infer_backbone

PREFIXES = ('module.', '_orig_mod.', 'model.')

# Applied one after another to each key outside the backbone. The reference counts inward references from 5
# (deepest) to 1 (full resolution), and blocks from 4 to 1.
RENAMES = (
    (r'^cls_head\.0\.', 'neck.classifier.'),
    (r'^squeeze_module\.0\.', 'neck.squeeze.'),
    (r'^decoder\.pyramid_neck_x(\d)\.conv\.', lambda match: f'neck.projections.{int(match[1]) - 1}.'),
    (r'^decoder\.decoder_block(\d)\.', r'decode_head.blocks.\1.reconstruction.'),
    (r'^decoder\.lateral_block(\d)\.conv\.', r'decode_head.laterals.\1.'),
    (r'^decoder\.conv_ms_spvn_(\d)\.', r'decode_head.blocks.\1.side.'),
    (r'^decoder\.gdt_convs_(\d)\.0\.', r'decode_head.blocks.\1.outward.conv.'),
    (r'^decoder\.gdt_convs_(\d)\.1\.', r'decode_head.blocks.\1.outward.norm.'),
    (r'^decoder\.gdt_convs_pred_(\d)\.0\.', r'decode_head.blocks.\1.outward.gradient.'),
    (r'^decoder\.gdt_convs_attn_(\d)\.0\.', r'decode_head.blocks.\1.outward.attention.'),
    (r'^decoder\.ipt_blk1\.', 'decode_head.inward.'),
    (r'^decoder\.ipt_blk(\d)\.', lambda match: f'decode_head.blocks.{int(match[1]) - 1}.inward.'),
    (r'^decoder\.conv_out1\.0\.', 'decode_head.conv_logits.'),
    (r'(?<=inward\.)conv1\.', 'conv_in.'),
    (r'\.bn_(in|out)\.', r'.norm_\1.'),
    (r'\.conv_resi\.', '.shortcut.'),
    # The first branch has its own name; later deformable ones are numbered from 0, dilated ones named from 2.
    (r'\.dec_att\.aspp(\d)\.', lambda match: f'.aspp.branches.{int(match[1]) - 1}.'),
    (r'\.dec_att\.aspp_deforms\.(\d)\.', lambda match: f'.aspp.branches.{int(match[1]) + 1}.'),
    (r'(branches\.\d\.)atrous_conv\.', r'\1conv.'),
    (r'(branches\.\d\.)bn\.', r'\1norm.'),
    (r'\.conv\.regular_conv\.', '.conv.'),
    (r'\.conv\.offset_conv\.', '.conv.conv_offset.'),
    (r'\.dec_att\.global_avg_pool\.1\.', '.aspp.pooled.conv.'),
    (r'\.dec_att\.global_avg_pool\.2\.', '.aspp.pooled.norm.'),
    (r'\.dec_att\.conv1\.', '.aspp.merge.conv.'),
    (r'\.dec_att\.bn1\.', '.aspp.merge.norm.'),
)
OURS = ('backbone.', 'neck.', 'decode_head.')
INTEGERS = ('num_batches_tracked', 'relative_position_index')
# The reference has two convolutions here, DCNv2 has one.
OFFSETS = ('.offset_conv.', '.modulator_conv.')

# Convolutions that are followed by a norm, and that norm.
NORMED_CONVS = (
    (r'(.+\.(?:squeeze|reconstruction)\.)conv_(in|out)\.weight', r'\1norm_\2'),
    (r'(.+\.aspp\.(?:branches\.\d|merge|pooled)\.)conv\.weight', r'\1norm'),
    (r'(.+\.outward\.)conv\.weight', r'\1norm'),
)
NORM_EPS = 1e-5

LARGEST_REPEATED_BYTES = 2**31  # of parameters that are views of fewer numbers, such as a single value


def strip_prefixes(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of DistributedDataParallel, ``torch.compile`` and wrappers from all keys.

    Raises:
        ValueError: If a parameter exists with and without a prefix.
    """
    stripped = OrderedDict()
    for key, value in state_dict.items():
        while key.startswith(PREFIXES):
            key = key.split('.', 1)[1]
        if key in stripped:
            raise ValueError(f'{key} occurs twice, with one of the prefixes {", ".join(PREFIXES)} and without')
        stripped[key] = value
    if hasattr(state_dict, '_metadata'):  # also contains names without prefixes, see read_checkpoint
        stripped._metadata = state_dict._metadata
    return stripped


def _rename(key: str) -> str:
    for pattern, name in RENAMES:
        key = re.sub(pattern, name, key)
    return key


def _convert_backbone(source: dict[str, Tensor]) -> dict[str, Tensor]:
    backbone = {key.removeprefix('bb.'): value for key, value in source.items() if key.startswith('bb.')}
    family = find_reference_family(backbone)
    renamed = {family.rename(key): value for key, value in backbone.items()}
    return {f'backbone.{key}': value for key, value in renamed.items() if key is not None}


def _identity_norm(name: str, conv: Tensor) -> dict[str, Tensor]:
    """Parameters of a norm after a convolution that computes the identity in evaluation mode."""
    # Half precision would round the variance to 1.
    ones = conv.new_ones(conv.shape[:1], dtype=torch.promote_types(conv.dtype, torch.float32))
    return {
        f'{name}.weight': ones,
        f'{name}.bias': 0 * ones,
        f'{name}.running_mean': 0 * ones,
        # The norm divides by sqrt(var + eps).
        f'{name}.running_var': ones - NORM_EPS,
        f'{name}.num_batches_tracked': torch.tensor(0),
    }


def _missing_norms(converted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Identity norms for a checkpoint that was trained without norms (batch size 1); empty if it has norms.

    Raises:
        ValueError: If it has only some of the norms.
    """
    norms = {}
    for key, value in converted.items():
        for conv, norm in NORMED_CONVS:
            match = re.fullmatch(conv, key)
            if match is not None:
                norms |= _identity_norm(match.expand(norm), value)
    missing = [key for key in norms if key not in converted]
    if 0 < len(missing) < len(norms):
        raise ValueError(
            f'not a complete BiRefNet checkpoint: {len(missing)} of {len(norms)} parameters of its norms are missing, '
            f'such as {sorted(missing)[:3]} (one trained at batch size 1 has none at all)'
        )
    return norms if missing else {}


def _check_reference(source: dict[str, Tensor]) -> None:
    """Raise ``ValueError`` unless these are parameters of the reference implementation."""
    if any(key.startswith('decode_head.blocks.') for key in source):
        raise ValueError(
            'is already a checkpoint of mmbirefnet (it contains decode_head.blocks…). Fix: use it without conversion'
        )
    if 'decoder.conv_out1.0.weight' not in source or not any(key.startswith('bb.') for key in source):
        raise ValueError(
            'not a BiRefNet checkpoint: expected keys that start with "bb.", "squeeze_module." and "decoder." '
            f'(among them decoder.conv_out1.0.weight), found {len(source)} keys such as {sorted(source)[:4]}'
        )
    deepest, *others = GRIDS
    if deepest not in source and any(key in source for key in others):
        raise ValueError(EARLY_NETWORK)
    for one, other in (OFFSETS, OFFSETS[::-1]):
        alone = [key for key in source if one in key and key.replace(one, other) not in source]
        if alone:
            raise ValueError(
                f'not a complete BiRefNet checkpoint: {alone[0]} has no {alone[0].replace(one, other)} beside it'
            )
    odd = [key for key, value in source.items() if not _is_plain(value) and not key.endswith(INTEGERS)]
    if odd:
        raise ValueError(
            f'{odd[0]} is {source[odd[0]].dtype}, {source[odd[0]].layout}: not one of floating-point numbers'
        )


def _is_plain(value: Tensor) -> bool:
    return value.is_floating_point() and value.layout == torch.strided


def convert_birefnet_state_dict(state_dict: dict[str, Tensor], crop_order: str = AUTO) -> dict[str, Tensor]:
    """Convert parameters of the reference implementation to those of :class:`mmbirefnet.models.BiRefNet`.

    Every operation is differentiable. Besides renaming, offset and modulator of DCNv2 are joined in one convolution,
    the last 1x1 convolution is split into parts for the decoder's map and for the image, and the kernels of the inward
    reference are reordered if the model was trained with crops by columns (:mod:`mmbirefnet.zoo.crop_order`).

    Args:
        state_dict: Keys as released (``bb.``, ``squeeze_module.``, ``decoder.``, ``cls_head.``), with or without the
            prefixes ``module.``, ``_orig_mod.`` and ``model.``.
        crop_order: ``'rows'``, ``'columns'``, or ``'auto'`` to detect the order from the weights. If the detection is
            uncertain, ``'rows'`` is used with a warning.

    Returns:
        Parameters with the keys of this project. If the model was trained at batch size 1 and has no norms, its norms
        are the identity.

    Raises:
        ValueError: If the parameters are not those of a BiRefNet, or ``crop_order`` is unknown.
    """
    source = strip_prefixes(state_dict)
    _check_reference(source)
    if crop_order not in ORDERS:
        crop_order = resolve_crop_order(source, crop_order)
    try:
        if crop_order == COLUMNS:
            source |= {key: columns_to_rows(source[key], grid) for key, grid in GRIDS.items() if key in source}
        return _convert(source)
    except (IndexError, RuntimeError) as error:  # parameters that cannot be concatenated
        raise ValueError(f'not a complete BiRefNet checkpoint: parameters of other shapes ({error})') from error


def _convert(source: dict[str, Tensor]) -> dict[str, Tensor]:
    offset, modulator = OFFSETS
    converted = _convert_backbone(source)
    for key, value in source.items():
        if key.startswith('bb.') or modulator in key:
            continue
        if offset in key:
            value = torch.cat([value, source[key.replace(offset, modulator)]])
        converted[_rename(key)] = value
    unknown = [key for key in converted if not key.startswith(OURS)]
    if unknown:
        raise ValueError(
            'not a BiRefNet checkpoint of a known form: '
            f'{len(unknown)} of {len(source)} keys have no counterpart, such as {sorted(unknown)[:4]}'
        )
    if 'decode_head.inward.conv_out.weight' in converted:
        weight = converted['decode_head.conv_logits.weight']
        inward = converted['decode_head.inward.conv_out.weight'].shape[0]
        # Without copies, each part would be saved with the whole tensor.
        converted['decode_head.conv_logits.weight'] = weight[:, :-inward].clone()
        converted['decode_head.conv_logits_inward.weight'] = weight[:, -inward:].clone()
    return converted | _missing_norms(converted)


class LoadedBiRefNet(NamedTuple):
    """Parameters of a BiRefNet, and metadata of the model."""

    state_dict: dict[str, Tensor]
    """Parameters in the format of this project."""
    meta: dict
    """``meta`` of a checkpoint of this project. For one of the reference implementation, ``crop_order`` and, if known,
    ``model_name`` (of the catalog) and ``input_size``: (height, width), or ``'image'`` for the size of each image."""
    converted: bool
    """Whether the checkpoint was in the format of the reference implementation."""


def is_reference(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether parameters without prefixes are in the format of the reference implementation."""
    return any(key.startswith('bb.') for key in state_dict)


def load_birefnet(path: str | os.PathLike, crop_order: str = AUTO, *, hash_file: bool = False) -> LoadedBiRefNet:
    """Read a BiRefNet from a checkpoint of this project or of the reference implementation.

    Args:
        path: Checkpoint, a folder from Hugging Face, or the name of a model, see
            :func:`mmbirefnet.zoo.download.fetch`.
        crop_order: See :func:`convert_birefnet_state_dict`; only for checkpoints of the reference implementation.
        hash_file: Whether to store the SHA-256 of the file in the meta as ``source_sha256``, and to identify the model
            by it.

    Raises:
        FileNotFoundError, ImportError, ValueError: As in :func:`~mmbirefnet.fileio.checkpoints.read_checkpoint`.
        ValueError: If it is not a BiRefNet, or its metadata is invalid.
    """
    file = fetch(path)
    content = read_checkpoint(file, mmap=True)
    state = state_dict_of(content, file)
    try:
        _check_memory(state)
        state = strip_prefixes(state)
        if any(key.startswith('decode_head.blocks.') for key in state):
            meta = content.get('meta')
            meta = dict(meta) if isinstance(meta, Mapping) else {}
            _check_facts(meta, 'meta')
            return LoadedBiRefNet(state, meta, False)
    except ValueError as error:
        raise ValueError(f'{file}: {error}') from error
    meta = {}
    if hash_file:
        meta['source_sha256'] = sha256_of(file)
    info = identify(path if Path(path).exists() else file, sha256=meta.get('source_sha256'))
    try:
        meta |= recognize(info, file, state, crop_order)
        return LoadedBiRefNet(convert_birefnet_state_dict(state, meta['crop_order']), meta, True)
    except ValueError as error:
        raise ValueError(f'{file}: {error}') from error


def recognize(info: ModelInfo | None, file: Path, state_dict: dict[str, Tensor], crop_order: str = AUTO) -> dict:
    """Collect the facts about a model of the reference implementation, and log them.

    Args:
        info: The released model that the file is named after, if any.
        file: File of the parameters.
        state_dict: Its parameters, without prefixes.
        crop_order: See :func:`convert_birefnet_state_dict`.

    Returns:
        ``crop_order`` and, if known, ``model_name`` and ``input_size``, as in :class:`LoadedBiRefNet`.

    Raises:
        ValueError: If it is not a BiRefNet of the reference implementation, or the facts are impossible.
    """
    _check_reference(state_dict)
    try:
        info = _same_backbone(info, state_dict, file)
        if info is not None:
            print_log(f'{file}: recognized as {info.name}', 'current')
            print_terms(info)
        facts = _known_facts(info, file)
        return facts | dict(crop_order=resolve_crop_order(state_dict, crop_order, facts.get('crop_order'), str(file)))
    except (IndexError, KeyError, RuntimeError) as error:
        raise ValueError(f'not a complete BiRefNet checkpoint: parameters of other shapes ({error})') from error


def _same_backbone(info: ModelInfo | None, state: dict[str, Tensor], file: Path) -> ModelInfo | None:
    """Return ``info`` if its backbone is that of the file, else ``None`` with a warning."""
    if info is None:
        return None
    prefix = 'backbone.'
    shapes = {key.removeprefix(prefix): tuple(value.shape) for key, value in _convert_backbone(state).items()}
    backbone = infer_backbone(shapes).name
    if backbone == info.backbone:
        return info
    print_log(
        f'{file}: named like {info.name}, whose backbone is {info.backbone}. It has {backbone}, and is taken for a '
        'model that is not known',
        'current',
        logging.WARNING,
    )
    return None


def _check_memory(state: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` if parameters are views that need much more memory in a model than in the file."""
    dense = [value for value in state.values() if value.layout == torch.strided]
    storages = [value.untyped_storage() for value in dense]
    stored = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    claimed = sum(value.nbytes for value in dense)
    if claimed > 2 * stored + LARGEST_REPEATED_BYTES:
        raise ValueError(f'its parameters claim {claimed} bytes, and hold {stored}: views that repeat few numbers')


def _check_facts(meta: dict, place: str) -> None:
    """Raise ``ValueError`` for impossible metadata of a model; ``place`` is the file that contains them."""
    for key, fits, wanted in (
        ('input_size', lambda size: isinstance(size, (str, list, tuple)) and is_input_size(size), INPUT_SIZES),
        ('crop_order', lambda order: isinstance(order, str) and order in ORDERS, ' or '.join(map(repr, ORDERS))),
        ('model_name', lambda name: isinstance(name, str), 'text'),
    ):
        if key in meta and not fits(meta[key]):
            raise ValueError(f'{key} in its {place} is {reprlib.repr(meta[key])}, must be {wanted}')


def _known_facts(info: ModelInfo | None, file: Path) -> dict:
    """Metadata of a model: from the file or the ``config.json`` beside it if we wrote them, else from the catalog."""
    facts = {}
    if info is not None:
        facts = dict(model_name=info.name, input_size=info.input_size, crop_order=info.crop_order)
        facts = {key: value for key, value in facts.items() if value is not None}
    for place, written in (('config.json', folder_config(file.parent).get(HEADER_KEY)), ('header', read_header(file))):
        if isinstance(written, dict):
            written = {key: written[key] for key in ('input_size', 'crop_order') if written.get(key) is not None}
            _check_facts(written, place)
            facts |= written
    return facts


def load_birefnet_state_dict(path: str | os.PathLike, crop_order: str = AUTO) -> dict[str, Tensor]:
    """Return the parameters of :func:`load_birefnet`."""
    return load_birefnet(path, crop_order).state_dict
