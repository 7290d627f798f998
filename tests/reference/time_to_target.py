"""How long it takes to reach the notebook's final test loss, 1.5117 nats/char, on its split: the
notebook's loop on PyTorch and `poquelin train`, in turns.

usage: time_to_target.py POQUELIN MOLIERE_TXT [--rounds 3]

POQUELIN is the program, built with --release. Seconds are those of training and of a test behind every
epoch, until the first epoch with a test loss that low: for PyTorch with the better of one and two
threads, without the time that `import torch` takes; for Poquelin the whole process. Needs torch.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

TARGET, TAKE, T, WIDTH = 1.5117, 100_000, 100, 128
# What configs/quickstart.toml has, but for the notebook's text and split and a short schedule.
SETTINGS = {
    "data.take": TAKE, "data.valid": 0, "data.batch": 8, "data.sequence": 50,
    "model.hidden": 128, "model.embedding": 128,
    "model.dropout_input": 0, "model.dropout_output": 0, "model.dropconnect": 0,
    "optimizer.learning_rate": 0.007, "schedule.warmup": 30, "schedule.floor": 0.02,
    "train.epochs": 5, "train.test_every_epoch": "true", "sample.length": 0,
}


def pytorch(text, threads, seed):
    """The notebook's loop; the seconds to the target."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    text = text[:TAKE]
    tokens = {symbol: token for token, symbol in enumerate(sorted(set(text)))}
    data = torch.tensor([tokens[symbol] for symbol in text])
    train, test = data[: TAKE * 9 // 10], data[TAKE * 9 // 10 :]
    embedding, lstm = nn.Embedding(len(tokens), WIDTH), nn.LSTM(WIDTH, WIDTH)
    model = nn.ModuleList([embedding, lstm, nn.Linear(WIDTH, len(tokens))])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def losses(part, start):
        state = None
        for begin in range(start, len(part) - T, T):
            outputs, state = lstm(embedding(part[begin : begin + T]), state)
            state = tuple(tensor.detach() for tensor in state)
            logits = model[2](outputs)
            yield nn.functional.cross_entropy(logits, part[begin + 1 : begin + T + 1])

    began = time.perf_counter()
    for _ in range(20):
        for loss in losses(train, int(torch.randint(T, ()))):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            reached = statistics.fmean(loss.item() for loss in losses(test, 0)) <= TARGET
        if reached:
            return time.perf_counter() - began
    return float("inf")


def poquelin(program, path, seed):
    """`poquelin train`; the seconds to the target."""
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        settings = {**SETTINGS, "train.seed": seed}
        flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]
        command = [program, "train", "--text", path, "--run", str(run), "--plain", *flags]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        metrics, seen = run / "metrics.jsonl", 0
        while process.poll() is None or seen == 0:
            lines = metrics.read_text().splitlines() if metrics.exists() else []
            for line in map(json.loads, lines[seen:]):
                if line["split"] == "test" and line["nats_per_char"] <= TARGET:
                    seconds = time.perf_counter() - began
                    process.wait()
                    return seconds
            seen = len(lines)
            time.sleep(0.01)
        return float("inf")


parser = argparse.ArgumentParser()
parser.add_argument("poquelin")
parser.add_argument("text")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--pytorch", nargs=2, type=int, metavar=("THREADS", "SEED"), help=argparse.SUPPRESS)
options = parser.parse_args()
if options.pytorch:
    print(pytorch(pathlib.Path(options.text).read_text(encoding="utf-8"), *options.pytorch))
    sys.exit()
ours, theirs = [], {1: [], 2: []}
for seed in range(1, options.rounds + 1):
    ours.append(poquelin(options.poquelin, options.text, seed))
    for threads, seconds in theirs.items():
        command = [sys.executable, __file__, options.poquelin, options.text]
        command += ["--pytorch", str(threads), str(seed)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds.append(float(output))
    print(f"seed {seed}: poquelin {ours[-1]:.2f} s, PyTorch {theirs[1][-1]:.2f} s with one thread, "
          f"{theirs[2][-1]:.2f} s with two", flush=True)
best = min(statistics.median(seconds) for seconds in theirs.values())
median = statistics.median(ours)
print(f"median: poquelin {median:.2f} s, PyTorch {best:.2f} s: {median / best:.2f} of its time")
