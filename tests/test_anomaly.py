"Anomalies: the greedy choice and the distances against plain ones, the radius against the best possible, a strange place found, one line for what cannot be compared."
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from tlcourse.anomaly import AnomalyError, PatchBank, coreset, nearest, places


def rows(n, d=5, seed=0): return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.parametrize('seed', range(4))
def test_coreset_is_the_greedy_choice_and_near_the_best(seed):
    x = rows(12, 2, seed)
    got, d = coreset(x, 4, seed), cdist(x, x)
    want = [got[0]]
    for _ in range(3): want.append(int(d[:, want].min(1).argmax()))
    assert got.tolist() == want and len(set(got)) == 4
    best = min(d[:, list(o)].min(1).max() for o in combinations(range(12), 4))
    assert best <= d[:, got].min(1).max() <= 2*best + 1e-6


def test_coreset_of_all_and_of_equal_rows():
    assert sorted(coreset(rows(7), 7)) == list(range(7)) and sorted(coreset(np.zeros((4, 2)), 4)) == [0, 1, 2, 3]
    assert coreset(rows(9), 3).tolist() == coreset(torch.tensor(rows(9)), 3).tolist()


@pytest.mark.parametrize('n, chunk', [(1, 4096), (50, 7), (50, 4096)])
def test_nearest_is_that_of_a_tree(n, chunk):
    x, bank = rows(n), rows(30, seed=1)
    assert np.abs(nearest(x, bank, chunk) - cKDTree(bank).query(x)[0]).max() < 1e-5
    assert nearest(bank, bank).max() < 2e-3  # float32


def test_places_are_those_of_the_maps():
    a, b = torch.randn(2, 3, 4, 6), torch.randn(2, 5, 2, 3)
    v = places(a, b)
    assert v.shape == (2, 4, 6, 8) and torch.equal(v[..., :3].permute(0, 3, 1, 2), a)
    assert torch.allclose(v[..., 3:].permute(0, 3, 1, 2), torch.nn.functional.interpolate(b, size=(4, 6), mode='bilinear'), atol=1e-6)


def test_bank_against_plain_numpy():
    good, new = np.random.default_rng(0).normal(2, 5, (6, 3, 4, 4)), np.random.default_rng(1).normal(2, 5, (2, 3, 4, 4))
    bank, flat = PatchBank(good, k=96), good.transpose(0, 2, 3, 1).reshape(-1, 3)
    mean, std = flat.mean(0), flat.std(0) + 1e-3*flat.std()
    want = cKDTree((flat - mean)/std).query((new.transpose(0, 2, 3, 1) - mean)/std)[0]
    assert np.abs(bank.map(new) - want).max() < 1e-3 and np.abs(bank.score(new, 1) - want.mean((1, 2))).max() < 1e-3
    assert np.abs(bank.score(new, .01) - want.max((1, 2))).max() < 1e-3
    assert np.abs(bank.map([new]) - bank.map(new)).max() == 0 and bank.score([new, ]).shape == (2,)


def test_channels_count_alike():
    "A channel in other units changes nothing; without scaling it would decide alone."
    rng = np.random.default_rng(0)
    good, new, units = rng.normal(size=(8, 4, 5, 5)), rng.normal(size=(3, 4, 5, 5)), np.array([1, 1000, 1e-2, 5]).reshape(1, 4, 1, 1)
    a, b = PatchBank(good, k=50).map(new), PatchBank(good*units[:, [0, 0, 3, 3]], k=50).map(new*units[:, [0, 0, 3, 3]])
    assert np.abs(a - b).max() < .02


def test_a_strange_place_is_found_and_hidden_by_the_mean():
    rng = np.random.default_rng(0)
    good, new = rng.normal(size=(40, 8, 12, 12)), rng.normal(size=(40, 8, 12, 12))
    new[:20, :, 4, 1] += 3
    bank = PatchBank(good, k=300)
    assert all(np.unravel_index(o.argmax(), o.shape) == (4, 1) for o in bank.map(new[:20]))
    ordered = [np.mean(np.subtract.outer(bank.score(new[:20], s), bank.score(new[20:], s)) > 0) for s in (.005, 1.)]
    assert ordered[0] > .99 and ordered[0] > ordered[1] + .1


def test_a_rare_kind_of_good_place_is_in_the_coreset():
    "One place in 400 is of another kind: farthest-point choice keeps it, a draw of as many hardly ever."
    x = np.r_[rows(399)*.1, np.full((1, 5), 4.)].reshape(100, 2, 2, 5).transpose(0, 3, 1, 2)
    far = [PatchBank(x, k=10, seed=s, core=c).map(x[-1:])[0, -1, -1] for c in (True, False) for s in range(5)]
    assert max(far[:5]) < 1e-2 < 1 < np.median(far[5:])


BANK = PatchBank(np.random.default_rng(0).normal(size=(4, 3, 5, 5)), k=10)

@pytest.mark.parametrize('f, says', [
    (lambda: PatchBank(np.zeros((2, 3))), r'\[n, c, h, w\]'), (lambda: PatchBank(np.zeros((0, 3, 2, 2))), 'empty'),
    (lambda: PatchBank(np.full((2, 3, 2, 2), np.nan)), 'not finite'), (lambda: places(), 'at least one group'),
    (lambda: places(np.zeros((2, 3, 2, 2)), np.zeros((3, 3, 2, 2))), 'same ones'), (lambda: coreset(np.zeros((3, 2)), 4), 'give 1 to 3'),
    (lambda: coreset(np.zeros((3, 2)), 0), 'give 1 to 3'), (lambda: nearest(np.zeros((3, 2)), np.zeros((3, 4))), 'one network'),
    (lambda: BANK.map(np.zeros((1, 3, 4, 4))), 'same groups and size'), (lambda: BANK.score(np.zeros((1, 3, 5, 5)), 0), 'share=0')])
def test_one_line_for_what_cannot_be_compared(f, says):
    with pytest.raises(AnomalyError, match=says) as e: f()
    assert len(str(e.value).splitlines()) == 1 and isinstance(e.value, ValueError)
