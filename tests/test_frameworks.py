"Weights between PyTorch and Keras: outputs agree, what does not fit is named, and nothing is changed by a refusal."
import os, subprocess, sys

import numpy as np
import pytest
import torch
from torch import nn

os.environ.setdefault('KERAS_BACKEND', 'torch') # the default wants TensorFlow
pytest.importorskip('keras', reason='the extra `frameworks` is not installed')

from tlcourse.frameworks import FrameworkError, from_keras, keras, to_keras, torch_rules


def pair(kernel=3, stride=2):
    "The same small network twice, with other statistics than a fresh one has."
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, kernel, stride, kernel//2, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
                        nn.Conv2d(6, 6, kernel, padding=kernel//2, groups=6), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): nn.init.normal_(m.running_mean); nn.init.uniform_(m.running_var, 1e-3, 1); nn.init.normal_(m.weight); nn.init.normal_(m.bias)
    i = keras.Input((16, 16, 3))
    o = keras.layers.Conv2D(6, kernel, stride, padding='same', use_bias=False, name='first')(i)
    o = keras.layers.ReLU()(keras.layers.BatchNormalization()(o))
    o = keras.layers.BatchNormalization()(keras.layers.DepthwiseConv2D(kernel, padding='same')(o))
    return net.eval(), keras.Model(i, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(o)))


def gap(net, model):
    x = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(): return (net(x) - model(x.permute(0, 2, 3, 1), training=False)).abs().max().item()


@pytest.mark.parametrize('kernel', [3, 5])
@pytest.mark.parametrize('stride', [1, 2])
def test_outputs_agree_by_both_rules_and_only_then(kernel, stride):
    net, model = pair(kernel, stride)
    assert gap(net, to_keras(net, torch_rules(model))) < 2e-5
    assert gap(net, to_keras(net, torch_rules(model, epsilon=None))) > 1e-4
    assert (gap(net, to_keras(net, torch_rules(model, padding=False))) > 1e-4) == (stride == 2)


def test_there_and_back():
    net, model = pair()
    other = pair()[0]
    for o in other.parameters(): nn.init.normal_(o)
    from_keras(to_keras(net, torch_rules(model)), other)
    assert all(torch.equal(a, b) for (k, a), b in zip(net.state_dict().items(), other.state_dict().values()))


def test_what_does_not_fit_is_named_and_changes_nothing():
    net, model = pair()
    model = torch_rules(model)
    old = [np.array(v.numpy()) for v in model.weights]
    with pytest.raises(FrameworkError, match='the same head'): to_keras(net[:-1], model)
    wide = nn.Sequential(*net[:-1], nn.Linear(6, 5))
    with pytest.raises(FrameworkError, match=r'\[5, 6\] in PyTorch.*\[6, 4\] in Keras'): to_keras(wide, model)
    assert all(np.array_equal(a, v.numpy()) for a,v in zip(old, model.weights))
    gru = keras.Sequential([keras.Input((3, 2)), keras.layers.GRU(2)])
    with pytest.raises(FrameworkError, match='GRU has no rule'): to_keras(nn.ParameterList([torch.zeros(2)]*len(gru.weights)), gru)


def test_another_backend_is_refused():
    code = "import sys, types; k = types.ModuleType('keras'); k.layers = k.backend = k\nk.backend = types.SimpleNamespace(backend=lambda: 'jax')\n" \
           "sys.modules['keras'] = k\nimport tlcourse.frameworks"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))
    assert done.returncode and 'Keras runs on jax here; set the environment variable KERAS_BACKEND' in done.stderr


def test_without_keras_it_says_so():
    done = subprocess.run([sys.executable, '-c', "import sys; sys.modules['keras'] = None\nimport tlcourse.frameworks"], capture_output=True, text=True)
    assert "tlcourse.frameworks needs Keras; run pip install 'tlcourse[frameworks]'" in done.stderr


def test_the_extra_adds_less_than_150_megabytes():
    from importlib.metadata import distribution, requires
    from packaging.requirements import Requirement
    base = {Requirement(o).name.lower() for o in requires('tlcourse') if 'extra ==' not in o} | {'rich', 'ml-dtypes', 'typing-extensions'} # the others' too
    new = {'keras'} | {r.name.lower() for r in map(Requirement, requires('keras')) if not r.marker or r.marker.evaluate({'extra': ''})} - base
    size = sum(f.locate().stat().st_size for o in new for f in distribution(o).files if f.locate().is_file())
    assert {'h5py', 'optree'} <= new and size < 150e6, size
