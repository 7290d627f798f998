"""Expected values for tests/model/parity.rs, from PyTorch's nn.LSTM in double precision.

usage: python lstm.py > lstm.json

Weights, inputs and the weights of the loss follow from a formula that the test repeats, so this
file holds nothing but what PyTorch makes of them. Element k of the n-th array of a case is
scale * cos(k * (1 + n / 7) + n).
"""
import json

import torch
import torch.nn as nn

CASES = {
    # name: layers, batch, steps, d_input, d_hidden, bias, initial state
    "one_layer": (1, 3, 6, 5, 7, True, False),
    "one_layer_from_a_state": (1, 3, 6, 5, 7, True, True),
    "three_layers": (3, 2, 5, 4, 9, True, False),
    "three_layers_from_a_state": (3, 2, 5, 4, 9, True, True),
    "one_step": (3, 2, 1, 4, 6, True, True),
    "one_lane": (1, 1, 7, 3, 13, True, True),
    "one_lane_one_step_one_unit": (1, 1, 1, 1, 1, True, True),
    "without_biases": (2, 2, 4, 3, 5, False, True),
    "long": (1, 2, 40, 6, 11, True, True),
}


class Arrays:
    def __init__(self):
        self.count = 0

    def next(self, shape, scale):
        n = self.count
        self.count += 1
        k = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
        return (scale * torch.cos(k * (1 + n / 7) + n)).reshape(shape)


def flat(tensor):
    return [float(f"{value:.9e}") for value in tensor.detach().reshape(-1).tolist()]


def run(layers, batch, steps, d_input, d_hidden, bias, with_state):
    arrays = Arrays()
    lstm = nn.LSTM(d_input, d_hidden, layers, bias=bias, batch_first=True).double()
    for parameter in lstm.parameters():
        parameter.data = arrays.next(parameter.shape, 0.5)
    x = arrays.next((batch, steps, d_input), 1.0).requires_grad_()
    h0 = arrays.next((layers, batch, d_hidden), 0.7).requires_grad_()
    c0 = arrays.next((layers, batch, d_hidden), 0.7).requires_grad_()
    output, (h, c) = lstm(x, (h0, c0) if with_state else None)
    loss = sum((tensor * arrays.next(tensor.shape, 1.0)).sum() for tensor in (output, h, c))
    loss.backward()
    values = {"output": output, "h": h, "c": c, "grad.x": x.grad}
    if with_state:
        values |= {"grad.h0": h0.grad, "grad.c0": c0.grad}
    values |= {f"grad.{name}": parameter.grad for name, parameter in lstm.named_parameters()}
    return {name: flat(value) for name, value in values.items()}


cases = [
    {
        "name": name,
        "layers": case[0],
        "batch": case[1],
        "steps": case[2],
        "d_input": case[3],
        "d_hidden": case[4],
        "bias": case[5],
        "with_state": case[6],
        "values": run(*case),
    }
    for name, case in CASES.items()
]
print("[" + ",\n".join(json.dumps(case) for case in cases) + "]")
