"""Registries of mmbirefnet: children of mmengine's roots, under the scope ``mmbirefnet``.

Names are written ``mmbirefnet.Name`` in configs whose default scope is ``mmseg``.
"""

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import EVALUATOR as MMENGINE_EVALUATOR
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISUALIZERS as MMENGINE_VISUALIZERS
from mmengine.registry import Registry as MMEngineRegistry

from mmbirefnet.fileio.checkpoint_loading import register_loaders

register_loaders()
# Lets mmengine find configs named mmbirefnet::…, beside a module: the distribution's place is another one where the
# installation is editable.
MODULE2PACKAGE.setdefault('mmbirefnet', 'mmbirefnet.registry')


class Registry(MMEngineRegistry):
    """mmengine's registry, which also finds mmseg's modules without the prefix ``mmseg.``.

    mmengine builds what comes from ``mmbirefnet::…`` configs in the scope ``mmbirefnet``.
    """

    def get(self, key: str):
        return super().get(key) or (None if '.' in key else super().get(f'mmseg.{key}'))


MODELS = Registry('model', parent=MMENGINE_MODELS, locations=['mmbirefnet.models'])
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, locations=['mmbirefnet.datasets'])
DATA_SAMPLERS = Registry('data sampler', parent=MMENGINE_DATA_SAMPLERS, locations=['mmbirefnet.datasets'])
TRANSFORMS = Registry('transform', parent=MMENGINE_TRANSFORMS, locations=['mmbirefnet.datasets.transforms'])
METRICS = Registry('metric', parent=MMENGINE_METRICS, locations=['mmbirefnet.evaluation'])
EVALUATOR = Registry('evaluator', parent=MMENGINE_EVALUATOR, locations=['mmbirefnet.evaluation'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, locations=['mmbirefnet.engine'])
OPTIM_WRAPPERS = Registry('optim_wrapper', parent=MMENGINE_OPTIM_WRAPPERS, locations=['mmbirefnet.engine'])
LOOPS = Registry('loop', parent=MMENGINE_LOOPS, locations=['mmbirefnet.engine'])
VISUALIZERS = Registry('visualizer', parent=MMENGINE_VISUALIZERS, locations=['mmbirefnet.visualization'])
