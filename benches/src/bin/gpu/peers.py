"""The same operations by PyTorch, at the shapes and with the protocol of the bench that runs this.

argv[1]: {"reps", "only", "d_state", "vocabulary", "optimiser": {"n_tensors", "len"}, "shapes": [{"name", "batch",
"seqlen", "d_model", "d_inner", "dt_rank", "counts"}]}; counts are rows of each modality. stdout: one JSON object,
{"software", "results", "absent"}. A result is {"of", "name", "shape", "median_ms", "p10_ms", "p90_ms"}: `of` is the
bench's own name of that work.
"""

import json
import sys

import torch
import torch.nn.functional as F

CONFIG = json.loads(sys.argv[1])
DEVICE = torch.device("cuda:0")
BF16 = torch.bfloat16
FLUSH = torch.empty(256 << 20, dtype=torch.uint8, device=DEVICE)
RESULTS, ABSENT = [], []


def noise(*size, scale=1.0, dtype=BF16):
    """Uniform in -scale..scale."""
    return (torch.rand(*size, device=DEVICE) * (2 * scale) - scale).to(dtype)


def milliseconds(call):
    """Five calls to warm up; then each behind a flush of the second-level cache and between two events, sorted."""
    for _ in range(5):
        call()
    pairs = []
    for _ in range(CONFIG["reps"]):
        FLUSH.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        pairs.append((begin, end))
    torch.cuda.synchronize()
    return sorted(begin.elapsed_time(end) for begin, end in pairs)


def bench(of, name, shape, make):
    """Times what `make` returns; what is not there on this machine is told, not timed."""
    if CONFIG["only"] and not any(only in of for only in CONFIG["only"]):
        return
    try:
        times = milliseconds(make())
    except Exception as error:  # whatever a library of another version raises
        ABSENT.append({"name": name, "shape": shape, "why": f"{type(error).__name__}: {error}".splitlines()[0]})
        return
    finally:
        torch.cuda.empty_cache()
    at = lambda share: times[int((len(times) - 1) * share + 0.5)]
    times = {"median_ms": at(0.5), "p10_ms": at(0.1), "p90_ms": at(0.9)}
    RESULTS.append({"of": of, "name": name, "shape": shape, **times})


def projection(shape, name, n_in, n_out, x_width):
    """Dense and grouped products over the same rows, forward and the two gradients."""
    n, counts = sum(shape["counts"]), shape["counts"]
    ends = torch.tensor(counts, device=DEVICE).cumsum(0).to(torch.int32)
    spans = [(int(end) - count, int(end)) for count, end in zip(counts, ends)]
    x, grad_y = noise(n, x_width)[:, :n_in], noise(n, n_out)
    weights = noise(len(counts), n_out, n_in, scale=0.02)
    y, grad_x, grad_w = grad_y.clone(), torch.empty(n, n_in, dtype=BF16, device=DEVICE), weights.clone()

    def loop(product):
        def call():
            for group, (begin, end) in enumerate(spans):
                product(group, slice(begin, end))

        return lambda: call

    directions = {
        "forward": (
            lambda: torch.matmul(x, weights[0].T, out=y),
            lambda g, rows: torch.matmul(x[rows], weights[g].T, out=y[rows]),
            lambda: torch._grouped_mm(x, weights.transpose(1, 2), offs=ends),
        ),
        "backward input": (
            lambda: torch.matmul(grad_y, weights[0], out=grad_x),
            lambda g, rows: torch.matmul(grad_y[rows], weights[g], out=grad_x[rows]),
            lambda: torch._grouped_mm(grad_y, weights, offs=ends),
        ),
        "backward weights": (
            lambda: torch.matmul(grad_y.T, x, out=grad_w[0]),
            lambda g, rows: torch.matmul(grad_y[rows].T, x[rows], out=grad_w[g]),
            lambda: torch._grouped_mm(grad_y.T, x, offs=ends),
        ),
    }
    for direction, (dense, group, grouped) in directions.items():
        of, suffix = f"grouped {name} {direction}", f"{name} {direction}"
        bench(of, f"dense {suffix}", shape["name"], lambda: dense)
        bench(of, f"a product a group {suffix}", shape["name"], loop(group))
        bench(of, f"torch._grouped_mm {suffix}", shape["name"], lambda: grouped)


def norm(shape):
    n, d = sum(shape["counts"]), shape["d_model"]
    x, residual, grad_y, grad_sum = (noise(n, d) for _ in range(4))
    weight = noise(d).requires_grad_()

    def forward(x):
        total = x + residual
        return total, F.rms_norm(total, (d,), weight, 1e-5)

    def backward():
        leaf = x.clone().requires_grad_()
        outputs = forward(leaf)
        return lambda: torch.autograd.grad(outputs, (leaf, weight), (grad_sum, grad_y), retain_graph=True)

    def without_graph():
        with torch.no_grad():
            forward(x)

    bench("norm + residual forward", "add, rms_norm forward", shape["name"], lambda: without_graph)
    bench("norm + residual backward", "add, rms_norm backward", shape["name"], backward)


def vocabulary(shape):
    n, size = sum(shape["counts"]), CONFIG["vocabulary"]
    targets = torch.randint(size, (n,), device=DEVICE)

    def cross_entropy(dtype):
        def make():
            logits = noise(n, size, scale=4.0, dtype=dtype).requires_grad_()
            return lambda: torch.autograd.grad(F.cross_entropy(logits.float(), targets), logits)

        return make

    def embedding():
        grad = noise(n, shape["d_model"])
        return lambda: torch.ops.aten.embedding_dense_backward(grad, targets, size, -1, False)

    of = "cross entropy forward + backward"
    bench(of, "F.cross_entropy f32, forward + backward", shape["name"], lambda: cross_entropy(torch.float32)())
    bench(of, "F.cross_entropy bf16 logits, forward + backward", shape["name"], lambda: cross_entropy(BF16)())
    bench("embedding backward", "F.embedding backward", shape["name"], embedding)


def optimiser(n_tensors, length):
    def make(dtype):
        weights = [noise(length, dtype=dtype).requires_grad_() for _ in range(n_tensors)]
        for weight in weights:
            weight.grad = noise(length, dtype=dtype)
        return torch.optim.AdamW(weights, weight_decay=0.1, fused=True).step

    def norm():
        grads = [noise(length) for _ in range(n_tensors)]
        return lambda: torch.nn.utils.get_total_norm(grads, foreach=True)

    size = f"{n_tensors * length >> 20} M"
    bench("adamw", "torch.optim.AdamW fused, f32 weights", size, lambda: make(torch.float32))
    bench("adamw", "torch.optim.AdamW fused, bf16 weights", size, lambda: make(BF16))
    bench("global norm", "torch get_total_norm", size, norm)


def sequence_operations(shape):
    """The kernels of mamba_ssm and causal_conv1d, where they are installed. Channels come before positions there."""
    batch, seqlen, d = shape["batch"], shape["seqlen"], shape["d_inner"]
    sequence = lambda width, scale=1.0: noise(batch, seqlen, width, scale=scale).transpose(1, 2)

    def gradients(make):
        def backward():
            call, inputs = make()
            out = call()
            grad = torch.rand_like(out)
            return lambda: torch.autograd.grad(out, inputs, grad, retain_graph=True)

        return lambda: make()[0], backward

    def conv():
        from causal_conv1d import causal_conv1d_fn

        inputs = [sequence(d), noise(d, 4), noise(d)]
        for tensor in inputs:
            tensor.requires_grad_()
        return lambda: causal_conv1d_fn(*inputs, activation="silu"), inputs

    def scan():
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        d_state = CONFIG["d_state"]
        a = -torch.arange(1, d_state + 1, device=DEVICE, dtype=torch.float32).repeat(d, 1)
        inputs = [sequence(d), sequence(d), a, sequence(d_state), sequence(d_state)]
        inputs += [noise(d, dtype=torch.float32), sequence(d), noise(d, dtype=torch.float32) - 3.5]
        inputs = [tensor.contiguous().requires_grad_() for tensor in inputs]
        return lambda: selective_scan_fn(*inputs, delta_softplus=True), inputs

    for name, peer, make in [("conv", "causal_conv1d", conv), ("scan", "mamba_ssm selective_scan", scan)]:
        forward, backward = gradients(make)
        bench(f"{name} forward", f"{peer} forward", shape["name"], forward)
        bench(f"{name} backward", f"{peer} backward", shape["name"], backward)


def main():
    torch.manual_seed(0)
    for shape in CONFIG["shapes"]:
        d_model, d_inner, rank = shape["d_model"], shape["d_inner"], shape["dt_rank"]
        x_dbl = rank + 2 * CONFIG["d_state"]
        projection(shape, "x_proj", d_inner, x_dbl, d_inner)
        projection(shape, "dt_proj", rank, d_inner, x_dbl)
        projection(shape, "in_proj", d_model, 2 * d_inner, d_model)
        projection(shape, "out_proj", d_inner, d_model, d_inner)
        norm(shape)
        vocabulary(shape)
        sequence_operations(shape)
    optimiser(CONFIG["optimiser"]["n_tensors"], CONFIG["optimiser"]["len"])
    software = f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}"
    print(json.dumps({"software": software, "results": RESULTS, "absent": ABSENT}))


main()
