"""A LightningModule with vaefast's loss. `python -m examples.lightning_module` trains it with Lightning's Trainer."""

import warnings
from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import vaefast
from examples.compare import Pair, Side, digits, side


def before(logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    cross_entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return (cross_entropy + kl) / len(x)


after = vaefast.ELBOLoss("bernoulli")


class LitVAE(lightning.LightningModule):
    def __init__(self, criterion: Callable[..., Tensor] = after) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64))
        self.criterion = criterion

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        (x,) = batch
        mu, logvar = self.encoder(x).chunk(2, 1)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        loss = self.criterion(self.decoder(z), x, mu, logvar)
        self.log("loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


class History(lightning.Callback):
    """The loss of every batch."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        self.losses.append(outputs["loss"].detach())


def train(model: LitVAE, epochs: int = 3) -> History:
    history = History()
    quiet: dict[str, Any] = dict(enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=epochs, logger=False, callbacks=[history], **quiet)
    trainer.fit(model, DataLoader(TensorDataset(digits().flatten(1)), batch_size=64, shuffle=True))
    return history


def pairs() -> list[Pair]:
    """A step is training_step, backward and the optimizer's step; what the Trainer does around it is the same for both."""

    def make(criterion: Callable[..., Tensor]) -> Side:
        model = LitVAE(criterion)
        return side(model, lambda x: model.training_step([x], 0))

    warnings.filterwarnings("ignore", "You are trying to `self.log", UserWarning)  # there is no Trainer here
    change = '`ELBOLoss("bernoulli")` in `training_step`'
    return [Pair("LightningModule", "lightning", change, make(before), make(after), digits().flatten(1))]


if __name__ == "__main__":
    losses = torch.stack(train(LitVAE(), epochs=3).losses)
    for epoch, each in enumerate(losses.chunk(3), 1):
        print(f"epoch {epoch}: loss {each.mean():.2f} nats per sample")
