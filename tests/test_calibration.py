"Calibration: against sums by hand, scikit-learn, torchmetrics, simulation and a grid search, for every float type."
import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve

from tlcourse import augment
from tlcourse.calibration import CalibrationError, ece, ece_floor, plot_reliability, reliability, temperature
from tlcourse.core import TLCourseError


def sure(n, classes=10, scale=1.5, seed=0):
    "Probabilities [n, classes] float64, and labels drawn from them: a perfectly calibrated classifier."
    rng = np.random.default_rng(seed)
    p = np.exp(rng.normal(0, scale, size=(n, classes)))
    p /= p.sum(1, keepdims=True)
    return p, np.array([rng.choice(classes, p=o) for o in p])

def by_hand(probs, y, bins):
    "ECE by a loop over bins; (lower, upper], the first from 0."
    conf, right = probs.max(1), probs.argmax(1) == y
    total = 0.
    for b in range(bins):
        inside = (conf > b/bins) & (conf <= (b + 1)/bins) if b else conf <= 1/bins
        if inside.any(): total += abs(right[inside].sum() - conf[inside].sum())
    return total/len(y)

def fails(f, *words):
    with pytest.raises(CalibrationError) as e: f()
    assert '\n' not in str(e.value) and all(w in str(e.value) for w in words), str(e.value)
    assert isinstance(e.value, TLCourseError) and isinstance(e.value, ValueError)


# The expected calibration error ----------------------------------------------------------------------------------

@pytest.mark.parametrize('bins', [1, 7, 10, 15])
def test_ece_is_the_sum_by_hand(bins):
    p, y = sure(300)
    assert ece(p**2/(p**2).sum(1, keepdims=True), y, bins) == pytest.approx(by_hand(p**2/(p**2).sum(1, keepdims=True), y, bins), abs=1e-12)

def test_reliability_is_that_of_sklearn():
    p, y = sure(400)
    t = reliability(p, y)
    right, conf = calibration_curve(p.argmax(1) == y, p.max(1), n_bins=15)
    assert np.allclose(t.accuracy, right) and np.allclose(t.confidence, conf) and t.n.sum() == 400

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16, np.float64, np.float32, np.float16]

@pytest.mark.parametrize('dtype', FLOATS, ids=str)
def test_any_float_type(dtype):
    "1,000 classes too, whose rounded rows sum to 1 less exactly; the oracle sees the same rounded numbers as float64."
    for classes,scale in ((3, 1.), (1000, 3.)):
        p, y = sure(150, classes, scale)
        given = torch.tensor(p).to(dtype) if isinstance(dtype, torch.dtype) else p.astype(dtype)
        seen = given.double().numpy() if isinstance(given, torch.Tensor) else given.astype(float)
        labels = torch.tensor(y) if isinstance(given, torch.Tensor) else y
        assert ece(given, labels, 10) == pytest.approx(by_hand(seen, y, 10), abs=1e-9)
        assert ece_floor(given, 10, draws=20).mean == pytest.approx(ece_floor(p, 10, draws=20).mean, abs=.02)
        logits = np.log(p)*2
        assert temperature(torch.tensor(logits).to(dtype) if isinstance(dtype, torch.dtype) else logits.astype(dtype), labels) == pytest.approx(temperature(logits, y), rel=.05)

def test_a_tensor_on_a_graph_and_fastai_types():
    from fastai.torch_core import TensorBase, TensorCategory
    p, y = sure(50)
    assert ece(TensorBase(torch.tensor(p)).requires_grad_(), TensorCategory(torch.tensor(y))) == pytest.approx(ece(p, y), abs=1e-6)

def test_a_confidence_of_one_is_in_the_last_bin():
    "Five at 1.0, two of them right, five at .95, all right: one bin, .70 against .975. torchmetrics 1.9 makes two bins of them."
    p, y = np.repeat([[1., 0.], [.95, .05]], 5, axis=0), np.array([0, 0, 1, 1, 1, 0, 0, 0, 0, 0])
    assert ece(p, y, 10) == pytest.approx(abs(.7 - .975)) and list(reliability(p, y, 10).n) == [10]
    assert ece(torch.tensor(p).bfloat16(), y, 10) == pytest.approx(.275, abs=.005) and list(reliability(torch.tensor(p).bfloat16(), y, 10).n) == [10]

def test_where_torchmetrics_puts_it():
    "One sure and wrong beside one at .95 and right: .475 is right, by hand |1 - 1.95|/2; torchmetrics adds (1 + .05)/2. To be taken out when they mend it."
    torchmetrics = pytest.importorskip('torchmetrics')
    theirs = torchmetrics.classification.MulticlassCalibrationError(num_classes=2, n_bins=10)
    p, y = torch.tensor([[1., 0.], [.95, .05]]), torch.tensor([1, 0])
    assert ece(p, y, 10) == pytest.approx(.475)
    assert theirs(p, y).item() == pytest.approx(.525, abs=1e-4)

def test_torchmetrics_agrees_where_nothing_is_at_the_edge():
    torchmetrics = pytest.importorskip('torchmetrics')
    p, y = sure(500, 4)
    theirs = torchmetrics.classification.MulticlassCalibrationError(num_classes=4, n_bins=15)(torch.tensor(p), torch.tensor(y)).item()
    assert ece(p, y) == pytest.approx(theirs, abs=1e-6)


# The floor -------------------------------------------------------------------------------------------------------

def test_the_floor_is_that_of_labels_drawn_one_by_one():
    "Against labels drawn from whole rows with `choice`, and the loop over bins."
    p, _ = sure(200)
    rng, eces = np.random.default_rng(1), []
    for _ in range(200): eces.append(by_hand(p, np.array([rng.choice(10, p=o) for o in p]), 10))
    f = ece_floor(p, 10)
    assert f.mean == pytest.approx(np.mean(eces), rel=.05)
    assert f.low == pytest.approx(np.quantile(eces, .025), rel=.25) and f.high == pytest.approx(np.quantile(eces, .975), rel=.15)

def test_at_200_items_in_ten_bins_the_floor_is_about_six_hundredths():
    assert ece_floor(sure(200)[0], 10).mean == pytest.approx(.06, abs=.012)

def test_the_floor_falls_as_the_root_of_n_and_is_zero_for_the_sure():
    a, b = (ece_floor(sure(n)[0], 10).mean for n in (200, 3200))
    assert a/b == pytest.approx(4, rel=.2)
    assert ece_floor(np.eye(3)[[0, 1, 2, 0]], 10) == (0., 0., 0.)

def test_one_bin_has_the_floor_of_a_binomial():
    "n coins of .5: the mean distance from n/2, over n, is sqrt(2/(pi n))/2."
    f = ece_floor(np.full((400, 2), .5), 1, draws=2000)
    assert f.mean == pytest.approx(.5*np.sqrt(2/np.pi/400), rel=.06)

def test_a_calibrated_classifier_is_inside_and_an_overconfident_one_is_not():
    inside = 0
    for seed in range(20):
        p, y = sure(200, seed=seed)
        f = ece_floor(p, 10)
        inside += f.low <= ece(p, y, 10) <= f.high
    assert inside >= 16
    p, y = sure(200)
    q = p**3/(p**3).sum(1, keepdims=True)
    assert ece(q, y, 10) > ece_floor(q, 10).high

def test_the_floor_hangs_on_the_seed_alone():
    p, _ = sure(100)
    state = np.random.get_state()[1].copy()
    assert ece_floor(p) == ece_floor(p) != ece_floor(p, seed=1) and (np.random.get_state()[1] == state).all()


# Temperature -----------------------------------------------------------------------------------------------------

def nll(logits, y, T): return torch.nn.functional.cross_entropy(torch.as_tensor(logits).double()/T, torch.as_tensor(y)).item()

@pytest.mark.parametrize('factor', [.3, 1., 4.])
def test_temperature_is_that_of_a_grid_search(factor):
    p, y = sure(400, 5)
    logits = factor*np.log(p) + 7.
    T = temperature(logits, y)
    grid = np.geomspace(.02, 50, 20001)
    best = grid[np.argmin([nll(logits, y, t) for t in grid[::20]])*20]
    fine = np.linspace(best*.99, best*1.01, 401)
    assert T == pytest.approx(fine[np.argmin([nll(logits, y, t) for t in fine])], rel=1e-3) and T == pytest.approx(factor, rel=.2)

def test_temperature_scaling_keeps_the_classes_and_mends_the_ece():
    p, y = sure(2000)
    over = torch.tensor(4*np.log(p))
    T = temperature(over, y)
    assert ((over/T).argmax(1) == over.argmax(1)).all()
    assert ece(over.softmax(1), y) > .2 > .04 > ece((over/T).softmax(1), y)

def test_huge_logits_do_not_overflow():
    p, y = sure(300, 5)
    assert temperature(1e4*np.log(p).astype(np.float32)/1e3, y) == pytest.approx(temperature(10*np.log(p), y), rel=1e-3)

def test_where_no_temperature_is_best_it_says_so():
    logits = 3*np.eye(4)
    with pytest.warns(UserWarning, match='all items are right'): assert temperature(logits, np.arange(4)) < .02
    with pytest.warns(UserWarning, match='do not tell'): assert temperature(logits, (np.arange(4) + 1) % 4) > 50


# The figure, and what is refused ---------------------------------------------------------------------------------

def test_the_figure_has_the_numbers():
    p, y = sure(300)
    fig = plot_reliability({'one': p, 'other': p**2/(p**2).sum(1, keepdims=True)}, y, bins=5)
    lines = fig.axes[0].lines
    assert len(lines) == 3 and np.allclose(lines[1].get_ydata(), reliability(p, y, 5).accuracy) and 'one from' in fig.alt
    assert plot_reliability(p, y).axes[0].get_legend() is None

def test_what_is_refused():
    p, y = sure(20)
    fails(lambda: ece(np.log(p), y), 'softmax')
    fails(lambda: ece(p[:, :5], y % 5), 'sum to 1')
    fails(lambda: ece(p, y[:5]), '[5]')
    fails(lambda: ece(p, y + .0), 'whole numbers from 0 to 9')
    fails(lambda: ece(p, y + 5), 'whole numbers from 0 to 9')
    fails(lambda: ece(p, y, bins=0), 'bins=0')
    fails(lambda: ece_floor(p, bins=0), 'bins=0')
    fails(lambda: ece(np.full((3, 2), np.nan), [0, 1, 0]), 'probabilities')
    fails(lambda: temperature(p, y), 'look like probabilities')
    fails(lambda: temperature(np.log(p)*np.nan, y), 'NaN')
    fails(lambda: temperature(np.log(p)[0], y), 'shape [n, classes]')

def test_the_old_place_still_leads_here():
    for name,f in (('ece', ece), ('reliability', reliability)):
        with pytest.warns(FutureWarning, match=f'augment.{name} is now tlcourse.calibration.{name}'): assert getattr(augment, name) is f


def test_probabilities_that_were_rounded_on_the_way():
    "numpy has no bfloat16, so what comes from there is float32 whose rows miss 1 by its rounding."
    p = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).mul(3).softmax(1)
    y = torch.arange(200) % 3
    rounded = p.bfloat16().float().numpy()
    assert abs(rounded.sum(1) - 1).max() > 1e-3
    assert ece(rounded, y.numpy()) == pytest.approx(ece(p, y), abs=.01)
