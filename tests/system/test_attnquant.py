#!/usr/bin/env python3
"""attnquant from outside: Hugging Face folders made on the spot become the very tensors they were made of, tokenizers
arrive whole, and every wrong input ends with a sentence and an exit code. Time limit: 120 s

    ATTND_BUILD=build tests/system/test_attnquant.py

Prints TAP. The folders are written from a tiny GGUF model, with its tensors permuted as Hugging Face keeps them, by code
of this file alone: a reader of GGUF, a writer of safetensors and of SentencePiece models.
"""
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

BUILD = os.path.realpath(os.environ.get("ATTND_BUILD") or os.environ.get("O") or "build")
TOOL = os.path.join(BUILD, "attnquant")
FAILED, USAGE = 1, 2
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 32

# ---- GGUF, read plainly -----------------------------------------------------------------------------------------

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Gguf:
    """keys: name to value. tensors: name to (shape, type, bytes); the shape's first is contiguous."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = file.read()
        self.at = 0
        magic, version, tensors, keys = self.take("4sIQQ")
        assert magic == b"GGUF" and version == 3
        self.keys = {}
        for _ in range(keys):
            name = self.text()
            self.keys[name.decode()] = self.value(self.take("I")[0])
        infos = []
        for _ in range(tensors):
            name = self.text().decode()
            shape = self.take(f"{self.take('I')[0]}Q")
            infos.append((name, shape, *self.take("IQ")))
        start = (self.at + 31) // 32 * 32
        ends = [info[3] for info in infos[1:]] + [len(self.bytes) - start]
        self.tensors = {name: (shape, kind, self.bytes[start + offset:start + end])
                        for (name, shape, kind, offset), end in zip(infos, ends)}

    def take(self, layout):
        size = struct.calcsize("<" + layout)
        self.at += size
        return struct.unpack("<" + layout, self.bytes[self.at - size:self.at])

    def text(self):
        return self.take(f"{self.take('Q')[0]}s")[0]

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            kind, count = self.take("IQ")
            return [self.value(kind) for _ in range(count)]
        return self.take(SCALARS[kind])[0]

    def floats(self, name):
        shape, kind, data = self.tensors[name]
        assert kind == 0
        count = 1
        for dim in shape:
            count *= dim
        return shape, data[:4 * count]


# ---- a Hugging Face folder --------------------------------------------------------------------------------------

NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
         "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
         "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
         "output.weight": "lm_head.weight"}
FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def to_halves(data, rows, heads):
    """Rows of pairs (2i, 2i+1) within each head become halves (i, i + d/2)."""
    size = len(data) // rows
    per_head = rows // heads
    order = [head * per_head + 2 * (i % (per_head // 2)) + i // (per_head // 2)
             for head in range(heads) for i in range(per_head)]
    return b"".join(data[row * size:(row + 1) * size] for row in order)


def hugging_face_tensors(gguf):
    """name to (shape with the contiguous dimension last, float32 bytes)"""
    llama = gguf.keys["general.architecture"] == b"llama"
    out = {}
    for name in gguf.tensors:
        shape, data = gguf.floats(name)
        if name in OUTER:
            out[OUTER[name]] = shape[::-1], data
            continue
        _, layer, part, kind = name.split(".")
        if llama and part in ("attn_q", "attn_k"):
            data = to_halves(data, shape[-1], HEADS if part == "attn_q" else KV_HEADS)
        out[f"model.layers.{layer}.{NAMES[part]}.{kind}"] = shape[::-1], data
    return out


def write_safetensors(path, tensors, spoil=None):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (shape, values) in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    if spoil:
        spoil(header)
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def config(gguf, **more):
    name = gguf.keys["general.architecture"].decode()

    def key(end):
        return gguf.keys[f"{name}.{end}"]

    out = {"architectures": [FAMILIES[name]], "hidden_size": key("embedding_length"),
           "intermediate_size": key("feed_forward_length"), "num_hidden_layers": key("block_count"),
           "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
           "vocab_size": gguf.keys[f"{name}.vocab_size"], "max_position_embeddings": key("context_length"),
           "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False}
    out.update(more)
    return out


def varint(value):
    out = b""
    while value > 0x7f:
        out += bytes([value & 0x7f | 0x80])
        value >>= 7
    return out + bytes([value])


def sentencepiece(gguf, kind=2):
    """The model's own vocabulary as a SentencePiece model."""
    out = b""
    for text, score, token_type in zip(gguf.keys["tokenizer.ggml.tokens"], gguf.keys["tokenizer.ggml.scores"],
                                       gguf.keys["tokenizer.ggml.token_type"]):
        piece = b"\x0a" + varint(len(text)) + text + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(token_type)
        out += b"\x0a" + varint(len(piece)) + piece
    trainer = b"\x18" + varint(kind) + varint(40 << 3) + varint(0) + varint(43 << 3) + varint(2**64 - 1)
    return out + b"\x12" + varint(len(trainer)) + trainer


def bpe(count):
    """A byte-level BPE tokenizer.json: bytes as GPT-2 writes them, a merge, and two added tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    chars = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        chars.setdefault(byte, chr(256 + len(chars) - len(printable)))
    vocab = {char: i for i, char in enumerate(chars.values())}
    vocab["ab"] = 256
    assert count >= 259
    return {"model": {"type": "BPE", "vocab": vocab, "merges": ["a b"]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?x"}},
                {"type": "ByteLevel"}]},
            "added_tokens": [{"id": 257, "content": "<|end|>", "special": True},
                             {"id": 258, "content": "<tool>", "special": False}]}


class Place:
    """A temporary folder with a tiny model of each architecture."""

    def __init__(self, folder):
        self.folder = folder
        self.made = {}

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def tiny(self, architecture):
        if architecture not in self.made:
            path = self.path(architecture + ".gguf")
            run("make-tiny", "-a", architecture, "-o", path)
            self.made[architecture] = Gguf(path)
        return self.made[architecture]

    def hugging_face(self, gguf, tokenizer=None, spoil=None, **more):
        """Writes a folder afresh and returns its path."""
        folder = self.path("hf")
        shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(folder)
        with open(os.path.join(folder, "config.json"), "w") as file:
            json.dump(config(gguf, **more), file)
        write_safetensors(os.path.join(folder, "model.safetensors"), hugging_face_tensors(gguf), spoil)
        for name, data in (tokenizer or {}).items():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data if isinstance(data, bytes) else json.dumps(data).encode())
        return folder


def run(*arguments, status=0, says=None):
    done = subprocess.run([TOOL, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == status, f"{arguments}: exit {done.returncode}, not {status}\n{done.stderr}"
    if says:
        assert says in done.stderr, f"{arguments}: does not say '{says}' but\n{done.stderr}"
    if status == FAILED:
        assert done.stderr.startswith("attnquant"), done.stderr
    return done.stdout


def same_tensors(one, other):
    assert one.tensors.keys() == other.tensors.keys(), set(one.tensors) ^ set(other.tensors)
    for name in one.tensors:
        a, b = one.floats(name), other.floats(name)
        assert a == b, f"tensor {name} differs"


# ---- cases ------------------------------------------------------------------------------------------------------


def case_llama_folder(place):
    """a llama folder becomes the tensors it was made of; SentencePiece arrives whole"""
    gguf = place.tiny("llama")
    folder = place.hugging_face(gguf, {"tokenizer.model": sentencepiece(gguf), "tokenizer_config.json": {
        "bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "{{ messages }}"}})
    out = place.path("out.gguf")
    run("convert", folder, "-o", out)
    made = Gguf(out)
    same_tensors(gguf, made)
    for name in ("tokens", "scores", "token_type", "bos_token_id", "eos_token_id", "add_bos_token"):
        key = "tokenizer.ggml." + name
        assert gguf.keys[key] == made.keys[key], key
    assert made.keys["tokenizer.chat_template"] == b"{{ messages }}"
    assert made.keys["general.architecture"] == b"llama"
    assert "tokenizer.ggml.padding_token_id" not in made.keys


def case_qwen_folders(place):
    """qwen2 and qwen3 keep their halves, biases and norms; byte-level BPE arrives whole"""
    for architecture in ("qwen2", "qwen3"):
        gguf = place.tiny(architecture)
        count = gguf.keys[architecture + ".vocab_size"]
        folder = place.hugging_face(gguf, {"tokenizer.json": bpe(count), "tokenizer_config.json": {
            "eos_token": "<|end|>", "bos_token": None, "add_bos_token": False}})
        out = place.path("out.gguf")
        run("convert", folder, "-o", out)
        made = Gguf(out)
        same_tensors(gguf, made)
        keys = made.keys
        assert keys["tokenizer.ggml.model"] == b"gpt2" and keys["tokenizer.ggml.pre"] == b"qwen2"
        tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
        assert len(tokens) == len(types) == count
        assert tokens[32] == b"A" and tokens[256] == b"ab"
        assert (tokens[257], types[257], types[258], types[count - 1]) == (b"<|end|>", 3, 4, 5)
        assert keys["tokenizer.ggml.merges"] == [b"a b"]
        assert keys["tokenizer.ggml.eos_token_id"] == 257
        assert keys["tokenizer.ggml.add_bos_token"] is False


def case_shards(place):
    """tensors spread over two files are found by the index"""
    gguf = place.tiny("llama")
    folder = place.hugging_face(gguf)
    tensors = hugging_face_tensors(gguf)
    parts = {"a.safetensors": {}, "b.safetensors": {}}
    for i, name in enumerate(tensors):
        parts[("a", "b")[i % 2] + ".safetensors"][name] = tensors[name]
    os.remove(os.path.join(folder, "model.safetensors"))
    for name, part in parts.items():
        write_safetensors(os.path.join(folder, name), part)
    index = os.path.join(folder, "model.safetensors.index.json")
    with open(index, "w") as file:
        json.dump({"weight_map": {name: part for part, names in parts.items() for name in names}}, file)
    out = place.path("out.gguf")
    run("convert", folder, "-o", out)
    same_tensors(gguf, Gguf(out))
    with open(index, "w") as file:
        json.dump({"weight_map": {"x": "../a.safetensors"}}, file)
    run("convert", folder, "-o", out, status=FAILED, says="not in the folder")


def case_rope_scaling(place):
    """Llama 3's scaling becomes factors, linear and YaRN become keys"""
    gguf = place.tiny("llama")
    out = place.path("out.gguf")
    run("convert", place.hugging_face(gguf, rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}), "-o", out)
    shape, data = Gguf(out).floats("rope_freqs.weight")
    factors = struct.unpack(f"<{shape[0]}f", data)
    assert shape == (HEAD_DIM // 2,) and factors[0] == 1.0 and factors[-1] == 8.0
    assert list(factors) == sorted(factors) and 1.9 < factors[11] < 2.0, factors
    run("convert", place.hugging_face(gguf, rope_scaling={"type": "linear", "factor": 2.0}), "-o", out)
    made = Gguf(out)
    assert made.keys["llama.rope.scaling.type"] == b"linear" and made.keys["llama.rope.scaling.factor"] == 2.0
    run("convert", place.hugging_face(gguf, rope_scaling={
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}), "-o", out)
    assert Gguf(out).keys["llama.rope.scaling.original_context_length"] == 512
    run("convert", place.hugging_face(gguf, rope_scaling={"type": "dynamic", "factor": 2.0}), "-o", out,
        status=FAILED, says="scaled by 'dynamic'")


def case_wrong_folders(place):
    """each wrong folder has its own sentence, and no file is left"""
    gguf = place.tiny("llama")
    out = place.path("none.gguf")

    def refused(folder, says):
        run("convert", folder, "-o", out, status=FAILED, says=says)
        assert not os.path.exists(out) and not os.path.exists(out + ".part")

    def shape(header):
        header["model.norm.weight"]["shape"] = [64, 2]

    def overlap(header):
        header["model.norm.weight"]["data_offsets"] = [0, 512]

    def outside(header):
        header["model.norm.weight"]["data_offsets"] = [1 << 40, (1 << 40) + 512]

    def negative(header):
        header["model.norm.weight"]["data_offsets"] = [-512, 0]

    def wide(header):
        header["model.norm.weight"]["shape"] = [2**53, 2**53]

    def dtype(header):
        header["model.norm.weight"]["dtype"] = "I8"

    def hole(header):
        header["model.norm.weight"]["data_offsets"][1] -= 4
        header["model.norm.weight"]["shape"] = [127]

    def missing(header):
        header["model.norm.bias"] = header.pop("model.norm.weight")

    refused(place.hugging_face(gguf, spoil=shape), "'model.norm.weight' does not have the shape")
    refused(place.hugging_face(gguf, spoil=overlap), "overlaps the one before it")
    refused(place.hugging_face(gguf, spoil=hole), "bytes at its end belong to no tensor")
    refused(place.hugging_face(gguf, spoil=outside), "lies outside of its file")
    refused(place.hugging_face(gguf, spoil=negative), "lies outside of its file")
    refused(place.hugging_face(gguf, spoil=wide), "a shape that makes no sense")
    refused(place.hugging_face(gguf, spoil=dtype), "is of type 'I8'")
    refused(place.hugging_face(gguf, spoil=missing), "'model.norm.weight' is missing")
    refused(place.hugging_face(gguf, num_hidden_layers=3), "has no place in this architecture")
    refused(place.hugging_face(gguf, num_hidden_layers=5), "'model.layers.4.input_layernorm.weight' is missing")
    refused(place.hugging_face(gguf, hidden_size=64), "does not have the shape")
    refused(place.hugging_face(gguf, hidden_size=-1), "'hidden_size' makes no sense")
    refused(place.hugging_face(gguf, hidden_size="wide"), "'hidden_size' makes no sense")
    refused(place.hugging_face(gguf, num_key_value_heads=3), "make no sense")
    refused(place.hugging_face(gguf, architectures=["BertModel"]), "'BertModel' is not converted")
    refused(place.hugging_face(gguf, architectures=7), "'' is not converted")
    refused(place.hugging_face(gguf, quantization_config={"bits": 4}), "quantized already")
    refused(place.hugging_face(gguf, {"tokenizer.model": sentencepiece(gguf, kind=1)}), "kind 1")
    refused(place.hugging_face(gguf, {"tokenizer.model": sentencepiece(gguf)[:-3]}), "SentencePiece model")
    refused(place.hugging_face(gguf, {"tokenizer.json": {"model": {"type": "WordPiece"}}}), "no BPE tokenizer")
    refused(place.hugging_face(gguf, {"tokenizer.json": {"model": {"type": "BPE", "vocab": {"a": 1e9}},
        "pre_tokenizer": {"type": "ByteLevel"}}}), "an id out of range")
    folder = place.hugging_face(gguf)
    with open(os.path.join(folder, "config.json"), "w") as file:
        file.write("{")
    refused(folder, "is no JSON")
    with open(os.path.join(folder, "model.safetensors"), "r+b") as file:
        file.write(struct.pack("<Q", 2**63))
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config(gguf), file)
    refused(folder, "claims a header of 9223372036854775808 bytes")


def case_llama2c(place):
    """a llama2.c checkpoint, its tokenizer, and what is wrong with others"""
    shape = (64, 96, 2, 8, 4, 300, 32)
    floats = 300 * 64 + 2 * (2 * 64 + 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96) + 64 + 32 * 8
    checkpoint = struct.pack("<7i", *shape) + struct.pack(f"<{floats}f", *(i % 7 / 8 for i in range(floats)))
    tokenizer = struct.pack("<i", 7)
    for i in range(300):
        text = (b"<unk>", b"\n<s>\n", b"\n</s>\n")[i] if i < 3 else b"<0x%02X>" % (i - 3) if i < 259 else b" %d" % i
        tokenizer += struct.pack("<fi", -i, len(text)) + text
    paths = {}
    for name, data in (("m.bin", checkpoint), ("t.bin", tokenizer), ("cut.bin", checkpoint[:-4]),
                       ("cut_t.bin", tokenizer[:-1]), ("few_t.bin", tokenizer[:-12]),
                       ("wild.bin", struct.pack("<7i", 64, 96, 2**30, 8, 4, 300, 32)), ("empty.bin", b"")):
        paths[name] = place.path(name)
        with open(paths[name], "wb") as file:
            file.write(data)
    out = place.path("c.gguf")
    run("convert", paths["m.bin"], "--tokenizer", paths["t.bin"], "-o", out)
    made = Gguf(out)
    assert made.tensors["blk.1.ffn_down.weight"][0] == (96, 64)
    assert "output.weight" not in made.tensors
    assert made.keys["tokenizer.ggml.tokens"][260] == "\u2581260".encode()
    assert made.keys["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6]
    for name, says in (("cut.bin", "its header asks for"), ("wild.bin", "the number of layers is"),
                       ("empty.bin", "or empty"), ("t.bin", "not a llama2.c checkpoint")):
        run("convert", paths[name], "-t", paths["t.bin"], "-o", out, status=FAILED, says=says)
    run("convert", paths["m.bin"], "-t", paths["cut_t.bin"], "-o", out, status=FAILED, says="token 299 has a length")
    run("convert", paths["m.bin"], "-t", paths["few_t.bin"], "-o", out, status=FAILED, says="do not belong together")


def case_quantize_and_info(place):
    """quantizing keeps keys and shapes, shrinks the file, and info tells"""
    place.tiny("llama")
    source, out = place.path("llama.gguf"), place.path("q.gguf")
    before = json.loads(run("info", "--json", source))
    for name, size in (("F16", 0.55), ("Q8_0", 0.3), ("Q4_0", 0.2), ("Q4_1", 0.2), ("bf16", 0.55)):
        said = run("quantize", source, out, name)
        assert "relative error" in said, said
        after = json.loads(run("info", "--json", out))
        assert after["bytes"] < size * before["bytes"], (name, after["bytes"], before["bytes"])
        assert [tensor["shape"] for tensor in after["tensors"]] == [tensor["shape"] for tensor in before["tensors"]]
        assert after["keys"]["tokenizer.ggml.tokens"] == before["keys"]["tokenizer.ggml.tokens"]
        kinds = {tensor["name"]: tensor["type"] for tensor in after["tensors"]}
        assert kinds["output_norm.weight"] == "F32"
        assert kinds["blk.0.attn_q.weight"] == name.upper()
    assert "general.architecture" in run("info", out)
    run("quantize", source, out, "Q9", status=USAGE, says="no type 'Q9'")
    run("quantize", source, out, status=USAGE)
    run("quantize", place.path("nothing.gguf"), out, "F16", status=FAILED, says="No such file")
    run("quantize", source, "/nowhere/at/all.gguf", "F16", status=FAILED, says="/nowhere/at/all.gguf")
    run("info", os.path.realpath(__file__), status=FAILED, says="not a GGUF file")
    run("nonsense", status=USAGE)
    run(status=USAGE)
    assert "convert" in run("--help") and "IN.gguf OUT.gguf TYPE" in run("quantize", "--help")


def case_same_seed(place):
    """the tiny model is the same for the same seed alone"""
    data = []
    for i, seed in enumerate(("7", "7", "8")):
        path = place.path(f"seed{i}.gguf")
        run("make-tiny", "--seed", seed, "-o", path)
        with open(path, "rb") as file:
            data.append(file.read())
    assert data[0] == data[1] and data[0] != data[2]


def case_random(place):
    """make-random: the shape asked for, every matrix in its format, weights of a sensible size, the same for a seed"""
    out = place.path("random.gguf")
    shape = ("--layers", "2", "--width", "128", "--heads", "4", "--kv-heads", "2", "--ff", "320", "--vocab", "300",
             "--context", "512")
    for kind, code, block, block_bytes in (("F32", 0, 1, 4), ("F16", 1, 1, 2), ("Q8_0", 8, 32, 34), ("Q4_0", 2, 32, 18),
                                           ("Q5_1", 7, 32, 24)):
        run("make-random", "-o", out, "--type", kind, *shape)
        made = Gguf(out)
        keys = made.keys
        assert (keys["general.architecture"], keys["llama.block_count"], keys["llama.embedding_length"],
                keys["llama.attention.head_count"], keys["llama.attention.head_count_kv"],
                keys["llama.feed_forward_length"], keys["llama.context_length"]) == (b"llama", 2, 128, 4, 2, 320, 512)
        for name in ("tokens", "scores", "token_type"):
            assert len(keys["tokenizer.ggml." + name]) == 300, name
        assert len(set(keys["tokenizer.ggml.tokens"])) == 300
        assert len(made.tensors) == 2 * 9 + 3
        for name, (dims, tensor_type, data) in made.tensors.items():
            if len(dims) == 1:
                assert tensor_type == 0, name
            elif name != "output.weight":
                assert tensor_type == code, (name, tensor_type)
                assert len(data) >= dims[0] * dims[1] // block * block_bytes, name
        # 128 columns are no blocks of Q6_K, which the output matrix would be with four or five bits.
        assert made.tensors["output.weight"][1] == (code if kind in ("F32", "F16", "Q8_0") else 8)
    run("make-random", "-o", out, "--type", "F32", *shape)
    made = Gguf(out)
    (columns, rows), data = made.floats("blk.1.ffn_down.weight")
    values = struct.unpack(f"<{columns * rows}f", data)
    assert (columns, rows) == (320, 128) and 0.9 < columns * sum(v * v for v in values) / len(values) < 1.1
    assert values[:320] != values[320:640]
    run("make-random", "-o", place.path("tied.gguf"), "--type", "Q4_0", "--tied", *shape)
    assert "output.weight" not in Gguf(place.path("tied.gguf")).tensors
    data = []
    for seed in ("7", "7", "8"):
        run("make-random", "-o", out, "--shape", "stories-260k", "--seed", seed)
        with open(out, "rb") as file:
            data.append(file.read())
    assert data[0] == data[1] and data[0] != data[2]
    assert Gguf(out).tensors["blk.4.ffn_down.weight"][:2] == ((172, 64), 1), "rows that no block divides"
    for wrong in (("--shape", "gpt-9"), ("--type", "Q9"), ("--heads", "5"), ("--heads", "32", "--width", "100"),
                  ("--layers", "0"), ("--vocab", "10"), ("--head-dim", "12"), ("--kv-heads", "-1")):
        run("make-random", "-o", out, *wrong, status=USAGE)
    run("make-random", status=USAGE, says="-o OUT.gguf")
    run("make-random", "-o", place.path("none", "x.gguf"), "--shape", "stories-260k", status=FAILED)


def main():
    cases = [value for name, value in globals().items() if name.startswith("case_")]
    failed = 0
    print(f"1..{len(cases)}")
    for number, case in enumerate(cases, 1):
        folder = tempfile.mkdtemp(prefix="attnd-quant-")
        try:
            case(Place(folder))
            print(f"ok {number} - {case.__doc__}")
        except Exception as problem:
            failed += 1
            print(f"not ok {number} - {case.__doc__}")
            print("\n".join("# " + line for line in f"{type(problem).__name__}: {problem}".splitlines()))
            if "-v" in sys.argv:
                raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


sys.exit(main())
