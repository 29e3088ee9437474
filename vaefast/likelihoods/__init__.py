"""Likelihoods p(x|z) as small modules. A likelihood interprets a decoder's output. It computes the log-probability of data
in nats, the mean of x, and samples of x.

This file is the one list of them: the class, its export, and the name that stands for it in ELBOLoss and on the command
line."""

from .base import Likelihood
from .bernoulli import Bernoulli, ContinuousBernoulli
from .categorical import Categorical
from .counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from .heavy_tailed import LogNormal, StudentT
from .location_scale import Gaussian, Laplace, SquaredError
from .logistic import DiscretizedLogistic
from .logistic_mixture import DiscretizedLogisticMixture
from .multinomial import Multinomial
from .registry import NAMED, by_name

__all__ = [
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "LogNormal",
    "Multinomial",
    "NAMES",
    "NegativeBinomial",
    "Poisson",
    "SquaredError",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "by_name",
]

NAMED.update(
    {
        "bernoulli": Bernoulli,
        "bernoulli_probs": lambda **options: Bernoulli(probs=True, **options),
        "gaussian": Gaussian,
        "laplace": Laplace,
        "mse": SquaredError,
        "l1": lambda **options: Laplace(constant=False, **options),
        "log_normal": LogNormal,
        "continuous_bernoulli": ContinuousBernoulli,
        "discretized_logistic": DiscretizedLogistic,
        "poisson": Poisson,
        "negative_binomial": NegativeBinomial,
        "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomial,
        "multinomial": Multinomial,
        "categorical": Categorical,
    }
)
#: The names that `by_name` knows.
NAMES = tuple(NAMED)
