"""The VAE as a module, its importance-sampled bounds, and builders of common architectures."""

from .builders import conv_vae, mlp_vae
from .importance import Bounds
from .vae import VAE

__all__ = ["VAE", "Bounds", "conv_vae", "mlp_vae"]
