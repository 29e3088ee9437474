"""Whole training steps: how much of one the loss is, and what vaefast makes of it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import vaefast

from .losses import eager, examples
from .measure import Step, medians

BATCH = 128


def mlp() -> vaefast.VAE:
    """The model of pytorch/examples' VAE."""
    return vaefast.mlp_vae((1, 28, 28), latent_dim=20, hidden_dims=(400,))


def convolutional() -> vaefast.VAE:
    return vaefast.conv_vae((1, 32, 32), latent_dim=20)


def hand_written(loss: Callable[..., Tensor]) -> Callable[[vaefast.VAE, Tensor], Tensor]:
    """Sampling and loss as people write them, around the same encoder and decoder."""

    def forward(model: vaefast.VAE, x: Tensor) -> Tensor:
        mu, logvar = model.encode(x)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return loss(model.decode(z), x, mu, logvar)

    return forward


def step_of(build: Callable[[], vaefast.VAE], x: Tensor, forward: Callable[..., Tensor], compiled: bool) -> Step:
    model: nn.Module = build().to(x.device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    run = torch.compile(forward) if compiled else forward

    def step() -> None:
        optimizer.zero_grad()
        run(model, x).backward()
        optimizer.step()

    return step


def train(name: str, build: Callable[[], vaefast.VAE], device: str, compiled: bool, budget: float) -> dict[str, Any]:
    """One row: samples per second, and the loss's share of a step as forward and backward of it alone."""
    side = 28 if name == "mlp" else 32
    x = torch.rand(BATCH, 1, side, side, device=device).round()
    steps = {
        "vaefast": step_of(build, x, lambda model, x: model.loss(x), False),
        "eager": step_of(build, x, hand_written(eager), False),
        "examples": step_of(build, x, hand_written(examples), False),
    }
    if compiled:
        torch.compiler.reset()
        steps["vaefast, compiled"] = step_of(build, x, lambda model, x: model.loss(x), True)
        steps["eager, compiled"] = step_of(build, x, hand_written(eager), True)
    leaves = [torch.randn(BATCH, n, device=device).requires_grad_() for n in (side * side, 20, 20)]
    flat = x.flatten(1)
    alone = {
        f"loss, {key}": lambda f=f: torch.autograd.grad(f(leaves[0], flat, *leaves[1:]), leaves)
        for key, f in (("vaefast", vaefast.ELBOLoss()), ("eager", eager), ("examples", examples))
    }
    wait: Step = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = medians(steps | alone, budget, wait)
    return {
        "model": name,
        "batch": BATCH,
        "samples_per_second": {key: round(1e6 * BATCH / times[key]["median"]) for key in steps},
        "percent_of_step": {
            key: round(100 * times[f"loss, {key}"]["median"] / times[key]["median"], 1)
            for key in ("vaefast", "eager", "examples")
        },
    }
