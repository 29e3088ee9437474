"""The settings of a run: their checks, the model that they build, and whether data fit them."""

import os
from dataclasses import dataclass
from typing import Any

import torch

import vaefast
from vaefast import data, likelihoods


class RunError(ValueError):
    """A run's folder or settings cannot be used. The message says why in one sentence."""


# The command's models have no dimension of classes, a multinomial's mean is no picture, and the plain errors have no
# log p(x), which each run reports.
_NOT_OFFERED = ("categorical", "multinomial", "mse", "l1")
CHOICES: dict[str, tuple[str, ...]] = {
    "likelihood": tuple(name for name in likelihoods.NAMES if name not in _NOT_OFFERED),
    "objective": ("elbo", "iwae"),
    "gradient": ("standard", "stl", "dreg"),
    "model": ("mlp", "conv"),
}


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    data: str = "digits"
    likelihood: str = "bernoulli"
    objective: str = "elbo"
    train_samples: int = 8
    gradient: str = "standard"
    model: str = "mlp"
    latent_dim: int = 16
    hidden_dims: tuple[int, ...] = (400,)
    channels: tuple[int, ...] = (32, 64)
    beta: float = 1.0
    epochs: int = 100
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 0
    num_samples: int = 200

    def build(self, sample_shape: tuple[int, ...]) -> vaefast.VAE:
        try:
            with torch.device("meta"):
                tensors = self._make(sample_shape).state_dict().values()
            needed = sum(t.numel() * t.element_size() for t in tensors)
        except (RuntimeError, OverflowError):  # sizes beyond 64 bits
            needed = 1 << 64
        if needed > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
            raise RunError(f"a model of these sizes needs {needed / 1e9:,.0f} GB, more than the machine's memory")
        return self._make(sample_shape)

    def _make(self, sample_shape: tuple[int, ...]) -> vaefast.VAE:
        likelihood: str | likelihoods.Likelihood = self.likelihood
        if likelihood == "gaussian":
            likelihood = likelihoods.Gaussian(scale=0.3, learn_scale=True)
        elif likelihood == "laplace":
            likelihood = likelihoods.Laplace(scale=0.2, learn_scale=True)
        elif likelihood == "discretized_logistic":
            likelihood = likelihoods.DiscretizedLogistic(levels=17 if self.data == "digits" else 256)
        if self.model == "conv":
            return vaefast.conv_vae(sample_shape, self.latent_dim, self.channels, likelihood, beta=self.beta)
        return vaefast.mlp_vae(sample_shape, self.latent_dim, self.hidden_dims, likelihood, beta=self.beta)


def is_possible(name: str, value: Any) -> bool:
    """Whether a run can have this value of a setting."""
    if name in CHOICES:
        return value in CHOICES[name]
    default = getattr(Config, name, ())
    if isinstance(default, tuple):
        if name == "sample_shape" and not value:
            return False
        return isinstance(value, tuple) and all(type(n) is int and 0 < n < 2**31 for n in value)
    if isinstance(default, float):
        return type(value) in (int, float) and 0 <= value < float("inf") and (name == "beta" or value > 0)
    if type(default) is int:
        return type(value) is int and (-(2**63) <= value < 2**64 if name == "seed" else 0 < value < 2**63)
    return type(value) is type(default) and value != ""


def load_data(config: Config, other: str | None = None) -> data.Dataset:
    """Loads the run's data and splits them. With `other`, loads that file and holds out all of it for the test."""
    dataset = data.load(config.data) if other is None else data.load(other, test_fraction=1.0)
    check_data(dataset, config)
    return dataset


def check_data(dataset: data.Dataset, config: Config) -> None:
    """Raises DataError if the values of the data are outside the support of the run's likelihood."""
    likelihood, x = likelihoods.by_name(config.likelihood), dataset.samples
    if likelihood.integral and (x.dtype is torch.uint8 or bool((x < 0).any() or (x % 1 != 0).any())):
        raise data.DataError(
            f"{dataset.name}: a likelihood of counts needs whole numbers from 0 on, not images or fractions; "
            "save counts as a floating-point or integer .npy array of two dimensions"
        )
    if likelihood.support == (0.0, 1.0) and x.dtype is not torch.uint8:
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > 1:
            raise data.DataError(
                f"{dataset.name}: values run from {low:g} to {high:g}, but a Bernoulli likelihood needs [0, 1]; "
                "scale them, or train with --likelihood gaussian"
            )
