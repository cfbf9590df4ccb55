"""Training steps under bfloat16 autocast."""

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn
from torch._dynamo.utils import counters

from mmbirefnet.engine import BFloat16OptimWrapper


class Model(BaseModel):
    """A linear layer that keeps the dtype of its output."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1, bias=False)
        nn.init.ones_(self.layer.weight)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        output = self.layer(inputs)
        self.dtype = output.dtype
        return dict(loss=output.float().square().mean())


@pytest.mark.parametrize('compiled', [False, True], ids=['plain', 'compiled'])
@pytest.mark.skipif(torch.__version__ < '2.2', reason='torch 2.1 cannot compile a training step')
def test_step_of_a_linear_layer(compiled):
    model = Model()
    wrapper = BFloat16OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.125))
    counters.clear()
    step = torch.compile(model.train_step, backend='eager') if compiled else model.train_step
    losses = step(dict(inputs=torch.tensor([[1.0, 2.0**-10]])), wrapper)
    assert (counters['stats']['unique_graphs'] > 0) == compiled
    assert model.dtype == torch.bfloat16
    assert losses['loss'].item() == 1.0  # 1 + 2**-10 is 1 in bfloat16
    assert model.layer.weight.dtype == torch.float32
    assert model.layer.weight.tolist() == [[0.75, 1 - 2.0**-12]]  # 1 - 0.125 * 2 * input
