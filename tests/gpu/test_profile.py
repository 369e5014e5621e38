"""What a profile makes of a trace: categories by operator and by name, gaps, and the names that a replay is read by."""

import json

import pytest
import step_profile as p


def op(name, start, duration, thread=1):
    return {"ph": "X", "cat": "cpu_op", "name": name, "ts": start, "dur": duration, "tid": thread}


def launch(start, number, thread=1):
    found = {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": start, "dur": 1, "tid": thread}
    return {**found, "args": {"correlation": number}}


def ran(name, start, duration, number, cat="kernel"):
    return {
        "ph": "X",
        "cat": cat,
        "name": name,
        "ts": start,
        "dur": duration,
        "tid": 7,
        "args": {"correlation": number},
    }


EAGER = [
    op("aten::conv2d", 0, 30),
    op("aten::to", 1, 5),
    op("aten::copy_", 2, 3),
    launch(3, 1),
    op("aten::cudnn_convolution", 10, 10),
    launch(11, 2),
    launch(15, 3),
    op("autograd::engine::evaluate_function: CudnnBatchNormBackward0", 40, 9, thread=2),
    op("aten::cudnn_batch_norm_backward", 41, 5, thread=2),
    launch(42, 4, thread=2),
    op("fastait_kernels::linf_step", 50, 5),
    launch(51, 5),
    op("aten::add_", 60, 5),
    launch(61, 6),
    ran("void at::native::vectorized_elementwise_kernel<4, copy>", 100, 10, 1),
    ran("sm90_xmma_fprop_implicit_gemm_bf16bf16", 110, 40, 2),
    ran("void mystery<float>", 150, 10, 3),
    ran("void cudnn::bn_bw_1C11_kernel_new", 170, 20, 4),
    ran("linf_step_kernel", 190, 5, 5),
    ran("void at::native::vectorized_elementwise_kernel<4, add>", 205, 5, 6),
    ran("Memset (Device)", 210, 2, 99, cat="gpu_memset"),
    {"ph": "M", "name": "process_name"},
]


def test_kernels_are_what_launched_them():
    work = p.kernels(EAGER, on_gpu=True)
    assert [p.category(kernel) for kernel in work] == [
        *("copies and casts", "convolutions", "convolutions", "batch norm", "our operators", "elementwise"),
        "copies and casts",
    ]
    found = p.summary(work, 1, {})
    assert found["busy_ms"] == pytest.approx(0.092)
    assert found["span_ms"] == pytest.approx(0.112)
    assert found["gaps_percent"] == pytest.approx(100 * 20 / 112)
    assert found["shares"]["convolutions"] == {"percent": pytest.approx(100 * 50 / 92), "ms": 0.05, "launches": 2}
    assert found["kernels"][0]["name"].startswith("sm90_xmma_fprop")


def test_a_graph_s_kernels_are_known_from_the_eager_step():
    learnt = p.learn(p.kernels(EAGER, on_gpu=True))
    replayed = [launch(0, 1), ran("void mystery<float>", 10, 5, 1), ran("void other<float>", 12, 9, 1)]
    work = p.kernels(replayed, on_gpu=True)
    assert [p.category(kernel, learnt) for kernel in work] == ["convolutions", "other"]
    assert p.busy(work) == 11  # they overlap


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float, int, 512, true, 1, true>", "batch norm"),
        ("void at::native::batch_norm_collect_statistics_channels_last_kernel<>", "batch norm"),
        ("void cudnn::ops::nchwToNhwcKernel<float>", "convolutions"),
        ("sm80_xmma_wgrad_implicit_gemm_indexed_tf32f32", "convolutions"),
        ("ampere_sgemm_128x64_nn", "matrix products"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedSgdMathFunctor>", "optimiser"),
        ("triton_poi_fused_add_relu_3", "fused by the compiler"),
        ("random_start_kernel", "our operators"),
        ("void at::native::reduce_kernel<512, 1>", "reductions"),
        ("Memcpy DtoD (Device -> Device)", "copies and casts"),
        ("void at::native::vectorized_elementwise_kernel<4>", "elementwise"),
    ],
)
def test_names_alone(name, kind):
    assert p.category(p.Kernel(name, 0, 1)) == kind


def test_the_script_runs_here(capsys):
    p.main(["--json", "--little"])
    said = capsys.readouterr()
    document = json.loads(said.out)
    (found,) = document["profiles"] if not p.ON_GPU else document["profiles"][:1]
    assert document["machine"]["device"]
    assert sum(share["percent"] for share in found["shares"].values()) == pytest.approx(100)
    assert "convolutions" in said.err
