"""Expected losses for tests/trainer/training.rs: the notebook's first training steps on PyTorch.

usage: python notebook_steps.py > notebook_steps.json

Embedding -> nn.LSTM -> linear, cross-entropy and AdamW with PyTorch's defaults, the state carried
from chunk to chunk. Weights and tokens follow from formulas that the test repeats: element k of
the n-th parameter is 0.3 * cos(k * (1 + n / 7) + n), token k is (k * k + 3 * k) % V.
"""
import json

import torch
import torch.nn as nn

V, E, H, L, B, T, STEPS = 11, 6, 8, 2, 3, 10, 12

embedding, lstm, head = nn.Embedding(V, E), nn.LSTM(E, H, L, batch_first=True), nn.Linear(H, V)
parameters = [p for module in (embedding, lstm, head) for p in module.parameters()]
for n, parameter in enumerate(parameters):
    k = torch.arange(parameter.numel(), dtype=torch.float64)
    parameter.data = (0.3 * torch.cos(k * (1 + n / 7) + n)).reshape(parameter.shape)
optimiser = torch.optim.AdamW(parameters, lr=0.01)
stream = torch.tensor([(k * k + 3 * k) % V for k in range(B * STEPS * T + 1)])
lanes = STEPS * T
state, losses = None, []
for step in range(STEPS):
    starts = [lane * lanes + step * T for lane in range(B)]
    x = torch.stack([stream[start : start + T] for start in starts])
    y = torch.stack([stream[start + 1 : start + T + 1] for start in starts])
    output, (h, c) = lstm(embedding(x), state)
    state = (h.detach(), c.detach())
    loss = nn.functional.cross_entropy(head(output).reshape(-1, V), y.reshape(-1))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    losses.append(float(f"{loss.item():.9e}"))
print(json.dumps({"losses": losses}))
