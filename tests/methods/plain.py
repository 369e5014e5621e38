"""Every method as one would write it down from its paper: slow loops, dense labels, no operator of ours.

Each is (net in train mode, x, y, draws) -> the loss to go down. ``draws`` knows what the step draws.
"""

import copy

import torch
import torch.nn.functional as F
from step_inputs import PENALTY, TRAINING_STEPS

from fastait.attacks import Noise
from fastait.runtime.randomness import derive

EPSILON = 8 / 255
EPSILON_Y = 0.5
STEPS = 2
SEED = 3


class Draws:
    """What step ``number`` of seed ``SEED`` draws, and the settings that vary between methods.

    ``before`` is how many images of the batch other processes have that come first.
    """

    def __init__(self, number, step_size, knobs=None, unlabeled=None, before=0):
        self.number = torch.tensor([number])
        self.before = before
        self.step_size = step_size
        self.knobs = {"distance": "cosine", "partners": "reversed", "partner_features": "clean", **(knobs or {})}
        self.unlabeled = unlabeled

    def noise(self, *name, before=None):
        noise = Noise.seeded(derive(SEED, *name), torch.device("cpu"))
        noise.seek(self.number, self.before if before is None else before)
        return noise

    def start(self, x, *term):
        return self.noise("noise", *term).start(x, EPSILON)

    def near(self, x, *term):
        return self.noise("noise", *term).normal(x, 0.001)

    def partner(self, y):
        n = len(y)
        if self.knobs["partners"] == "reversed":
            return torch.arange(n - 1, -1, -1)
        if self.knobs["partners"] == "random":
            return torch.tensor(sorted(range(n), key=self.noise("partners").uniform(n).tolist().__getitem__))
        rank = self.noise("partners").uniform(n, n)
        others = [[j for j in range(n) if y[j] != y[i]] for i in range(n)]
        return torch.tensor([max(o, key=lambda j, i=i: rank[i, j].item()) if o else i for i, o in enumerate(others)])

    def share(self, layers, alpha):
        layer, *rest = self.noise("mixing", before=0).uniform(2 * alpha).tolist()
        return sorted(rest)[alpha - 1], int(layer * layers)


def one_hot(y):
    return F.one_hot(y, 10).double()


def soft_ce(logits, target):
    return -(target * logits.log_softmax(1)).sum(1).mean()


def ball(moved, x):
    return torch.min(torch.max(moved, x - EPSILON), x + EPSILON).clamp(0, 1)


def ascend(net, x, start, loss, draws, clip=ball):
    """STEPS sign steps up ``loss(eval-mode copy, images)``."""
    attacked = copy.deepcopy(net).eval()
    for _ in range(STEPS):
        start = start.detach().requires_grad_()
        (grad,) = torch.autograd.grad(loss(attacked, start), start)
        start = clip(start.detach() + draws.step_size * grad.sign(), x)
    return start.detach()


def up_the_loss(net, x, y, start, draws, clip=ball):
    return ascend(net, x, start, lambda f, z: F.cross_entropy(f(z), y), draws, clip)


def pgd(net, x, y, draws, *term):
    return up_the_loss(net, x, y, draws.start(x, *term), draws)


def cosine(a, b):
    return 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def toward_partners(net, x, y, draws):
    partner = draws.partner(y)
    distance = cosine if draws.knobs["distance"] == "cosine" else lambda a, b: (a - b).pow(2).sum(1)

    def nearness(f, z):
        features = f.features(z)
        target = features if draws.knobs["partner_features"] == "noisy" else f.features(x)
        return -distance(features, target[partner].detach()).mean()

    return ascend(net, x, draws.start(x), nearness, draws)


def away(y, draws):
    """Algorithm 1's labels after STEPS steps."""
    moved, target = one_hot(y), (1 - one_hot(y[draws.partner(y)])) / 9
    for _ in range(STEPS):
        moved = moved - EPSILON_Y * (moved - target)
    return moved


def smoothed(y):
    return one_hot(y) * (1 - EPSILON_Y) + (1 - one_hot(y)) * EPSILON_Y / 9


def natural(net, x, y, draws):
    return F.cross_entropy(net(x), y)


def madry(net, x, y, draws):
    return F.cross_entropy(net(pgd(net, x, y, draws)), y)


def adv_interp(net, x, y, draws):
    return soft_ce(net(toward_partners(net, x, y, draws)), away(y, draws))


def image_org(net, x, y, draws):
    return soft_ce(net(x), away(y, draws))


def image_mixup(net, x, y, draws):
    return soft_ce(net((1 - EPSILON) * x + EPSILON * x[draws.partner(y)]), away(y, draws))


def image_cls(net, x, y, draws):
    return soft_ce(net(pgd(net, x, y, draws)), away(y, draws))


def label_org(net, x, y, draws):
    return soft_ce(net(toward_partners(net, x, y, draws)), one_hot(y))


def label_mixup(net, x, y, draws):
    target = (1 - EPSILON_Y) * one_hot(y) + EPSILON_Y * one_hot(y[draws.partner(y)])
    return soft_ce(net(toward_partners(net, x, y, draws)), target)


def label_smooth(net, x, y, draws):
    return soft_ce(net(toward_partners(net, x, y, draws)), smoothed(y))


def bilateral(net, x, y, draws):
    probabilities = copy.deepcopy(net).eval()(x).softmax(1).detach()
    rows = list(zip(probabilities, y.tolist(), strict=True))
    confusing = torch.tensor([max((k for k in range(10) if k != own), key=p.tolist().__getitem__) for p, own in rows])
    moved = ascend(net, x, draws.start(x), lambda f, z: -F.cross_entropy(f(z), confusing), draws)
    target = torch.zeros(len(y), 10, dtype=torch.float64)
    for row, (p, own) in enumerate(rows):
        v = {k: -p[k].log().item() for k in range(10) if k != own}
        above = {k: v[k] - min(v.values()) + 0.01 for k in v}
        mean = sum(above.values()) / 9
        for k in v:
            target[row, k] = EPSILON_Y / 9 * above[k] / mean
        target[row, own] = 1 - EPSILON_Y
    return soft_ce(net(moved), target)


def transport_plan(cost):
    """Sinkhorn as released: in the logarithm, stopped when the dual settles."""
    m, n = cost.shape
    u, v = torch.zeros(m).to(cost), torch.zeros(n).to(cost)
    for _ in range(100):
        before = u
        u = u + 0.01 * (torch.tensor(1 / m).log() - ((u[:, None] + v - cost) / 0.01).logsumexp(1))
        v = v + 0.01 * (torch.tensor(1 / n).log() - ((u[:, None] + v - cost) / 0.01).logsumexp(0))
        if (u - before).abs().sum() < 0.1:
            break
    return ((u[:, None] + v - cost) / 0.01).exp()


def feature_scatter(net, x, y, draws):
    clean = copy.deepcopy(net).eval()(x).detach()

    def transport(f, z):
        cost = 1 - F.cosine_similarity(clean[:, None], f(z)[None], dim=2)
        return (transport_plan(cost.detach()) * cost).sum()

    return soft_ce(net(ascend(net, x, draws.start(x), transport, draws)), smoothed(y))


def kl(p, q):
    return (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(1).mean()


def up_the_divergence(net, x, start, draws):
    clean = copy.deepcopy(net).eval()(x).detach()
    return ascend(net, x, start, lambda f, z: kl(clean, f(z)), draws), clean


def trades_loss(net, x, moved, y):
    clean = net(x)
    return F.cross_entropy(clean, y) + 6 * kl(clean, net(moved))


def trades(net, x, y, draws):
    return trades_loss(net, x, moved_images("trades", net, x, y, draws), y)


def mart_loss(net, x, moved, y):
    """As the release has it: the likeliest other class by sorting, and a sum over the batch."""
    p, q = net(x).softmax(1), net(moved).softmax(1)
    order = q.argsort(dim=1)[:, -2:]
    other = torch.where(order[:, -1] == y, order[:, -2], order[:, -1])
    rows = torch.arange(len(y))
    boosted = -q[rows, y].log() - (1.0001 - q[rows, other]).log()
    divergence = (p * (p.log() - q.log())).sum(1)
    return boosted.mean() + PENALTY * (divergence * (1 - p[rows, y])).sum() / len(y)


def mart(net, x, y, draws):
    return mart_loss(net, x, moved_images("mart", net, x, y, draws), y)


def moved_images(method, net, x, y, draws):
    """Of those that weights are perturbed for."""
    if method == "madry":
        return pgd(net, x, y, draws)
    if method == "trades":
        return up_the_divergence(net, x, draws.near(x, 1), draws)[0]
    return up_the_loss(net, x, y, draws.near(x, 1), draws)


PERTURBED = {
    "madry": lambda net, x, moved, y: F.cross_entropy(net(moved), y),
    "trades": trades_loss,
    "mart": mart_loss,
}
"""Losses that weights are perturbed for, of images and what ``moved_images`` makes of them."""


def weight_gradients(net, loss):
    """By name, of the weights that are perturbed."""
    weights = {name: p for name, p in net.named_parameters() if p.dim() > 1}
    return dict(zip(weights, torch.autograd.grad(loss, weights.values()), strict=True))


def with_moved_weights(net, gradients, gamma, backward):
    """Call ``backward()`` while the weights of ``net`` are gamma of their length up the gradients."""
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        for name, g in gradients.items():
            w = net.get_parameter(name)
            w += gamma * (w**2).sum().sqrt() / (g**2).sum().sqrt() * g
    backward()
    with torch.no_grad():
        for name in gradients:
            net.get_parameter(name).copy_(before[name])


def fgsm_rs(net, x, y, draws):
    return F.cross_entropy(net(up_the_loss(net, x, y, draws.start(x).clamp(0, 1), draws)), y)


def n_fgsm(net, x, y, draws):
    start = draws.noise("noise").start(x, 2 * EPSILON).clamp(0, 1)
    return F.cross_entropy(net(up_the_loss(net, x, y, start, draws, lambda moved, x: moved.clamp(0, 1))), y)


def input_gradients(net, x, y, **options):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(net(x), y, reduction="sum"), x, **options)[0]


def grad_align(net, x, y, draws):
    here = input_gradients(copy.deepcopy(net).eval(), x, y)
    moved = up_the_loss(net, x, y, x, draws)
    twin = copy.deepcopy(net).eval()
    around = input_gradients(twin, draws.start(x), y, create_graph=True)
    cosines = [1 - F.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in zip(here, around, strict=True)]
    penalty = PENALTY * sum(cosines) / len(y)
    gradients = torch.autograd.grad(penalty, list(twin.parameters()), allow_unused=True)
    pairs = [(p, g) for p, g in zip(net.parameters(), gradients, strict=True) if g is not None]
    zero_with_its_gradient = sum(((p - p.detach()) * g).sum() for p, g in pairs)
    return F.cross_entropy(net(moved), y) + penalty.detach() + zero_with_its_gradient


def nu_at(net, x, y, draws):
    """By the singular values, which torch differentiates."""
    number = draws.number.item()
    weight = PENALTY * min(1, number / (0.9 * TRAINING_STEPS))
    up = draws.noise("noise", 1).start(torch.zeros_like(x), 1.0) >= 0
    start = torch.where(up, x + EPSILON / 2, x - EPSILON / 2).clamp(0, 1)

    def rise(f, z):
        loss = F.cross_entropy(f(z), y)
        return loss if number % 2 == 0 else loss + weight * torch.linalg.svdvals(f(z) - f(x)).sum() / len(y)

    moved = ascend(net, x, start, rise, draws)
    clean = net(x)
    return F.cross_entropy(clean, y) + weight * torch.linalg.svdvals(net(moved) - clean).sum() / len(y)


def uat(net, x, y, draws):
    moved, predictions = up_the_divergence(net, draws.unlabeled, draws.near(draws.unlabeled), draws)
    return_of_labelled = pgd(net, x, y, draws, 1)
    return kl(predictions, net(moved)) + F.cross_entropy(net(return_of_labelled), y)


def mixed_pass(net, x, y, draws, layers, alpha):
    """The network by hand, mixed at one layer, and the loss against both classes."""
    share, layer = draws.share(layers, alpha)
    partner = draws.partner(y)

    def mix(place, h):
        return share * h + (1 - share) * h[partner] if place == layer else h

    h = mix(0, x)
    h = mix(1, net.block1(net.conv1(2 * h - 1)))
    h = net.block3(mix(2, net.block2(h)))
    logits = net.fc(F.relu(net.bn1(h)).mean((2, 3)))
    return share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[partner])


def mixup(net, x, y, draws):
    return mixed_pass(net, x, y, draws, 1, 1)


def manifold_mixup(net, x, y, draws):
    return mixed_pass(net, x, y, draws, 3, 2)


def iat_mixup(net, x, y, draws):
    attacked = pgd(net, x, y, draws, 1)
    return 0.5 * mixed_pass(net, x, y, draws, 1, 1) + 0.5 * mixed_pass(net, attacked, y, draws, 1, 1)


def iat_manifold_mixup(net, x, y, draws):
    attacked = pgd(net, x, y, draws, 1)
    return 0.5 * mixed_pass(net, x, y, draws, 3, 2) + 0.5 * mixed_pass(net, attacked, y, draws, 3, 2)
