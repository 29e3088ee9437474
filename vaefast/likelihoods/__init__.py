"""Likelihoods p(x|z) as small modules. A likelihood interprets a decoder's output. It computes the log-probability of data
in nats, the mean of x, and samples of x."""

from .base import Likelihood
from .bernoulli import Bernoulli, ContinuousBernoulli
from .categorical import Categorical
from .counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from .location_scale import Gaussian, Laplace
from .logistic import DiscretizedLogistic, DiscretizedLogisticMixture
from .registry import NAMES as NAMES
from .registry import by_name

__all__ = [
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "NegativeBinomial",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
    "by_name",
]
