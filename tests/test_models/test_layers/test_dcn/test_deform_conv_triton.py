"""The Triton kernels against the torch form: on a GPU where there is one, else in Triton's interpreter.

The interpreter is chosen when the kernels are imported, so a process of its own runs this file as a script.
"""

import ctypes
import inspect
import mmap
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from deform_conv_inputs import assert_close, make_inputs, run

from mmbirefnet.models.layers.dcn import torch_backend as deform_conv_torch
from mmbirefnet.models.layers.dcn.backends import LOWEST_TRITON, load_backend
from mmbirefnet.models.layers.dcn.layer import DCNv2

SMALL = dict(n=1, channels=6, out_channels=4, size=(5, 4))
CASES = {
    'two images, two blocks of pixels': dict(SMALL, n=2, size=(9, 8), kernel=(2, 2)),
    'oblong, stride, dilation': dict(SMALL, kernel=(1, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    'several blocks of channels': dict(SMALL, channels=70, out_channels=14, size=(3, 3), kernel=(1, 1), padding=0),
    'groups that cross deform groups': dict(SMALL, groups=2, deform_groups=3, kernel=(2, 1)),
    'far outside': dict(SMALL, spread=6.0),
    'zero offsets, no bias': dict(SMALL, spread=0.0, bias=False),
}
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


try:
    load_backend('triton')
    refusal = ''
except ImportError as error:
    refusal = str(error)
needs_triton = pytest.mark.skipif(bool(refusal), reason=refusal)


def to(tensors, **kwargs):
    return [None if t is None else t.detach().to(**kwargs).requires_grad_() for t in tensors]


def compare_with_torch_form(case, dtype, tolerance):
    """All results of both forms for the same inputs, rounded to ``dtype`` where the kernels read it."""
    from mmbirefnet.models.layers.dcn.triton_backend import modulated_deform_conv2d

    (x, offset, mask, weight, bias), options = make_inputs(**case)
    x, weight, bias = to((x, weight, bias), device=DEVICE, dtype=dtype)
    offset, mask = to((offset, mask), device=DEVICE)
    tensors = [x, offset, mask, weight, bias]
    out = modulated_deform_conv2d(*tensors, *options)
    assert out.dtype == dtype
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    ours = [t.double().cpu() for t in run(modulated_deform_conv2d, tensors, options, grad)]
    exact = to(tensors, device='cpu', dtype=torch.float64)
    theirs = run(deform_conv_torch.modulated_deform_conv2d, exact, options, grad.cpu().double())
    assert_close(ours, theirs, tolerance)


def compare_chunks():
    """Three images of 42 pixels in chunks of 50, and a function of the values of a chunk."""
    from mmbirefnet.models.layers.dcn import triton_backend

    tensors, options = make_inputs(**dict(SMALL, n=3, size=(7, 6)))
    exact = to(tensors, dtype=torch.float64)
    grad = torch.randn(3, 4, 7, 6, generator=torch.Generator().manual_seed(1))
    expected = run(deform_conv_torch.modulated_deform_conv2d, exact, options, grad.double())
    column_bytes, triton_backend.COLUMN_BYTES = triton_backend.COLUMN_BYTES, 50 * 9 * 6 * 4
    tensors = to(tensors, device=DEVICE)
    ours = run(triton_backend.modulated_deform_conv2d, tensors, options, grad.to(DEVICE))
    halves = triton_backend.modulated_deform_conv2d(*tensors, *options, then=lambda values: values[:, ::2] / 2)
    triton_backend.COLUMN_BYTES = column_bytes
    assert_close([t.double().cpu() for t in ours], expected, 1e-5)
    torch.testing.assert_close(halves, ours[0][:, ::2] / 2)


def compare_layers():
    """The layer in float32 and under autocast, where its maps and products have 16 bits."""
    torch.manual_seed(0)
    layer = DCNv2(6, 4, 3, padding=1, backend='triton').to(DEVICE)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.1)
    x = torch.randn(1, 6, 5, 6, device=DEVICE)
    out = layer(x)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        half = layer(x)
    assert half.dtype == torch.bfloat16
    half.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.abs().sum() > 0 for p in layer.parameters())
    layer.backend = 'torch'
    torch.testing.assert_close(out, layer(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(half.float(), layer(x), rtol=0.1, atol=0.05)


def before_unreadable_page(x):
    """A channels-last copy of a map that ends where the readable memory ends."""
    size = 4 * x.numel()
    readable = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = mmap.mmap(-1, readable + mmap.PAGESIZE)
    end = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(pages)) + readable)
    assert ctypes.CDLL(None).mprotect(end, mmap.PAGESIZE, 0) == 0
    copy = torch.frombuffer(pages, dtype=torch.float32, count=x.numel(), offset=readable - size)
    n, channels, height, width = x.shape
    copy = copy.view(n, height, width, channels).permute(0, 3, 1, 2)
    return copy.copy_(x.detach()).requires_grad_()


def compare_at_the_end_of_memory():
    """20 pixels in a block of 32: the other rows of the block read nothing."""
    from mmbirefnet.models.layers.dcn.triton_backend import modulated_deform_conv2d

    tensors, options = make_inputs(**SMALL)
    expected = run(deform_conv_torch.modulated_deform_conv2d, tensors, options)
    tensors[0] = before_unreadable_page(tensors[0])
    assert_close(run(modulated_deform_conv2d, tensors, options), expected, 1e-5)


@needs_triton
@pytest.mark.soak
def test_kernels():
    env = os.environ if DEVICE == 'cuda' else {**os.environ, 'TRITON_INTERPRET': '1'}
    env = {**env, 'PYTHONPATH': os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == f'{len(CASES) + 4} comparisons passed'


def arguments_for_compiler(kernel, arguments, dtype):
    """Signature, constants and known multiples of 16 with which a call of ``kernel`` would be compiled."""
    float32 = ('offset_ptr', 'mask_ptr', 'grad_x_ptr', 'grad_offset_ptr', 'grad_mask_ptr')
    signature, constants, attributes = {}, {}, {}
    for i, name in enumerate(inspect.signature(kernel.fn).parameters):
        if name.endswith('_ptr'):
            signature[name] = '*fp32' if name in float32 else dtype
        elif name.isupper():
            signature[name], constants[(i,)] = 'constexpr', arguments[name]
        else:
            signature[name] = 'i32'
        if name.endswith('_ptr') or name in ('channels', 'deform_channels'):
            attributes[(i,)] = [['tt.divisibility', 16]]
    return signature, constants, attributes


@needs_triton
@pytest.mark.parametrize('name', ['columns_kernel', 'gradients_kernel'])
def test_kernels_compile_for_a_gpu_that_is_not_there(name):
    """For compute capability 9.0 in bfloat16, with accesses of 16 bytes."""
    import triton
    from triton.backends.compiler import GPUTarget

    from mmbirefnet.models.layers.dcn import triton_backend
    from mmbirefnet.models.layers.dcn.geometry import Geometry

    geometry = Geometry((256, 256), (256, 256), (7, 7), (1, 1), (3, 3), (1, 1), 1, 1)
    arguments = triton_backend.launch_arguments(64, geometry) | dict(NEED_X=True, NEED_TAPS=True)
    kernel = getattr(triton_backend, name)
    source = triton.compiler.ASTSource(kernel, *arguments_for_compiler(kernel, arguments, '*bf16'))
    ptx = triton.compile(source, target=GPUTarget('cuda', 90, 32)).asm['ptx']
    assert 'ld.global.v4.b32' in ptx
    assert 'st.global.v4.b32' in ptx
    assert name == 'columns_kernel' or 'add.v4.f32' in ptx


@needs_triton
def test_dtype_and_device_are_checked():
    from mmbirefnet.models.layers.dcn.triton_backend import modulated_deform_conv2d

    tensors, options = make_inputs(**SMALL, dtype=torch.float64)
    with pytest.raises(TypeError, match="float64 maps and torch.float64 weights; backend 'torch' takes float64"):
        modulated_deform_conv2d(*tensors, *options)
    tensors, options = make_inputs(**SMALL)
    with pytest.raises(RuntimeError, match='needs CUDA tensors, got cpu'):
        modulated_deform_conv2d(*tensors, *options)


def test_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, 'triton', None)
    monkeypatch.delitem(sys.modules, 'mmbirefnet.models.layers.dcn.triton_backend', raising=False)
    monkeypatch.delattr('mmbirefnet.models.layers.dcn.triton_backend', raising=False)
    with pytest.raises(ImportError, match="backend 'triton' needs the triton package"):
        DCNv2(4, 4, 3, backend='triton')
    assert DCNv2(4, 4, 3, padding=1)(torch.randn(1, 4, 5, 5)).shape == (1, 4, 5, 5)


def test_triton_that_is_too_old(monkeypatch):
    monkeypatch.setitem(sys.modules, 'triton', SimpleNamespace(__version__='2.1.0'))
    with pytest.raises(ImportError, match=f"backend 'triton' needs.*2.1.0 is installed, {LOWEST_TRITON} or newer"):
        load_backend('triton')


def main():
    for case in CASES.values():
        compare_with_torch_form(case, torch.float32, 1e-5)
    compare_with_torch_form(SMALL, torch.float16, 2e-3)
    compare_with_torch_form(SMALL, torch.bfloat16, 2e-2)
    compare_chunks()
    compare_layers()
    if DEVICE == 'cpu':
        compare_at_the_end_of_memory()
    print(f'{len(CASES) + 4} comparisons passed')


if __name__ == '__main__':
    main()
