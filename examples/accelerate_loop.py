"""A Hugging Face Accelerate loop that accumulates gradients, with vaefast's loss.

`python -m examples.accelerate_loop` trains, `accelerate launch -m examples.accelerate_loop` does it on every device.

The last micro-batches of an epoch are smaller, or fewer, so the mean of their means is not the mean over samples. Here the
loss is a sum over samples, divided by the number of samples in the update: its gradient is that of the batch in one piece.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import vaefast
from examples.compare import Pair, Side, digits

MICRO_BATCHES = 4  # an update


def before(logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    cross_entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return cross_entropy + kl


after = vaefast.ELBOLoss("bernoulli", reduction="sum")


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encoder(x).chunk(2, 1)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return self.decoder(z), mu, logvar


def update(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Tensor],
    criterion: Callable[..., Tensor] = after,
) -> Tensor:
    """One step of the optimizer on several micro-batches; the mean loss of their samples."""
    count = torch.tensor(sum(len(x) for x in batches), device=accelerator.device)
    samples = accelerator.reduce(count, "sum")  # of all processes
    # backward() divides by the first, and gradients are averaged over the second
    scale = accelerator.gradient_accumulation_steps * accelerator.num_processes / samples
    optimizer.zero_grad()
    total = torch.zeros((), device=accelerator.device)
    for k, x in enumerate(batches, 1):
        with nullcontext() if k == len(batches) else accelerator.no_sync(model):
            recon_x, mu, logvar = model(x)
            loss = criterion(recon_x, x, mu, logvar)
            accelerator.backward(scale * loss)
        total += loss.detach()
    optimizer.step()
    return accelerator.reduce(total, "sum") / samples


def groups(loader: Iterable[list[Tensor]], size: int) -> Iterable[list[Tensor]]:
    batches = (x for (x,) in loader)
    while group := list(islice(batches, size)):
        yield group


def train(criterion: Callable[..., Tensor] = after, epochs: int = 3) -> list[float]:
    """The mean loss of the updates of each epoch."""
    accelerator = Accelerator(gradient_accumulation_steps=MICRO_BATCHES)
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    loader: Any = DataLoader(TensorDataset(digits().flatten(1)), batch_size=16, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    history = []
    for _ in range(epochs):
        losses = [update(accelerator, model, optimizer, g, criterion) for g in groups(loader, MICRO_BATCHES)]
        history.append(float(torch.stack(losses).mean()))
    return history


def pairs() -> list[Pair]:
    def make(criterion: Callable[..., Tensor]) -> Side:
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=MICRO_BATCHES)
        model = VAE()
        module, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), 1e-3))
        return Side(model, lambda x: update(accelerator, module, optimizer, x.split(16), criterion))

    change = '`ELBOLoss("bernoulli", reduction="sum")`, 4 micro-batches a step'
    return [Pair("Accelerate loop", "accelerate", change, make(before), make(after), digits().flatten(1))]


if __name__ == "__main__":
    for epoch, loss in enumerate(train(), 1):
        PartialState().print(f"epoch {epoch}: loss {loss:.2f} nats per sample")
