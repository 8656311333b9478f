"Power laws against their own points, memory against bytes counted; and one line for what is wrong."
import numpy as np
import pytest

from tlcourse.scaling import ScalingError, power_law, training_memory


def test_power_law_finds_what_was_put_in():
    x = np.geomspace(1, 1e9, 7)
    np.testing.assert_allclose(power_law(x, 3*x**-.07), (.07, 3))
    np.testing.assert_allclose(power_law([1, 10], [1, 10]), (-1, 1), atol=1e-12)


@pytest.mark.parametrize('x,y', [([1], [1]), ([1, 1], [1, 2]), ([1, 2], [1]), ([0, 1], [1, 2]), ([1, 2], [1, -2]), ([1, np.nan], [1, 2]), ([1, np.inf], [1, 2])])
def test_power_law_says_what_is_wrong(x, y):
    with pytest.raises(ScalingError): power_law(x, y)


def test_memory_is_the_bytes_of_a_step_of_adam():
    import torch
    net = torch.nn.Sequential(torch.nn.Linear(7, 11), torch.nn.Linear(11, 3))
    net[0].requires_grad_(False)
    opt = torch.optim.Adam([p for p in net.parameters() if p.requires_grad])
    net(torch.ones(2, 7)).sum().backward()
    opt.step()
    held = [*net.parameters(), *(p.grad for p in net.parameters() if p.grad is not None)] + [v for s in opt.state.values() for v in s.values() if v.ndim]
    assert training_memory(88, 36, bits=32)*1e9 == pytest.approx(sum(o.numel()*o.element_size() for o in held))


@pytest.mark.parametrize('bad', [(-1, 0), (0, -1), (1, 1, 0), (1, 1, 65)])
def test_memory_says_what_is_wrong(bad):
    with pytest.raises(ScalingError): training_memory(*bad)
