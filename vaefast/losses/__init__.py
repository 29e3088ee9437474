"""The losses as modules."""

from .elbo import ELBOLoss
from .iwae import IWAELoss

__all__ = ["ELBOLoss", "IWAELoss"]
