"""The rows of `poquelin bench` on PyTorch, by the same protocol.

usage: bench_pytorch.py [--row NAME] [--threads COUNT ...] [--device cuda [--tf32]]

Prints a line of JSON per row, as `poquelin bench --json` does: the median of five rounds of as
many steps as fill 0.4 s, with the better of the thread counts (1 and 2 by default). On a GPU the
loss is read a step later, and a round ends when the device is done; with --tf32 it may round the
factors of float32 products to 10 bits. Needs torch.
"""

import argparse
import json
import statistics
import time

import torch
from torch import nn

V = 76
# name: training or not, B, T, H, L, dropout
ROWS = {
    "step-b8-t50-h64": (True, 8, 50, 64, 1, 0.0),
    "step-b1-h128": (True, 1, 100, 128, 1, 0.0),
    "step-b32-h128": (True, 32, 100, 128, 1, 0.0),
    "step-b64-h128": (True, 64, 100, 128, 1, 0.0),
    "step-b64-h512": (True, 64, 100, 512, 1, 0.0),
    "step-b32-h256-l2": (True, 32, 100, 256, 2, 0.2),
    "step-b256-h1024-l2": (True, 256, 100, 1024, 2, 0.0),
    "generate-1-h128": (False, 1, 1, 128, 1, 0.0),
    "generate-1-h512": (False, 1, 1, 512, 1, 0.0),
    "generate-64-h512": (False, 64, 1, 512, 1, 0.0),
}
# Minutes' work for a CPU: only when asked for.
CPU_ROWS = [row for row in ROWS if row != "step-b256-h1024-l2"]


class CharLstm(nn.Module):
    def __init__(self, hidden, layers, dropout):
        super().__init__()
        self.embedding = nn.Embedding(V, hidden)
        self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True, dropout=dropout)
        self.head = nn.Linear(hidden, V)

    def forward(self, tokens, state=None):
        output, state = self.lstm(self.embedding(tokens), state)
        return self.head(output), state


def tokens(batch, steps, device):
    return (torch.arange(batch * steps) * 7919 % V).view(batch, steps).to(device)


def training_step(batch, steps, hidden, layers, dropout, device):
    model, loss_of = CharLstm(hidden, layers, dropout).to(device), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x = tokens(batch, steps, device)
    latest = torch.zeros(())

    def step():
        nonlocal latest
        optimizer.zero_grad()
        loss = loss_of(model(x)[0].reshape(-1, V), x.reshape(-1))
        if device == "cpu":
            loss.item()
        loss.backward()
        optimizer.step()
        if device != "cpu":
            latest.item()
            latest = loss.detach()

    return step


def writing_step(batch, steps, hidden, layers, dropout, device):
    model = CharLstm(hidden, layers, dropout).to(device).eval()
    latest, state = tokens(batch, steps, device), None

    def step():
        nonlocal latest, state
        with torch.no_grad():
            logits, state = model(latest, state)
            latest = torch.multinomial(torch.softmax(logits[:, 0], dim=1), 1)

    return step


def median_seconds(step, wait, fewest):
    step()
    wait()
    began, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - began < 0.1:
        step()
        calls += 1
    wait()
    calls = max(fewest, round(0.4 * calls / (time.perf_counter() - began)))
    rounds = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(calls):
            step()
        wait()
        rounds.append((time.perf_counter() - began) / calls)
    return statistics.median(rounds)


def measure(name, threads, device):
    training, batch, steps, hidden, layers, dropout = ROWS[name]
    best = None
    wait, fewest = (torch.cuda.synchronize, 10) if device == "cuda" else (lambda: None, 1)
    for count in threads:
        torch.set_num_threads(count)
        make = training_step if training else writing_step
        seconds = median_seconds(make(batch, steps, hidden, layers, dropout, device), wait, fewest)
        if best is None or seconds < best[0]:
            best = (seconds, count)
    seconds, count = best
    return {
        "row": name,
        "implementation": "pytorch",
        "backend": f"{count} threads" if device == "cpu" else device,
        "chars_per_second": batch * steps / seconds,
        "milliseconds": seconds * 1e3,
        "gemm_fraction": None,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--row", choices=ROWS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tf32", action="store_true")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = options.tf32
    torch.backends.cudnn.allow_tf32 = options.tf32
    on_cpu = options.device == "cpu"
    rows = CPU_ROWS if on_cpu else ROWS
    for row in [options.row] if options.row else rows:
        threads = options.threads if on_cpu else [1]
        print(json.dumps(measure(row, threads, options.device)), flush=True)
