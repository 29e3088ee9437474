"""A VAE of an encoder and a decoder, its importance-sampled bounds, and builders of the usual layers."""

from .builders import conv_vae, mlp_vae
from .importance import Bounds
from .vae import VAE

__all__ = ["VAE", "Bounds", "conv_vae", "mlp_vae"]
