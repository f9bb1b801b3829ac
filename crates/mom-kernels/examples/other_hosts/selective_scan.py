#!/usr/bin/env python3
"""Mamba's selective scan from PyTorch, forward and backward, by mom-kernels' fat binaries and the driver alone.

Nothing is built: `libcuda.so.1` loads `selective_scan_{forward,backward}_bf16.fatbin`, and the structs below are those of
`include/selective_scan.h`. Needs PyTorch, a card of compute capability 8.0 or newer and a driver of CUDA 12.4 or newer.

    python3 selective_scan.py            # compares with a scan in float64, and with mamba_ssm where that is installed

`selective_scan(u, dt, A, B, C, D, z, dt_bias)` is what mamba_ssm calls `selective_scan_fn(..., delta_softplus=True)`, for
bfloat16 activations of shape (batch, seqlen, channels), channels a multiple of 8, and 16 states.
"""
import ctypes
import pathlib
import sys

import torch

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "kernels"
STATES, SAVED_EVERY, CHANNELS_OF_A_BLOCK = 16, 16, 32

u32, u64 = ctypes.c_uint32, ctypes.c_uint64


def struct(name, *fields):
    """A struct of include/selective_scan.h; addresses are u64."""
    flat = [(field, kind) for names, kind in fields for field in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": flat})


ScanInputs = struct(
    "ScanInputs",
    ("row_of_position document_starts bias_offsets", u64),
    ("batch seqlen d_inner d_state n_biases softplus", u32),
    ("u dt z B C A D dt_bias", u64),
    ("u_stride dt_stride z_stride B_stride C_stride chunk", u32),
)
ScanForward = struct(
    "ScanForward", ("in_", ScanInputs), ("initial_state out last_state saved_states out_stride chunks", u64)
)
ScanBackward = struct(
    "ScanBackward",
    ("in_", ScanInputs),
    ("saved_states grad_last_state grad_out grad_u grad_dt grad_z out grad_initial_state", u64),
    ("lent_bc partial_bc partial_a partial_d partial_bias", u64),
    ("grad_out_stride grad_u_stride grad_dt_stride grad_z_stride out_stride n_rows", u32),
    ("chunks", u64),
    ("n_lent unused", u32),
)
ScanSums = struct(
    "ScanSums",
    ("lent_bc partial_bc partial_a partial_d partial_bias grad_B grad_C grad_A grad_D grad_bias", u64),
    ("grad_B_stride grad_C_stride n_rows", u64),
    ("n_blocks n_parts d_inner d_state n_biases n_lent", u32),
)
for kind, size in [(ScanInputs, 136), (ScanForward, 184), (ScanBackward, 280), (ScanSums, 128)]:
    assert ctypes.sizeof(kind) == size, kind

cuda = ctypes.CDLL("libcuda.so.1")


def check(status, what):
    if status != 0:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"{what}: {(text.value or b'?').decode()}")


class Kernel:
    """An entry point of a fat binary. `threads` and `shared` are those of manifest.toml."""

    def __init__(self, module, name, threads, shared=0):
        image = (FOLDER / f"{module}.fatbin").read_bytes()
        self.threads, self.shared, self.name = threads, shared, name
        loaded, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        torch.cuda.current_stream()  # PyTorch makes its context current
        check(cuda.cuModuleLoadData(ctypes.byref(loaded), image), f"loading {module}")
        check(cuda.cuModuleGetFunction(ctypes.byref(self.function), loaded, name.encode()), f"finding {name}")
        if shared:  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            check(cuda.cuFuncSetAttribute(self.function, 8, shared), f"shared memory of {name}")

    def __call__(self, blocks, params):
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(params))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        status = cuda.cuLaunchKernel(
            self.function, blocks, 1, 1, self.threads, 1, 1, self.shared, stream, arguments, None
        )
        check(status, self.name)


KERNELS = {}


def kernel(*of):
    if of not in KERNELS:
        KERNELS[of] = Kernel(*of)
    return KERNELS[of]


def inputs(u, dt, A, B, C, D, z, dt_bias):
    batch, seqlen, d_inner = u.shape
    rows = {"u": u, "dt": dt, "z": z, "B": B, "C": C}
    for name, x in rows.items():
        expected = STATES if name in "BC" else d_inner
        if x.shape != (batch, seqlen, expected) or x.dtype != torch.bfloat16 or not x.is_contiguous():
            raise ValueError(f"{name}: expected contiguous bfloat16 {(batch, seqlen, expected)}, got {x.dtype} {x.shape}")
    for name, x, shape in [("A", A, (d_inner, STATES)), ("D", D, (d_inner,)), ("dt_bias", dt_bias, (d_inner,))]:
        if x.shape != shape or x.dtype != torch.float32 or not x.is_contiguous():
            raise ValueError(f"{name}: expected contiguous float32 {shape}, got {x.dtype} {tuple(x.shape)}")
    if d_inner % 8 or seqlen == 0:
        raise ValueError(f"expected a multiple of 8 channels and a position, got {d_inner} and {seqlen}")
    at = {name: x.data_ptr() for name, x in [*rows.items(), ("A", A), ("D", D), ("dt_bias", dt_bias)]}
    strides = {f"{name}_stride": x.shape[2] * 2 for name, x in rows.items()}  # in bytes
    sizes = {"batch": batch, "seqlen": seqlen, "d_inner": d_inner, "d_state": STATES, "n_biases": 1, "softplus": 1}
    return ScanInputs(**at, **strides, **sizes, chunk=-(-seqlen // 32) * 32)


class SelectiveScan(torch.autograd.Function):
    """y = (scan(u, softplus(dt + dt_bias), A, B, C) + D u) silu(z)"""

    @staticmethod
    def forward(ctx, u, dt, A, B, C, D, z, dt_bias):
        batch, seqlen, d_inner = u.shape
        out = torch.empty_like(u)
        saved = torch.empty(batch, -(-seqlen // SAVED_EVERY), d_inner, STATES, dtype=torch.float32, device=u.device)
        run = kernel("selective_scan_forward_bf16", "selective_scan_forward_bf16_16_full_roomy", 128)
        params = ScanForward(
            in_=inputs(u, dt, A, B, C, D, z, dt_bias),
            out=out.data_ptr(),
            saved_states=saved.data_ptr(),
            out_stride=d_inner * 2,
        )
        run(batch * -(-d_inner // CHANNELS_OF_A_BLOCK), params)
        ctx.save_for_backward(u, dt, A, B, C, D, z, dt_bias, saved)
        return out

    @staticmethod
    def backward(ctx, grad_out):
        u, dt, A, B, C, D, z, dt_bias, saved = ctx.saved_tensors
        batch, seqlen, d_inner = u.shape
        n_rows, n_blocks = batch * seqlen, -(-d_inner // CHANNELS_OF_A_BLOCK)
        grad_out = grad_out.contiguous()
        grads = {name: torch.empty_like(x) for name, x in zip("u dt A B C D z bias".split(), ctx.saved_tensors)}

        def room(*shape):
            return torch.empty(shape, dtype=torch.float32, device=u.device)

        partial = {"bc": room(n_blocks, n_rows, 2 * STATES), "a": room(batch, d_inner, STATES)}
        partial |= {"d": room(batch, d_inner), "bias": room(batch, d_inner)}
        at = {f"partial_{name}": x.data_ptr() for name, x in partial.items()}
        stride = d_inner * 2
        params = ScanBackward(
            in_=inputs(u, dt, A, B, C, D, z, dt_bias),
            saved_states=saved.data_ptr(),
            grad_out=grad_out.data_ptr(),
            **{f"grad_{name}": grads[name].data_ptr() for name in ["u", "dt", "z"]},
            **{f"grad_{name}_stride": stride for name in ["out", "u", "dt", "z"]},
            **at,
            n_rows=n_rows,
        )
        name = "selective_scan_backward_bf16"
        kernel(name, f"{name}_16_full_roomy", 128, 54272)(batch * n_blocks, params)
        sums = ScanSums(
            **at,
            **{f"grad_{name}": grads[name].data_ptr() for name in ["A", "B", "C", "D", "bias"]},
            grad_B_stride=STATES * 2,
            grad_C_stride=STATES * 2,
            n_rows=n_rows,
            n_blocks=n_blocks,
            n_parts=batch,
            d_inner=d_inner,
            d_state=STATES,
            n_biases=1,
        )
        # A thread for each state of A, in whole blocks, then one for each four columns of B's and C's rows.
        blocks = -(-d_inner * STATES // 256) + -(-n_rows * 2 * STATES // 4 // 256)
        kernel(name, "selective_scan_sums_bf16_16", 256)(blocks, sums)
        return tuple(grads[name] for name in "u dt A B C D z bias".split())


def selective_scan(u, dt, A, B, C, D, z, dt_bias):
    return SelectiveScan.apply(u, dt, A, B, C, D, z, dt_bias)


def reference(u, dt, A, B, C, D, z, dt_bias):
    """The same step by step, in the tensors' own type."""
    delta = torch.nn.functional.softplus(dt + dt_bias)
    state, outs = torch.zeros(u.shape[0], u.shape[2], STATES, dtype=u.dtype, device=u.device), []
    for t in range(u.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * A)
        state = decay * state + (delta[:, t] * u[:, t])[..., None] * B[:, t, None, :]
        outs.append((state * C[:, t, None, :]).sum(-1) + D * u[:, t])
    return torch.stack(outs, 1) * torch.nn.functional.silu(z)


def draw(batch, seqlen, d_inner, seed=0):
    torch.manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, device="cuda").bfloat16()

    A = -torch.arange(1, STATES + 1, device="cuda", dtype=torch.float32).repeat(d_inner, 1)
    wide, narrow = (batch, seqlen, d_inner), (batch, seqlen, STATES)
    return [normal(*wide), normal(*wide), A, normal(*narrow), normal(*narrow), torch.randn(d_inner, device="cuda"),
            normal(*wide), torch.randn(d_inner, device="cuda") - 3]  # fmt: skip


def gradients(scan, tensors, weight):
    tensors = [x.detach().clone().requires_grad_() for x in tensors]
    out = scan(*tensors)
    (out * weight.to(out.dtype)).sum().backward()
    return [out.detach(), *(x.grad for x in tensors)]


def relative(got, want):
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def milliseconds(run, repeats=20):
    for _ in range(3):
        run()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats


def main():
    names = ["out", "u", "dt", "A", "B", "C", "D", "z", "dt_bias"]
    worst = 0.0
    for batch, seqlen, d_inner in [(2, 67, 40), (1, 128, 64), (3, 33, 96)]:
        tensors = draw(batch, seqlen, d_inner)
        weight = torch.randn(batch, seqlen, d_inner, device="cuda").bfloat16()
        got = gradients(selective_scan, tensors, weight)
        want = gradients(reference, [x.double() for x in tensors], weight)
        errors = {name: relative(g, w) for name, g, w in zip(names, got, want)}
        print((batch, seqlen, d_inner), {name: f"{error:.1e}" for name, error in errors.items()})
        worst = max(worst, *errors.values())
    # bfloat16 rounds an output by 1.7e-3 of its norm on average.
    if not worst < 4e-3:
        sys.exit(f"an error of {worst:.1e} is more than the rounding of bfloat16 explains")

    tensors = draw(8, 4096, 1536)
    weight = torch.randn(8, 4096, 1536, device="cuda").bfloat16()
    ours = [milliseconds(lambda: selective_scan(*tensors)), milliseconds(lambda: gradients(selective_scan, tensors, weight))]
    print(f"8 x 4096 x 1536: forward {ours[0]:.3f} ms, with the gradients and what PyTorch adds {ours[1]:.3f} ms")
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        print("mamba_ssm is not installed: not compared")
        return

    def mamba(u, dt, A, B, C, D, z, dt_bias):
        turned = [x.transpose(1, 2) for x in (u, dt, B, C, z)]
        out = selective_scan_fn(turned[0], turned[1], A, turned[2], turned[3], D, turned[4], dt_bias, delta_softplus=True)
        return out.transpose(1, 2)

    got, want = gradients(selective_scan, tensors, weight), gradients(mamba, tensors, weight)
    print("beside mamba_ssm", {name: f"{relative(g, w):.1e}" for name, g, w in zip(names, got, want)})
    theirs = [milliseconds(lambda: mamba(*tensors)), milliseconds(lambda: gradients(mamba, tensors, weight))]
    print(f"mamba_ssm: forward {theirs[0]:.3f} ms, with the gradients {theirs[1]:.3f} ms")


if __name__ == "__main__":
    main()
