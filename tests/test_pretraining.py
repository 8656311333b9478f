"Further steps before the labels: each task is its loss, learns from target items alone what can be learned, and leaves the rest as it was."
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tlcourse.gaps import AdaptationError
from tlcourse.pretraining import further, labeled, masked_words, next_pieces, rotations, through


def fails(f, *words):
    with pytest.raises(AdaptationError) as e: f()
    assert '\n' not in str(e.value) and all(w in str(e.value) for w in words), str(e.value)

def part(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())

def points(n=80):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    y = np.arange(n) % 2
    return x + 2*torch.tensor(y)[:, None], np.array(['no', 'yes'])[y]

def goal(): return labeled(*points(), lambda p, x: p(x), 8)


class Tok: mask_token_id, all_special_ids = 3, [0, 1, 2, 3]


# ---------------------------------------------------------------- the steps

def test_a_copy_learns_and_nothing_but_its_weights():
    p = part()
    before, rng = copy.deepcopy(p.state_dict()), torch.get_rng_state()
    q, seen = further(p, goal(), steps=30, lr=1e-2)
    assert len(seen) == 30 and np.mean(seen[-5:]) < .7*seen[0] and torch.equal(rng, torch.get_rng_state())
    for k,v in p.state_dict().items():
        assert torch.equal(v, before[k]) and ('running' not in k and 'tracked' not in k or torch.equal(q.state_dict()[k], v))
    assert not torch.equal(q[0].weight, p[0].weight)


def test_the_seed_decides_and_the_items_do():
    a, b, c = (further(part(), goal(), steps=5, seed=s)[0][0].weight for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    used = []
    def loss(p, head, i, gen): used.extend(i.tolist()); return head(p(points()[0][i])).square().mean()
    g = goal(); g.loss = loss
    further(part(), g, items=[3, 5, 8], steps=9, bs=4)
    assert set(used) == {3, 5, 8} and len(used) == 36


def test_frozen_weights_stay():
    p = part()
    p[0].requires_grad_(False)
    q, _ = further(p, goal(), steps=5, lr=1e-2)
    assert torch.equal(q[0].weight, p[0].weight) and not torch.equal(q[1].weight, p[1].weight)


def test_refusals():
    x, y = points()
    fails(lambda: further(part(), goal(), items=[]), 'no items')
    fails(lambda: further(nn.ReLU(), next_pieces(torch.ones(2, 3, dtype=torch.long))), 'weights that may change')
    fails(lambda: labeled(x, y[:9], None, 8), '80 items and 9 labels')
    fails(lambda: labeled(x, ['a']*80, None, 8), 'one class')
    fails(lambda: rotations(nn.Flatten(), torch.ones(2, 3, 4, 5), 2), 'as high as wide')
    fails(lambda: rotations(nn.Flatten(), torch.ones(2, 16), 2), 'as high as wide')
    class Causal: mask_token_id = None
    fails(lambda: masked_words(nn.Identity(), torch.ones(2, 3), Causal, torch.ones(4, 2)), 'no mask token')


# ---------------------------------------------------------------- the tasks

def test_through_is_the_network_in_evaluation_mode():
    p, (x, _) = part().train(), points()
    assert torch.allclose(through(p, x, bs=7), p.eval()(x), atol=1e-6) and not through(p, x).requires_grad


def test_turns_are_those_of_numpy():
    x = torch.rand(6, 3, 5, 5)
    g = rotations(nn.Flatten(), x, 75)
    got = {}
    def spy(h): got['h'] = h; return h[:, :75]
    g.loss(spy, lambda h: h[:, :4], torch.arange(6), torch.Generator().manual_seed(1))
    k = torch.randint(4, (6,), generator=torch.Generator().manual_seed(1))
    want = [np.rot90(o.numpy(), int(n), (1, 2)).ravel() for o,n in zip(x, k)]
    assert np.allclose(got['h'], want) and g.n == 6


def test_hidden_words_are_hidden_and_no_special_token_is():
    ids = torch.tensor([[1, 4, 5, 6, 2, 0], [1, 7, 7, 4, 5, 2]]).repeat(50, 1)
    fronts = []
    class Front(nn.Module):
        def forward(self, o): fronts.append(o); return nn.functional.one_hot(o, 8).float()
    g = masked_words(Front(), ids, Tok, torch.eye(8), p=.5)
    hidden = fronts[0] != ids[:64]
    assert (fronts[0][hidden] == 3).all() and not torch.isin(ids[:64][hidden], torch.tensor(Tok.all_special_ids)).any()
    assert .4 < hidden.sum()/(~torch.isin(ids[:64], torch.tensor(Tok.all_special_ids))).sum() < .6
    head = g.head()
    assert not head[-1].weight.requires_grad and torch.allclose(head[-1].bias.exp(), torch.bincount(ids.flatten(), minlength=8)[[0, 1, 2, 4, 5, 6, 7]].float())
    assert torch.isfinite(g.loss(nn.Identity(), head, torch.arange(9), None))


def test_next_pieces_is_the_loss_of_transformers():
    pytest.importorskip('transformers')
    from tlcourse.gpt import causal
    lm = causal('small', texts=['one two three'], vocab_size=300)
    ids = torch.randint(2, len(lm.tokenizer), (4, 12))
    assert torch.isclose(next_pieces(ids).loss(lm, None, torch.tensor([0, 2]), None), lm(ids[[0, 2]], labels=ids[[0, 2]]).loss, atol=1e-5)


def test_labels_are_plain_cross_entropy():
    x, y = points()
    p, head = part().eval(), nn.Linear(8, 2)
    i = torch.tensor([0, 3, 9])
    assert torch.isclose(goal().loss(p, head, i, None), F.cross_entropy(head(p(x[i])), torch.tensor(y[i.numpy()] == 'yes').long()))
