"""One of the processes of test_distributed.py: a VAE of one's own, with ELBOLoss, wrapped for several processes, has the
loss curve of the same training in one process. Run by torchrun with "ddp" or "fsdp"."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import vaefast

STEPS, BATCH = 20, 16


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(30, 24), nn.ReLU(), nn.Linear(24, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 30))
        self.criterion = vaefast.ELBOLoss()

    def forward(self, x, eps):
        mu, logvar = self.encoder(x).chunk(2, 1)
        z = vaefast.functional.reparameterize(mu, logvar, eps=eps)
        return self.criterion(self.decoder(z), x, mu, logvar)


def curve(wrap, rank, world):
    torch.manual_seed(0)
    model = wrap(Model())
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(STEPS):
        x, eps = torch.rand(BATCH, 30).round(), torch.randn(BATCH, 4)  # the same in every process, which takes its rows
        loss = model(x.chunk(world)[rank], eps.chunk(world)[rank])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().double())
    return torch.stack(losses)


def sharded(model):
    for part in (model.encoder, model.decoder):
        fully_shard(part)
    return fully_shard(model)


dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
parallel = curve({"ddp": DistributedDataParallel, "fsdp": sharded}[sys.argv[1]], rank, world)
dist.all_reduce(parallel)
torch.testing.assert_close(parallel / world, curve(lambda model: model, 0, 1), rtol=1e-5, atol=0)
assert parallel[-1] < 0.98 * parallel[0]
print("same")
dist.barrier()
dist.destroy_process_group()
