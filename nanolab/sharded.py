"""Beside the line: a model whose weights are shared by the ranks (FSDP2), for models that no single GPU can hold.

    shard(model, mesh)            # in place: of every weight, each rank keeps its rows
    model(inputs, targets)        # as ever, but of all ranks at once: they gather each block's weights when it is used
    whole(model)                  # an ordinary GPT again, to evaluate or to save

A weight is then a DTensor, cut along its first dimension as torch.chunk cuts; its gradient (the sum over ranks) and its
optimizer states are cut in the same places. Every call here that gathers is made by all ranks, in the same order.
torch's own modules for this take a second to import, so that happens where a model is sharded, and nowhere else.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from nanolab.gpt import GPT

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def shard(model: GPT, mesh: "DeviceMesh") -> None:
    """Leave each rank of the mesh its rows of every weight, on its device; backward passes add up all ranks' gradients.

    Block by block, so a model on the processor never has to be whole on a GPU. Embedding and head are one part, that is
    whole from the beginning of forward to the end of backward; of the blocks one or two are at a time.

    >>> shard(model, init_device_mesh("cuda", (8,)))                                     # doctest: +SKIP
    """
    from torch.distributed.fsdp import fully_shard

    for part in (*model.transformer.h, model):
        fully_shard(part, mesh=mesh)
        part.set_gradient_divide_factor(1.0)  # left alone it gives the mean over ranks
        part.set_force_sum_reduction_for_comms(True)  # and a factor of its own would need nccl


def is_sharded(tensor: object) -> bool:
    """Whether a tensor is a DTensor, of which this rank holds a part.

    >>> is_sharded(torch.zeros(2))
    False
    """
    return hasattr(tensor, "full_tensor")


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a sharded tensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def gathered(values: Mapping[str, Any], keep: bool = True, device: torch.device | str | None = None) -> dict[str, Any]:
    """The same values with all sharded tensors whole, on `device`; one after another, and kept only if `keep`.

    >>> gathered({"step": 3}), gathered({"step": 3}, keep=False)
    ({'step': 3}, {})
    """
    found = {}
    for name, value in values.items():
        if is_sharded(value):
            value = value.full_tensor()
        if keep:
            found[name] = value.to(device) if isinstance(value, torch.Tensor) else value
    return found


def whole(model: GPT, keep: bool = True, device: torch.device | str | None = None) -> GPT:
    """An ordinary GPT with the weights of a sharded one as they are now; a model that is not sharded, itself.

    It takes the memory of all weights (4 bytes each) besides the rank's part of them, until it is forgotten; nothing
    that is done with it waits for other ranks. `device`: where it is, by default where the parts are. A rank that has
    no use for it says keep=False: it takes part in the gathering, one weight at a time, and gets the sharded model.

    >>> whole(model) is model                  # on one process                           # doctest: +SKIP
    True
    """
    if not is_sharded(model.lm_head.weight):
        return model
    weights = gathered(model.state_dict(), keep, device)
    if not keep:
        return model
    with torch.device("meta"):  # takes no memory, and no random number
        found = GPT(model.config)
    found.load_state_dict(weights, assign=True)
    return found.eval()


def part_of(tensor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A whole tensor cut as `weight` is, a copy of this rank's part; as it is if the weight is not sharded.

    Only tensors of the weight's shape are cut; others, such as a number of steps, belong to all of it.
    """
    if not is_sharded(weight) or not isinstance(tensor, torch.Tensor) or tensor.shape != weight.shape:
        return tensor
    from torch.distributed.tensor import DTensor

    mesh, rows = weight.device_mesh, len(local(weight))
    start = min(mesh.get_local_rank() * _most_rows(weight), len(tensor))
    mine = tensor[start : start + rows].to(weight.device, copy=True)
    return DTensor.from_local(
        mine, mesh, weight.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


def _most_rows(weight: torch.Tensor) -> int:
    """The rows that each rank has, but for the last ones: torch.chunk's rule."""
    return -(-len(weight) // weight.device_mesh.size())


def on_whole_matrices(
    work: Callable[[torch.Tensor], torch.Tensor], parts: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """work(matrices), where of each matrix this rank has, and gets back, the rows that it has of `weight`.

    Args:
        work: (J, m, n) whole matrices -> the same shape, each matrix by itself. parts: (K, rows, n) of K matrices of
            the weight's shape (m, n). weight: any of them; if it is not sharded, this is work(parts).

    With W ranks, matrix k is done by rank k % W: one exchange brings it there, a second brings its rows back.

    >>> on_whole_matrices(torch.neg, torch.ones(1, 2, 2), torch.ones(2, 2)).sum()
    tensor(-4.)
    """
    if not is_sharded(weight):
        return work(parts)
    group, W = weight.device_mesh.get_group(), weight.device_mesh.size()
    (m, n), (K, rows, _), most = weight.shape, parts.shape, _most_rows(weight)
    J = -(-K // W)  # matrices a rank does; zeros are added until all have as many
    sent = parts.new_zeros(J * W, most, n)
    sent[:K, :rows] = parts
    found = _exchanged(sent.view(J, W, most, n), group).reshape(J, W * most, n)[:, :m]
    back = found.new_zeros(J, W * most, n)
    back[:, :m] = work(found)
    return _exchanged(back.view(J, W, most, n), group).reshape(J * W, most, n)[:K, :rows]


def _exchanged(pieces: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """(J, W, ...) pieces, the w-th for rank w, become the (J, W, ...) that are for this rank, the w-th from rank w."""
    sent = pieces.transpose(0, 1).contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    return received.transpose(0, 1)
