"""Which variants of the LSTM earn their place: the small recipe's model in PyTorch, with one each.

usage: variants.py MOLIERE_TXT [--epochs 20] [--seeds 1] [--only NAME ...]

Prints the loss on validation text (the last tenth of the training nine, nats per character) behind
every fifth epoch and the last, with the exponential average of the weights, as the small recipe keeps it.
Mogrifier gating is Melis et al. 2020 (https://arxiv.org/abs/1909.01792), five rounds, whole or
of rank 64. The test part is not read. Needs torch; one thread.
"""

import argparse
import copy
import math
import time

import torch
from torch import nn
from torch.nn import functional as F

LANES, STEPS, HIDDEN, EMBEDDING = 8, 100, 400, 64
DROP_INPUT, DROP_OUTPUT, DROPCONNECT = 0.2, 0.5, 0.5
RATE, WARM_UP, FLOOR, AVERAGE = 4e-3, 200, 0.01, 0.999


class Model(nn.Module):
    def __init__(self, vocabulary, layers=1, residual=False, learned_start=False, rounds=0, rank=None):
        super().__init__()
        self.layers, self.residual, self.rounds = layers, residual, rounds
        self.embedding = nn.Embedding(vocabulary, EMBEDDING)
        self.lstms = nn.ModuleList(
            nn.LSTM(EMBEDDING if index == 0 else HIDDEN, HIDDEN) for index in range(layers)
        )
        self.head = nn.Linear(HIDDEN, vocabulary)
        for lstm in self.lstms:
            nn.init.orthogonal_(lstm.weight_hh_l0)
            nn.init.zeros_(lstm.bias_hh_l0)
            nn.init.zeros_(lstm.bias_ih_l0)
            lstm.bias_ih_l0.data[HIDDEN : 2 * HIDDEN] = 1
        if learned_start:
            self.start = nn.Parameter(torch.zeros(layers, 2, HIDDEN))
        else:
            self.register_buffer("start", torch.zeros(layers, 2, HIDDEN))

        def gate(inputs, outputs):
            if rank is None:
                return nn.Linear(inputs, outputs)
            return nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs))

        widths = [(HIDDEN, EMBEDDING), (EMBEDDING, HIDDEN)]
        self.gates = nn.ModuleList(gate(*widths[index % 2]) for index in range(rounds))

    def begin(self, lanes):
        return [
            tuple(part[None, None].expand(1, lanes, HIDDEN).contiguous() for part in start)
            for start in self.start
        ]

    def forward(self, tokens, state):
        def mask(x, rate):
            return x * F.dropout(torch.ones_like(x[:1]), rate, self.training)

        x, states = mask(self.embedding(tokens), DROP_INPUT), []
        for index, lstm in enumerate(self.lstms):
            recurrent = F.dropout(lstm.weight_hh_l0, DROPCONNECT, self.training)
            weights = [lstm.weight_ih_l0, recurrent, lstm.bias_ih_l0, lstm.bias_hh_l0]
            if index == 0 and self.rounds > 0:
                y, h, c = self.mogrified(x, state[index], weights)
            else:
                y, h, c = torch._VF.lstm(x, state[index], weights, True, 1, 0.0, False, False, False)
            states.append((h.detach(), c.detach()))
            x = x + y if self.residual and index > 0 else y
            x = mask(x, DROP_OUTPUT if index == self.layers - 1 else DROP_INPUT)
        return self.head(x), states

    def mogrified(self, sequence, state, weights):
        """Input and hidden state gate each other in turns before every step."""
        h, c = (part[0] for part in state)
        outputs = []
        for x in sequence:
            for index, gate in enumerate(self.gates):
                if index % 2 == 0:
                    x = 2 * torch.sigmoid(gate(h)) * x
                else:
                    h = 2 * torch.sigmoid(gate(x)) * h
            h, c = torch._VF.lstm_cell(x, (h, c), *weights)
            outputs.append(h)
        return torch.stack(outputs), h[None], c[None]


def score(model, part):
    model.eval()
    total, state = 0.0, model.begin(1)
    with torch.no_grad():
        for first in range(0, len(part) - 1, 500):
            targets = part[first + 1 : first + 501]
            logits, state = model(part[first : first + len(targets), None], state)
            total += F.cross_entropy(logits[:, 0], targets, reduction="sum").item()
    return total / (len(part) - 1)


def train(name, options, train_part, valid_part, vocabulary, epochs, seed):
    torch.manual_seed(seed)
    model = Model(vocabulary, **options)
    average = copy.deepcopy(model)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}], lr=RATE
    )
    lane = (len(train_part) - 1) // LANES
    inputs = train_part[: lane * LANES].view(LANES, lane).t()
    targets = train_part[1 : lane * LANES + 1].view(LANES, lane).t()
    count, step, began = epochs * (lane // STEPS), 0, time.time()
    for epoch in range(1, epochs + 1):
        model.train()
        state, first = None, int(torch.randint(STEPS, (1,)))
        while first + STEPS <= lane:
            share = min(1.0, step / count)
            cosine = FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * share)) / 2
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, step / WARM_UP) * cosine
            start = model.begin(LANES) if state is None else state
            logits, state = model(inputs[first : first + STEPS], start)
            loss = F.cross_entropy(logits.flatten(0, 1), targets[first : first + STEPS].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            share = min(AVERAGE, (1 + step) / (10 + step))
            with torch.no_grad():
                for mean, now in zip(average.parameters(), model.parameters()):
                    mean.lerp_(now, 1 - share)
            first += STEPS
        if epoch % 5 == 0 or epoch == epochs:
            parameters = sum(p.numel() for p in model.parameters())
            print(
                f"{name} (seed {seed}, {parameters:,} parameters) epoch {epoch}: "
                f"valid {score(average, valid_part):.4f}, {time.time() - began:.0f} s",
                flush=True,
            )


VARIANTS = {
    "the recipe": {},
    "learned initial state": {"learned_start": True},
    "Mogrifier": {"rounds": 5},
    "Mogrifier of rank 64": {"rounds": 5, "rank": 64},
    "two layers": {"layers": 2},
    "two layers, residual": {"layers": 2, "residual": True},
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with open(arguments.text, encoding="utf-8") as file:
        text = file.read(100_000)
    symbols = {symbol: index for index, symbol in enumerate(sorted(set(text)))}
    data = torch.tensor([symbols[symbol] for symbol in text])[:90_000]
    for name in arguments.only:
        for seed in range(1, arguments.seeds + 1):
            train(name, VARIANTS[name], data[:80_000], data[80_000:], len(symbols), arguments.epochs, seed)
