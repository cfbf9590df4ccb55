"""Registries of mmbirefnet: children of mmengine's root registries with the scope ``mmbirefnet``.

In configs with the default scope ``mmseg``, names are written ``mmbirefnet.Name``.
"""

from mmbirefnet import setup

setup()

from mmengine import registry as roots  # noqa: E402

from mmbirefnet.utils.deprecation import warn_renamed  # noqa: E402

# Former names of registered classes.
RENAMED = {
    'MaskKindHook': 'SoftMaskHook',
    'ReleasedCheckpointHook': 'PretrainedCheckpointHook',
    'SafeCheckpointHook': 'AtomicCheckpointHook',
}


class Registry(roots.Registry):
    """mmengine's registry that also finds modules of mmseg without the prefix ``mmseg.``, and former names.

    mmengine builds configs named ``mmbirefnet::…`` in the scope ``mmbirefnet``.
    """

    def get(self, key: str):
        scope, dot, name = key.rpartition('.')
        if name in RENAMED:
            warn_renamed(key, f'{scope}{dot}{RENAMED[name]}', stacklevel=4)
            key = f'{scope}{dot}{RENAMED[name]}'
        return super().get(key) or (None if '.' in key else super().get(f'mmseg.{key}'))


MODELS = Registry('model', parent=roots.MODELS, locations=['mmbirefnet.models'])
DATASETS = Registry('dataset', parent=roots.DATASETS, locations=['mmbirefnet.datasets'])
DATA_SAMPLERS = Registry('data sampler', parent=roots.DATA_SAMPLERS, locations=['mmbirefnet.datasets'])
TRANSFORMS = Registry('transform', parent=roots.TRANSFORMS, locations=['mmbirefnet.datasets.transforms'])
METRICS = Registry('metric', parent=roots.METRICS, locations=['mmbirefnet.evaluation'])
EVALUATOR = Registry('evaluator', parent=roots.EVALUATOR, locations=['mmbirefnet.evaluation'])
HOOKS = Registry('hook', parent=roots.HOOKS, locations=['mmbirefnet.engine'])
OPTIM_WRAPPERS = Registry('optim_wrapper', parent=roots.OPTIM_WRAPPERS, locations=['mmbirefnet.engine'])
LOOPS = Registry('loop', parent=roots.LOOPS, locations=['mmbirefnet.engine'])
STRATEGIES = Registry('strategy', parent=roots.STRATEGIES, locations=['mmbirefnet.engine'])
VISUALIZERS = Registry('visualizer', parent=roots.VISUALIZERS, locations=['mmbirefnet.visualization'])
