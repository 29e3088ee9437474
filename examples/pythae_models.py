"""pythae's VAE, BetaVAE and IWAE with vaefast's loss inside, for pythae's own trainers; `python -m examples.pythae_models`
trains them.

pythae's "bce" takes probabilities, which its decoders end in. Its "mse" is the Gaussian of unit variance without the
constant: vaefast's loss is larger by log(2 pi) / 2 per pixel, and the gradients are the same.

The IWAE of pythae 0.1.2 trains on the right gradient, but the loss that it returns is the mean of -log w_k under the
normalized weights, which is no bound: it is smaller than -log (1/K sum_k w_k), by up to log K. Here it is the bound.
"""

import math
import tempfile
from typing import Any

import pythae.models
import torch
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from torch import Tensor

import vaefast
from examples.compare import Pair, Side, digits, side
from vaefast import functional

# by pythae's names
CRITERIA = {"bce": vaefast.ELBOLoss("bernoulli_probs"), "mse": vaefast.ELBOLoss("gaussian")}


class FusedLoss:
    """The loss of VAE and BetaVAE."""

    def loss_function(
        self: Any, recon_x: Tensor, x: Tensor, mu: Tensor, log_var: Tensor, z: Tensor
    ) -> tuple[Tensor, ...]:
        criterion = CRITERIA[self.model_config.reconstruction_loss]
        loss, parts = criterion(recon_x, x, mu, log_var, beta=getattr(self, "beta", 1.0), return_parts=True)
        return loss, -parts.log_likelihood.mean(), parts.kl.mean()


class VAE(FusedLoss, pythae.models.VAE):
    pass


class BetaVAE(FusedLoss, pythae.models.BetaVAE):
    pass


class IWAE(pythae.models.IWAE):
    """Its samples are (B, K, ...), as pythae has them; only iwae_bound takes (K, B)."""

    def loss_function(self, recon_x: Tensor, x: Tensor, mu: Tensor, log_var: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        likelihood = CRITERIA[self.model_config.reconstruction_loss].likelihood
        x = x.flatten(1).unsqueeze(1).expand_as(recon_x)
        fit = likelihood.log_prob(recon_x, x, batch_dims=2)
        kl = functional.gaussian_log_prob(z, mu, log_var, batch_dims=2) - functional.gaussian_log_prob(z, batch_dims=2)
        return -functional.iwae_bound((fit - kl).t()).mean(), -fit.mean(), kl.mean()


class RightIWAE(pythae.models.IWAE):
    """pythae's IWAE with its gradient and the right value, to compare with."""

    def loss_function(self, recon_x: Tensor, x: Tensor, mu: Tensor, log_var: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        loss, *parts = super().loss_function(recon_x, x, mu, log_var, z)
        with torch.no_grad():
            q, p = torch.distributions.Normal(mu, (0.5 * log_var).exp()), torch.distributions.Normal(0, 1)
            x = x.flatten(1).unsqueeze(1).expand_as(recon_x)
            fit = -torch.nn.functional.binary_cross_entropy(recon_x, x, reduction="none").sum(-1)
            log_w = fit + (p.log_prob(z) - q.log_prob(z)).sum(-1)
            bound = (log_w.logsumexp(1) - math.log(log_w.shape[1])).mean()
        return loss - loss.detach() - bound, *parts


def config(name: str, reconstruction_loss: str = "bce") -> Any:
    options: Any = {"BetaVAE": {"beta": 4.0}, "IWAE": {"number_samples": 5}}.get(name, {})
    make = getattr(pythae.models, f"{name}Config")
    return make(input_dim=(1, 8, 8), latent_dim=8, reconstruction_loss=reconstruction_loss, **options)


def train(model: pythae.models.BaseAE, folder: str, epochs: int = 1) -> TrainingPipeline:
    """pythae's pipeline with pythae's trainer, on the digits; the model is saved in `folder`."""
    options = BaseTrainerConfig(output_dir=folder, num_epochs=epochs, learning_rate=1e-3, no_cuda=True)
    pipeline = TrainingPipeline(model, options)
    pipeline(digits())
    return pipeline


def pairs() -> list[Pair]:
    def make(model: pythae.models.BaseAE) -> Side:
        return side(model, lambda x: model({"data": x}).loss)

    changes = {"VAE": "`ELBOLoss` in `loss_function`"}
    changes |= {"BetaVAE": changes["VAE"], "IWAE": "`iwae_bound` in `loss_function`"}
    return [
        Pair(
            f"pythae {name}",
            "pythae",
            change,
            make(getattr(pythae.models, name)(config(name))),
            make(globals()[name](config(name))),
            digits(),
            reference=make(RightIWAE(config(name))) if name == "IWAE" else None,
        )
        for name, change in changes.items()
    ]


if __name__ == "__main__":
    for kind in (VAE, BetaVAE, IWAE):
        with tempfile.TemporaryDirectory() as folder:
            model = kind(config(kind.__name__))
            train(model, folder, epochs=3)
            print(f"{kind.__name__}: loss {model.eval()({'data': digits()}).loss:.2f} nats per sample")
