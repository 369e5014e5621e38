"""Every numerical tolerance of the test suite, with its reason."""

import torch

# Elementwise arithmetic, relative and absolute: a few units in the last place of values around one.
ELEMENTWISE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 2e-6, "atol": 5e-7},
    torch.float16: {"rtol": 1e-3, "atol": 1e-3},
    torch.bfloat16: {"rtol": 1e-2, "atol": 1e-2},
}

# A reduction over a batch, a row of logits or a feature vector.
REDUCTION = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
}

# fp32 sums over a row of logits or features, as the kernels make them, against fp64 on what the dtype stored; the last
# rounding is to the dtype of the gradient.
ROW = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.float16: {"rtol": 2e-3, "atol": 2e-3},
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 1.6e-2},
}

# How far ours may be behind torch's log_softmax, both against fp64: in the mean error, by as much as an H100's
# exponentials were seen to differ (1.27), and, where 16 bits leave a gradient nothing but a rounding, in the share of
# wrong signs, which chance decides (an H100: 0.219 beside 0.180).
MEAN_ERROR_BESIDE_TORCH = {"cpu": 1.1, "cuda": 1.5}
SIGNS_BEHIND_TORCH = 0.06

# One rounding to fp16, whose smallest numbers are 2^-24 apart, of an fp32 difference.
FP16_ONCE = {"rtol": 2**-10, "atol": 2**-22}

# How far outside the epsilon ball rounding may put an fp32 pixel: origin + epsilon is rounded once, below one.
BALL_FP32 = 2**-24

# A network's gradient in fp32 is exact to about 1e-6 of its largest entries, so the signs of the tiniest can differ
# between two orders of summation: this share of the pixels at most.
SIGN_FLIPS_FP32 = 2e-3

# The loss of a batch, both paths in fp32 from one state: a sum over the batch of values around 2.
LOSS_FP32 = 1e-5

# The largest difference of two fp32 updates of a parameter or a statistic, relative to the update's norm: rounding
# alone in eight of ten steps, and in some a ReLU whose input is zero but for rounding, which lets gradients pass in one
# path. How much that is depends on the processor's order of summation: up to 0.030 on AMD's, 0.032 on Intel's with AMX.
UPDATE_FP32 = {"eight of ten": 3e-4, "each": 4e-2}

# A captured step against the eager one on a GPU, from one state, on deterministic kernels: the same launches, so equal
# but for what a library chooses by workspace or stream. Held on an H100.
GRAPH_FP32 = {"rtol": 1e-4, "atol": 1e-5}

# The share of an evaluation's outcomes that may differ between a GPU and the CPU: an image that stands where its
# network's decision turns, after steps whose smallest gradients have other signs. None of 1,400 on one CPU by oneDNN's
# and by torch's own convolutions, in either type; held on an H100.
OUTCOMES_ACROSS_DEVICES = {torch.float64: 0.005, torch.float32: 0.01}

# The share of an evaluation's outcomes in fp32 that may differ between batch sizes: one of 200.
OUTCOMES_ACROSS_BATCHES = 0.005

# Logits in fp32 against fp64, relative to the largest; in TF32 a convolution alone is wrong by more.
LOGITS_FP32 = 1e-4

# One training step on a GPU against the CPU, from one state with the same noise: how far the updated weights are apart,
# relative to the update, and the losses. In fp32 on one CPU by oneDNN's and by torch's own convolutions: 0.002 for
# methods that attack nothing, up to 0.034 for those that do, whose gradients have other signs where they are nearly
# zero; with convolutions rounded to TF32 0.024, and 0.107 to 0.139. Held on an H100.
UPDATE_ACROSS_DEVICES = {
    torch.float64: {"clean": 1e-3, "attacked": 1e-3},
    torch.float32: {"clean": 8e-3, "attacked": 6e-2},
}
LOSS_ACROSS_DEVICES = {torch.float64: 1e-6, torch.float32: 2e-4}

# The mean loss and the training accuracy of an epoch of 23 steps, a captured run against an eager one: the same
# kernels, in deterministic mode, so that little but what a library chooses by workspace can grow. In 16 bits, and from
# compiled passes, rounding grows for an epoch. Held on an H100. "outcomes" are percent of 287 images.
LOSS_OF_AN_EPOCH = {"fp32": 0.01, "16 bits": 0.05, "compiled": 0.02, "outcomes": 0.1}

# A step in fp64 whose loss is taken in fp32, relative to the largest change of a tensor: some units in fp32's last
# place, and more where BN divides by the spread of four numbers.
FP32_LOSS_FP64_STEP = 1e-5

# Some steps in fp64 whose loss is taken in fp32: how far weights are apart, relative to the way that they have gone. As
# AdamW divides a gradient by its size, the smallest are uncertain.
OPTIMISERS_FP64 = 1e-3

# Mean losses of an evaluation in fp64: the order in which batches are added up.
SUMS_OF_BATCHES = {"rtol": 1e-9, "atol": 1e-12}
