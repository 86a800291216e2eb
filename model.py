"""A decoder-only transformer written by hand: loading and saving, log-probabilities, generation.

It reads and writes Hugging Face folders (config.json, model.safetensors, tokenizer.json) of Llama 2
and 3, CodeLlama, DeepSeek-Coder, Mistral, Qwen2, Qwen2.5 and Qwen3: rotary positions, RMSNorm,
SwiGLU, grouped-query attention.  Where to find what:

    ModelConfig                         config.json, and what of it is refused
    Transformer                         the network; random_model
    load_pretrained, save_pretrained    Hugging Face folders and hub ids
    map_over_ranks, on_rank0, shard     many processes under torchrun; FSDP2
    add_lora, save_adapter              LoRA in PEFT's format
    token_logprobs                      log p of chosen tokens without the full logits
    pack, sequence_logprobs             many sequences behind one prefix, and their log p
    generate                            sampling with a static kv cache

Shape letters used in the comments:
    B rows of a batch    T tokens in a row     V vocabulary       D hidden size
    H attention heads    K key/value heads     E size of a head   M scored tokens     N sequences
"""

import contextlib
import ctypes
import datetime
import hashlib
import json
import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from sqlexec import DataError

# ---------------------------------------------------------------------------------------------
# Configuration

# Qwen3's is a Llama with a norm on queries and keys; Mistral's is one with a sliding window.
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
         "num_attention_heads")
# Settings that must be missing, empty or one of these values.
MODEL_ALLOWED = {"mlp_bias": (), "hidden_act": ("silu",), "partial_rotary_factor": (1,)}


@dataclass
class ModelConfig:
    """The fields of config.json that the model uses, under their Hugging Face names."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: dict                    # rope_type, rope_theta, and what the type needs
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    qk_norm: bool
    windows: tuple                # sliding window of each layer, 0 = full attention
    eos: tuple                    # every token id that ends an answer
    context: int | None           # context window in tokens, None if not stated
    raw: dict                     # config.json as read; saved again with the model

    @staticmethod
    def tiny(vocab_size, hidden_size=32, layers=2, heads=2, kv_heads=1, eos=(0,)):
        """A small Qwen2 configuration with head size hidden_size / heads and a tied head."""
        return ModelConfig.parse({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
            "vocab_size": vocab_size, "hidden_size": hidden_size,
            "intermediate_size": (hidden_size * 8 // 3 + 15) // 16 * 16,
            "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
            "tie_word_embeddings": True, "eos_token_id": list(eos)})

    @staticmethod
    def read(folder):
        """Read FOLDER/config.json, and the end tokens of generation_config.json if it exists;
        DataError where the file is missing, not JSON, or needs an unsupported feature."""
        path, more = Path(folder) / "config.json", Path(folder) / "generation_config.json"
        raw, generation = read_json(path), read_json(more) if more.exists() else {}
        try:
            return ModelConfig.parse(raw, generation)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None

    @staticmethod
    def parse(raw, generation={}):
        """Build from the parsed objects of config.json and generation_config.json."""
        if (architecture := (raw.get("architectures") or ["none"])[0]) not in ARCHITECTURES:
            raise DataError(f"architecture {architecture} is not supported "
                            f"(supported: {', '.join(ARCHITECTURES)})")
        if raw.get("quantization_config"):
            raise DataError("quantised weights are not supported")
        refuse(raw, MODEL_ALLOWED)
        sizes = [positive(raw, name) for name in SIZES]
        context = raw.get("max_position_embeddings")       # RoPE scaling included
        if context is not None:
            positive(raw, "max_position_embeddings")
        D, layers, heads = sizes[1], *sizes[3:]
        kv_heads = raw.get("num_key_value_heads") or heads
        if not isinstance(kv_heads, int) or heads % kv_heads:
            raise DataError(f"num_key_value_heads is {kv_heads}, no divisor of {heads} heads")
        head_dim, eps = raw.get("head_dim") or D // heads, raw.get("rms_norm_eps", 1e-6)
        if not isinstance(head_dim, int) or not isinstance(eps, (int, float)):
            raise DataError(f"head_dim is {head_dim} and rms_norm_eps {eps}: not numbers")
        kind = architecture.removesuffix("ForCausalLM").lower()
        bias = bool(raw.get("attention_bias")) and kind in ("llama", "qwen3")
        return ModelConfig(
            *sizes, kv_heads, head_dim, eps, rope_settings(raw),
            raw.get("tie_word_embeddings", False), bias or kind == "qwen2", bias, kind == "qwen3",
            windows(raw, kind, layers), end_tokens(raw, generation), context, raw)

    @property
    def parameters(self):
        """How many weights the matrices have."""
        D, E = self.hidden_size, self.head_dim
        attention = 2 * D * E * (self.num_attention_heads + self.num_key_value_heads)
        layer = attention + 3 * D * self.intermediate_size
        heads = 1 if self.tie_word_embeddings else 2
        return self.num_hidden_layers * layer + heads * self.vocab_size * D

    def to_json(self):
        """The config.json of this model, readable by transformers."""
        return {**self.raw, "eos_token_id": list(self.eos)}


def positive(raw, name, kinds=int, of=""):
    """raw[name], checked: DataError where it is not a number above 0."""
    if not isinstance(value := raw.get(name), kinds) or value <= 0:
        raise DataError(f"{of}{name} is {value}, not a positive number")
    return value


def refuse(settings, allowed):
    """DataError naming a setting of a JSON object whose value is not among the allowed ones."""
    for name, values in allowed.items():
        if (value := settings.get(name)) and value not in values:
            raise DataError(f"{name} {value} is not supported (supported: "
                            f"{', '.join(map(str, values))})" if values else
                            f"{name} is not supported")


def rope_settings(raw):
    """The rotary settings of a config.json: rope_parameters, or the older rope_theta and
    rope_scaling."""
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise DataError(f"the rope settings are {scaling}, not an object")
    rope = {"rope_theta": raw.get("rope_theta") or 10000.0, **scaling}
    kind = rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    needs = {"default": (), "linear": ("factor",),
             "llama3": ("factor", "low_freq_factor", "high_freq_factor",
                        "original_max_position_embeddings")}
    if kind not in needs:
        raise DataError(f"rope type {kind} is not supported (supported: {', '.join(needs)})")
    refuse(rope, MODEL_ALLOWED)
    for name in ("rope_theta",) + needs[kind]:
        positive(rope, name, (int, float), "rope's ")
    return rope


def windows(raw, kind, layers):
    """The sliding window of each layer, 0 for full attention."""
    if kind == "mistral":                                  # transformers' default for no key
        return (raw.get("sliding_window", 4096) or 0,) * layers
    window = raw.get("sliding_window") if raw.get("use_sliding_window") else None
    if kind == "llama" or not window:
        return (0,) * layers
    first = raw.get("max_window_layers", 28)
    types = raw.get("layer_types") or ["sliding_attention" if i >= first else "full_attention"
                                       for i in range(layers)]
    return tuple(window if t == "sliding_attention" else 0 for t in types)


def end_tokens(raw, generation):
    """eos_token_id of both configs as a tuple: it may be missing, a number or a list."""
    tokens = {}
    for eos in (raw.get("eos_token_id"), generation.get("eos_token_id")):
        new = eos if isinstance(eos, list) else [] if eos is None else [eos]
        if not all(type(token) is int and 0 <= token < raw["vocab_size"] for token in new):
            raise DataError(f"eos_token_id is {eos}, not a token's id or a list of them "
                            f"(vocab_size {raw['vocab_size']})")
        tokens.update(dict.fromkeys(new))
    return tuple(tokens)


def read_json(path):
    """The JSON object in a file; DataError naming the file where it cannot be read."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: not a JSON object")
    return value


# ---------------------------------------------------------------------------------------------
# The transformer.  Module names are the checkpoint's keys.

class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        if x.is_cuda:                     # one kernel
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return Normalised.apply(x, self.weight, self.eps)


class Normalised(torch.autograd.Function):
    """x / rms(x) * weight over the last dimension, in float32; keeps x and one number a token."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        scale = (to_fp32(x).square().mean(-1, keepdim=True) + eps).rsqrt()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        unit = x * scale                                                  # float32
        d_unit = to_fp32(grad) * weight
        d_weight = (grad * unit).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        d_x = (d_unit - unit * (d_unit * unit).mean(-1, keepdim=True)).mul_(scale)
        return d_x.to(x.dtype), d_weight, None


def frequencies(c, device):
    """RoPE's angle per position, in radians, for each pair of dimensions: (E/2,) float32."""
    rope, E = c.rope, c.head_dim
    turn = rope["rope_theta"] ** -(torch.arange(0, E, 2, device=device).float() / E)
    if rope["rope_type"] == "default":
        return turn
    if rope["rope_type"] == "linear":
        return turn / rope["factor"]
    # llama3: high frequencies stay, low ones are divided by `factor`, those in between are
    # interpolated.
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * turn / (2 * math.pi)
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return turn * (keep + (1 - keep) / rope["factor"])


def rope_table(positions, c, dtype):
    """cos and sin of the rotary embedding at positions (B, T): (B, 1, T, E) each."""
    inverse = frequencies(c, positions.device)
    angles = positions[:, None, :, None].float() * inverse                # (B, 1, T, E/2)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x, cos, sin):
    """Apply rotary embeddings to x (B, H, T, E), pairing dimension i with i + E/2."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-b, a], dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        D, H, K, E = c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.q_proj = nn.Linear(D, H * E, bias=c.qkv_bias)
        self.k_proj = nn.Linear(D, K * E, bias=c.qkv_bias)
        self.v_proj = nn.Linear(D, K * E, bias=c.qkv_bias)
        self.o_proj = nn.Linear(H * E, D, bias=c.o_bias)
        if c.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(E, c.rms_norm_eps), RMSNorm(E, c.rms_norm_eps)

    def forward(self, x, rope, masks, cache=None):
        """x (B, T, D); masks: see Transformer.forward; cache: a KVCache.layer, which stores this
        call's keys and values and returns all that are cached."""
        B, T, _ = x.shape
        q, k, v = (p(x).view(B, T, -1, self.c.head_dim).transpose(1, 2)
                   for p in (self.q_proj, self.k_proj, self.v_proj))      # (B, H or K, T, E)
        if self.c.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, *rope), rotate(k, *rope)
        if cache is not None:
            y = attend(q, *cache(k, v), masks[0])
        else:
            rows = [m.shape[-1] for m in masks]
            y = torch.cat([attend(*qkv) for qkv in
                           zip(q.split(rows, 2), k.split(rows, 2), v.split(rows, 2), masks)], 2)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))


def attend(q, k, v, mask):
    """Softmax attention of q (B, H, T, E) over k and v (B, K, keys, E): (B, H, T, E).  mask
    (B, 1, T, keys): 0 where a query may attend, else -inf.

    Where keys = T the mask is causal by column: a CPU then computes blocks of queries against the
    keys up to the block's end only, which saves nearly half of the work."""
    B, H, T, E = q.shape
    K, keys = k.shape[1:3]
    if T == 1:             # decoding: the heads of a group take the place of T, no key is copied
        y = F.scaled_dot_product_attention(q.view(B, K, H // K, E), k, v, mask)
        return y.reshape(B, H, 1, E)       # a view does not fit the efficient kernel's strides
    if q.is_cuda:          # its fused kernel takes a mask or grouped heads, not both
        k, v = k.repeat_interleave(H // K, 1), v.repeat_interleave(H // K, 1)
        return F.scaled_dot_product_attention(q, k, v, mask)
    size = BLOCK if T == keys else keys
    if q.dtype == torch.bfloat16:
        # The softmax is the same; scores near 0 lose less in bf16 (Qwen's keys have large biases).
        # The first keys are the prefix's, so that rows packed otherwise are rounded alike.
        return BlockAttention.apply(q, k - k[:, :, :64].mean(2, keepdim=True), v, mask, size)
    return torch.cat([F.scaled_dot_product_attention(
        q[:, :, i:i + size], k[:, :, :i + size], v[:, :, :i + size],
        mask[:, :, i:i + size, :i + size], enable_gqa=True) for i in range(0, T, size)], 2)


BLOCK = 192                           # queries in a block on a CPU

# A GPU takes the memory-efficient kernel.  cuDNN's, which torch prefers on an H100, gives NaN as a
# gradient with some masks and lengths (pytorch issue 196678).
torch.backends.cuda.enable_cudnn_sdp(False)


class BlockAttention(torch.autograd.Function):
    """Attention written out, `size` queries at a time, because torch's CPU kernel does not use the
    CPU's bfloat16 matrix instructions.  The backward computes the probabilities again: they would
    take more memory than all else."""

    @staticmethod
    def forward(ctx, q, k, v, mask, size):
        ctx.save_for_backward(q, k, v, mask)
        ctx.size, out = size, torch.empty_like(q)
        for rows in blocks(q.shape[2], size):
            p, seen = probabilities(q, k, mask, rows, size)
            out[:, :, rows] = (p @ v[:, :, seen]).view_as(out[:, :, rows])
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, mask = ctx.saved_tensors
        d_q, d_k, d_v = torch.empty_like(q), *(torch.zeros_like(x, dtype=torch.float32)
                                               for x in (k, v))
        for rows in blocks(q.shape[2], ctx.size):
            p, seen = probabilities(q, k, mask, rows, ctx.size)           # (B, K, G * block, keys)
            d_y, y_q = (x[:, :, rows].reshape(*p.shape[:3], -1) for x in (grad, q))
            d_p = d_y @ v[:, :, seen].transpose(-1, -2)
            d_s = d_p.sub_((d_p * p).sum(-1, keepdim=True)).mul_(p).mul_(q.shape[3] ** -0.5)
            d_q[:, :, rows] = (d_s @ k[:, :, seen]).view_as(d_q[:, :, rows])
            d_k[:, :, seen] += d_s.transpose(-1, -2) @ y_q
            d_v[:, :, seen] += p.transpose(-1, -2) @ d_y
        return d_q, d_k.to(k.dtype), d_v.to(v.dtype), None, None


def probabilities(q, k, mask, rows, size):
    """(softmax of the scores of these queries, the heads of a group one behind the other:
    (B, K, H / K * block, keys); the slice of the keys that they may see)."""
    q, B, K = q[:, :, rows], *k.shape[:2]
    seen = slice(0, rows.start + size)
    scaled = (q * q.shape[3] ** -0.5).reshape(B, K, -1, q.shape[3])
    scores = scaled @ k[:, :, seen].transpose(-1, -2)
    by_head = scores.view(*q.shape[:3], -1).add_(mask[:, :, rows, seen])
    return by_head.softmax(-1).view(scores.shape), seen


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(SwiGLU.apply(self.gate_proj(x), self.up_proj(x)))


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up; the backward computes silu(gate) again, which saves memory."""

    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad):
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c)

    def forward(self, x, rope, mask, cache=None):
        x = x + self.self_attn(self.input_layernorm(x), rope, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        # Uninitialised: nn.Embedding's own initialisation on meta makes torch import for seconds.
        self.embed_tokens = nn.Embedding.from_pretrained(
            torch.empty(c.vocab_size, c.hidden_size), freeze=False)
        self.layers = nn.ModuleList(Block(c) for _ in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)


class Transformer(nn.Module):
    """Token ids to hidden states.  `token_logprobs` and `generate` compute the logits, at the few
    positions where they are needed."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.recompute_above = math.inf   # tokens; activation checkpointing in larger batches
        self.adapter = None           # PEFT's settings of the LoRA adapter, if there is one
        self.caches = None            # of the generate() calls in a `sampling` block
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def head(self):
        """The output matrix (V, D)."""
        return (self.model.embed_tokens if self.config.tie_word_embeddings else self.lm_head).weight

    @property
    def device(self):
        return self.head.device

    def forward(self, ids, positions, masks, cache=None):
        """ids, positions (B, T) int64 -> normed hidden states (B, T, D).

        masks: (rows, 1, t, keys) bool each, True where a query may attend.  One for all rows that
        share a cache (a KVCache to read and to extend, whose key j is at position j), else one for
        each piece of t tokens that T consists of, which attends to itself."""
        x = self.model.embed_tokens(ids)
        rope = rope_table(positions, self.config, x.dtype)
        if cache is None:
            keys = positions.split([m.shape[-1] for m in masks], 1)
        else:
            keys = [torch.arange(masks[0].shape[-1], device=ids.device)[None]]
        queries = keys if cache is None else [positions]
        near = {w: [added(m, w, q, k, x.dtype) for m, q, k in zip(masks, queries, keys)]
                for w in set(self.config.windows)}
        for i, layer in enumerate(self.model.layers):
            masks = near[self.config.windows[i]]
            if ids.numel() > self.recompute_above and torch.is_grad_enabled():
                x = checkpoint(layer, x, rope, masks, use_reentrant=False)
            else:
                x = layer(x, rope, masks, None if cache is None else cache.layer(i))
        return self.model.norm(x)


def added(mask, window, queries, keys, dtype):
    """What attention adds to its scores: 0 where the mask is True and the key less than `window`
    positions before the query (0: at any distance), else -inf.  queries, keys: positions."""
    if window:
        mask = mask & (queries[:, None, :, None] - keys[:, None, None] < window)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def random_model(config, seed=0):
    """Weights drawn N(0, 0.02), residual projections scaled down by depth (GPT-2, section 2.3)."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if p.dim() == 2:
            deep = name.endswith(("o_proj.weight", "down_proj.weight"))
            std = 0.02 / (2 * config.num_hidden_layers) ** 0.5 if deep else 0.02
            nn.init.normal_(p, std=std, generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(p)
    return model


# ---------------------------------------------------------------------------------------------
# Hugging Face folders

INDEX = "model.safetensors.index.json"


def local_folder(name):
    """The folder `name` if it exists, of a candidate kept as adapter alone that adapter's; else
    the local copy of that model of the Hugging Face hub, downloaded if necessary."""
    if Path(name).exists() or str(name).count("/") != 1:
        adapter = Path(name) / "adapter"
        alone = adapter.exists() and not (Path(name) / "config.json").exists()
        return adapter if alone else Path(name)
    try:
        return Path(huggingface_hub.snapshot_download(
            str(name), allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{name}: no such folder, nor on the hub ({reason})") from None


def base_folder(name, base=""):
    """The folder of the base model: `name` itself, or that of an adapter: `base`, by default what
    its config points to."""
    folder = local_folder(name)
    adapter = folder / ADAPTER_CONFIG
    if (folder / "config.json").exists() or not adapter.exists():
        return folder
    base = str(base) if base else read_json(adapter).get("base_model_name_or_path")
    if not isinstance(base, str):
        raise DataError(f"{adapter}: base_model_name_or_path is {base}, not a folder or hub id")
    return local_folder(base)


def load_pretrained(name, device="cpu", dtype=torch.float32, base=""):
    """Transformer from a Hugging Face folder or hub id, built on meta and filled tensor by tensor;
    from a PEFT adapter's folder, its base model (see base_folder) with the adapter loaded but not
    merged.  dtype: None = as stored.

    DataError for a missing, broken or unsupported checkpoint, naming the file and the tensor."""
    folder = local_folder(name)
    base = base_folder(folder, base)
    with torch.device("meta"):
        model = Transformer(ModelConfig.read(base))
    wanted = dict(model.named_parameters())
    for path in weight_files(base):
        for key, tensor in read_tensors(path, device):
            if not ignored(key, model.config):
                fill(model, key, tensor, dtype, wanted, path)
    if wanted:
        raise DataError(f"{base}: tensor {sorted(wanted)[0]} is missing")
    if not model.config.eos:
        model.config.eos = tokenizer_end(base)             # else no answer would ever end
    return model if base == folder else load_adapter(model, folder)


def tokenizer_end(folder):
    """The id of the tokeniser's own eos_token, in a tuple; empty where it has none."""
    files = folder / "tokenizer_config.json", folder / "tokenizer.json"
    settings, tokenizer = (read_json(path) if path.exists() else {} for path in files)
    end = settings.get("eos_token")
    end = end.get("content") if isinstance(end, dict) else end
    return tuple(token["id"] for token in tokenizer.get("added_tokens", [])
                 if token["content"] == end)


def read_tensors(path, device):
    """(key, tensor) of each tensor in a safetensors file; on a CPU they are memory-mapped."""
    if str(device) == "cuda":         # safetensors takes it for GPU 0, whatever this rank's is
        device = f"cuda:{torch.cuda.current_device()}"
    try:
        with safe_open(path, framework="pt", device=str(device)) as tensors:
            for key in tensors.keys():
                yield key, tensors.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def weight_files(folder):
    """The safetensors files of a folder, from its index where there is no single file."""
    single, index = folder / "model.safetensors", folder / INDEX
    if single.exists():
        return [single]
    if not index.exists():
        raise DataError(f"{folder}: neither model.safetensors nor {INDEX} is there")
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise DataError(f"{index}: no weight_map from tensors to files")
    files = [folder / name for name in sorted(set(places.values()))]
    for path in files:
        if not path.exists():
            raise DataError(f"{index} names {path.name}, which is not there")
    return files


def ignored(key, config):
    """Redundant tensors: the copy of a tied head, the rotary tables of old Llama files."""
    return key.endswith("rotary_emb.inv_freq") or (
        key == "lm_head.weight" and config.tie_word_embeddings)


def fill(model, key, tensor, dtype, wanted, path):
    """Replace the meta parameter `key` by a loaded tensor and remove it from `wanted`."""
    if key not in wanted:
        raise DataError(f"{path}: {key} has no place in the model of the config")
    if tensor.shape != wanted[key].shape:
        raise DataError(f"{path}: {key} has shape {tuple(tensor.shape)}, "
                        f"the config says {tuple(wanted[key].shape)}")
    if not tensor.is_floating_point():
        raise DataError(f"{path}: {key} is {tensor.dtype}: quantised weights are not supported")
    module, _, leaf = key.rpartition(".")
    setattr(model.get_submodule(module), leaf, nn.Parameter(tensor.to(dtype)))
    del wanted[key]


def save_pretrained(model, folder, dtype=None):
    """Write config.json and model.safetensors; transformers, PEFT and vLLM read the folder.

    Adapters are merged into the weights.  dtype: of the saved weights, None = unchanged."""
    adapted, tensors = dict(lora_layers(model)), {}
    for key, value in model.state_dict().items():         # to the CPU one by one
        name, _, leaf = key.rpartition(".")
        if ".lora_" not in key:
            value = adapted[name].merged() if name in adapted and leaf == "weight" else value
            tensors[key] = value.detach().to("cpu", dtype).contiguous()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, folder / "model.safetensors")
    stored = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    raw = {k: v for k, v in model.config.to_json().items() if k != "dtype"}
    (folder / "config.json").write_text(json.dumps({**raw, "torch_dtype": stored}, indent=2) + "\n")


def write_tensors(tensors, path):
    """Write a safetensors file atomically."""
    temporary = path.with_suffix(".tmp")
    try:
        save_file(tensors, temporary, metadata={"format": "pt"})
        os.replace(temporary, path)
    except (SafetensorError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({error})") from None


def digest(model):
    """16 hex digits: a content hash of all weights."""
    total = hashlib.sha256()
    for name, p in model.named_parameters():
        total.update(name.encode())
        total.update(p.detach().cpu().contiguous().view(torch.uint8).numpy())
    return total.hexdigest()[:16]


def content(name):
    """16 hex digits of a checkpoint's files, wherever they lie: of large ones size and ends."""
    folder, total = local_folder(name), hashlib.sha256()
    paths = sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")])
    for path in paths:
        with open(path, "rb") as file:
            total.update(f"{path.name} {path.stat().st_size}".encode() + file.read(2 ** 20))
            file.seek(max(0, path.stat().st_size - 2 ** 20))
            total.update(file.read())
    return total.hexdigest()[:16] if paths else str(name)


# ---------------------------------------------------------------------------------------------
# Many processes, started by torchrun: each does a share of the work, all get every result

RANK, RANKS = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def join_ranks(device):
    """Join the process group.  Only rank 0 prints, and writes what stays."""
    if RANKS > 1:
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            timeout=datetime.timedelta(days=1))          # torchrun ends the ranks when one dies
        if RANK:
            sys.stdout = open(os.devnull, "w")


def leave_ranks():
    if RANKS > 1:
        distributed.destroy_process_group()


def map_over_ranks(work, items):
    """work(items), a list with one result per item; each rank does a share, all get the list."""
    if RANKS == 1:
        return work(items)
    shares = [None] * RANKS
    distributed.all_gather_object(shares, work(items[RANK::RANKS]))
    return [shares[i % RANKS][i // RANKS] for i in range(len(items))]


def on_rank0(work):
    """What work() returns on rank 0, broadcast to all ranks."""
    result = [work() if RANK == 0 else None]
    if RANKS > 1:
        distributed.broadcast_object_list(result)
    return result[0]


def sum_over_ranks(tensors, most=2 ** 26):
    """All-reduce: sum each tensor over the ranks, in place; `most` numbers at a time."""
    tensors, flat = list(tensors) if RANKS > 1 else [], []
    while tensors:
        flat.append(tensors.pop(0))
        if not tensors or tensors[0].dtype != flat[0].dtype or sum(t.numel() for t in flat) > most:
            total = torch.cat([t.flatten() for t in flat])
            distributed.all_reduce(total)
            torch._foreach_copy_(flat, [part.view_as(t) for t, part in zip(
                flat, total.split([t.numel() for t in flat]))])
            flat = []


def cpus():
    """The cores that this process may use: not all of the host's, in a container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):                        # no such file, or "max 100000"
        return count


def cpus_per_rank():
    """How many worker processes a rank may start: its cores over its machine's ranks."""
    return max(1, cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def shard(model, device, half=False):
    """Shard weights, gradients and optimizer states over the ranks with FSDP2, in float32; a
    layer's weights are gathered only while it computes, in bfloat16 if `half`.

    The model lies on the CPU: a layer at a time is cast, moved and cut."""
    mesh = init_device_mesh(device, (distributed.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for part in (*model.model.layers, model):
        for p in part.parameters():
            if not isinstance(p, DTensor):
                p.data = p.data.to(device, torch.float32)
        fully_shard(part, mesh=mesh, mp_policy=policy if half else MixedPrecisionPolicy())
    return model


def gather_full_model(model, dtype=None):
    """An unsharded copy of a sharded model, on every rank; any other model as it is."""
    return copy_of(model, dtype) if hasattr(model.head, "full_tensor") else model


def copy_of(model, dtype=None):
    """A copy of a model without adapters; dtype: of its weights, None = unchanged."""
    with torch.device("meta"):
        copy = Transformer(model.config)
    copy.load_state_dict({
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).to(dtype or p.dtype, copy=True)
        for name, p in model.state_dict().items()}, assign=True)
    copy.recompute_above = model.recompute_above
    return copy


@torch.no_grad()
def copy_into(copies, params):
    """Round parameters into their copies; nothing where these are the parameters themselves."""
    if copies[0] is not params[0]:
        torch._foreach_copy_(copies, params)


# ---------------------------------------------------------------------------------------------
# LoRA (Hu et al., arXiv 2106.09685), in PEFT's format: adapters come from and go to PEFT and vLLM

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# What PEFT's settings may say where they change what an adapter computes.
LORA_ALLOWED = {
    "peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": (True, False, "gaussian"),
    **dict.fromkeys(("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias",
                     "layers_to_transform", "layer_replication", "fan_in_fan_out",
                     "exclude_modules", "trainable_token_indices", "target_parameters",
                     "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config",
                     "kasa_config"), ())}


class LoRALinear(nn.Linear):
    """A frozen linear layer plus a trainable low-rank update, kept in float32:
    y = W x + b + scale B A x, where A is (rank, in) and B (out, rank)."""

    def __init__(self, linear, rank, scale):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias, self.scale = linear.weight, linear.bias, scale
        self.lora_A = nn.Linear(self.in_features, rank, bias=False, device="meta")
        self.lora_B = nn.Linear(rank, self.out_features, bias=False, device="meta")

    def forward(self, x):
        A, B = self.lora_A.weight.to(x.dtype), (self.scale * self.lora_B.weight).to(x.dtype)
        return LowRankSum.apply(x.flatten(0, -2), self.weight, self.bias, A, B).view(
            *x.shape[:-1], -1)

    def merged(self):
        """W + scale B A, summed in float32 and rounded once to W's precision."""
        change = self.scale * (self.lora_B.weight.float() @ self.lora_A.weight.float())
        return (self.weight.float() + change).to(self.weight.dtype)

    def plain(self):
        """A linear layer with the merged weight."""
        linear = nn.Linear(self.in_features, self.out_features, device="meta")
        linear.weight, linear.bias = nn.Parameter(self.merged()), self.bias
        return linear


class LowRankSum(torch.autograd.Function):
    """x W^T + b + x A^T B^T for x (T, in) and a frozen W: each sum is taken in place."""

    @staticmethod
    def forward(ctx, x, weight, bias, A, B):
        thin = x @ A.T                                                    # (T, rank)
        ctx.save_for_backward(x, weight, A, B, thin)
        return F.linear(x, weight, bias).addmm_(thin, B.T)

    @staticmethod
    def backward(ctx, grad):
        x, weight, A, B, thin = ctx.saved_tensors
        d_thin = grad @ B
        d_x = (grad @ weight).addmm_(d_thin, A) if ctx.needs_input_grad[0] else None
        return d_x, None, None, d_thin.T @ x, grad.T @ thin


def lora_layers(model):
    """(name, layer) of each adapted layer."""
    return [(n, layer) for n, layer in model.named_modules() if isinstance(layer, LoRALinear)]


def merge_adapter(model):
    """Merge the adapter into the weights, all of which are then trainable."""
    for name, layer in lora_layers(model):
        model.set_submodule(name, layer.plain())
    model.adapter = None
    model.requires_grad_(True)


@contextlib.contextmanager
def sampling(model):
    """Inside, adapted layers are plain ones with the weights that save_pretrained writes, and calls
    of `generate` share kv caches with their CUDA graphs."""
    outermost, layers = model.caches is None, lora_layers(model)
    for name, layer in layers:
        model.set_submodule(name, layer.plain())
    model.caches = {} if outermost else model.caches
    try:
        yield
    finally:
        model.caches = None if outermost else model.caches
        for name, layer in layers:
            model.set_submodule(name, layer)


def add_lora(model, rank=16, alpha=32, targets=LORA_TARGETS, seed=0):
    """Freeze the model and add an adapter to each layer that `targets` selects, as in PEFT:
    ends of layer names, one regular expression, or "all-linear".

    B starts at 0, so the model's outputs are unchanged at first.  DataError if no layer matches."""
    model = adapt(model, {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank,
                          "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none",
                          "target_modules": targets if isinstance(targets, str) else list(targets)})
    generator = torch.Generator(model.device).manual_seed(seed)
    for _, layer in lora_layers(model):
        layer.lora_A.to_empty(device=model.device)
        layer.lora_B.to_empty(device=model.device)
        nn.init.kaiming_uniform_(layer.lora_A.weight, a=5 ** 0.5, generator=generator)
        nn.init.zeros_(layer.lora_B.weight)
    return model


def adapt(model, settings):
    """Add uninitialised adapters as the parsed adapter_config.json says; DataError naming what is
    not supported."""
    refuse(settings, LORA_ALLOWED)
    rank, alpha = positive(settings, "r"), positive(settings, "lora_alpha", (int, float))
    targets = settings.get("target_modules")
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    chosen = [name for name in linear if is_target(name, targets or ())]
    if not chosen:
        raise DataError(f"target_modules {targets} fits no layer")
    if "lm_head" in chosen:
        raise DataError("an adapter of lm_head is not supported")
    model.requires_grad_(False)
    for name in chosen:
        scale = alpha / (rank ** 0.5 if settings.get("use_rslora") else rank)
        model.set_submodule(name, LoRALinear(model.get_submodule(name), rank, scale))
    model.adapter = settings
    return model


def is_target(name, targets):
    """Whether PEFT's target_modules select the linear layer of this name."""
    if targets == "all-linear":
        return name != "lm_head"
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == t or name.endswith("." + t) for t in targets)


def load_adapter(model, folder):
    """Load a PEFT adapter into its base model; DataError where it does not fit."""
    config, weights = Path(folder) / ADAPTER_CONFIG, Path(folder) / ADAPTER_WEIGHTS
    try:
        adapt(model, read_json(config))
    except DataError as error:
        raise DataError(f"{config}: {error}") from None
    wanted = {k: p for k, p in model.named_parameters() if ".lora_" in k}
    for key, tensor in read_tensors(weights, model.device):
        fill(model, key.removeprefix("base_model.model."), tensor, torch.float32, wanted, weights)
    if wanted:
        raise DataError(f"{weights}: tensor {sorted(wanted)[0]} is missing")
    return model


def save_adapter(model, folder, base):
    """Write adapter_config.json and adapter_model.safetensors; base: folder or hub id of the
    adapter's base model, where the adapter does not say."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors({f"base_model.model.{k}": v.detach().cpu().contiguous()
                   for k, v in model.state_dict().items() if ".lora_" in k},
                  folder / ADAPTER_WEIGHTS)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(
        {"base_model_name_or_path": str(base), **model.adapter}, indent=2) + "\n")


# ---------------------------------------------------------------------------------------------
# Log-probabilities of chosen tokens, never the whole (B, T, V)

class TokenLogprobs(torch.autograd.Function):
    """log softmax(hidden @ weight.T)[target], a block of rows at a time.

    The target is kept apart from the other tokens: with z its logit and r the log-sum-exp of
    theirs, log p = log sigmoid(z - r), which is exact where p is near 1 and never above 0.  With p
    the softmax, the gradients are W[y] - p W for hidden and (1[y] - p) hidden for weight.
    Frozen head: the forward keeps that of hidden, so the backward is free.  Trainable head: the
    forward keeps p where all rows are one block, else the backward computes it again."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, block):
        need_hidden, ctx.need_weight = ctx.needs_input_grad[:2]
        logp = hidden.new_empty(len(targets), dtype=to_fp32(hidden[:0]).dtype)
        unit, miss = torch.empty_like(hidden) if need_hidden and not ctx.need_weight else None, None
        for rows in blocks(len(targets), block):
            logp[rows], miss = without_target(hidden[rows], weight, targets[rows])
            if unit is not None:
                unit[rows] = miss.to(weight.dtype) @ weight
        ctx.block, ctx.kept = block, miss if ctx.need_weight and len(targets) <= block else None
        ctx.save_for_backward(*(hidden, weight, targets) if ctx.need_weight else (unit,))
        return logp

    @staticmethod
    def backward(ctx, grad):
        if not ctx.need_weight:
            unit, = ctx.saved_tensors
            return unit * grad[:, None].to(unit.dtype), None, None, None
        hidden, weight, targets = ctx.saved_tensors
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for rows in blocks(len(targets), ctx.block):
            miss = ctx.kept if ctx.kept is not None else without_target(
                hidden[rows], weight, targets[rows])[1]
            miss = miss.mul_(grad[rows, None]).to(weight.dtype)
            d_hidden[rows] = miss @ weight
            d_weight.addmm_(miss.T, hidden[rows])
        ctx.kept = None
        return d_hidden, d_weight, None, None


def blocks(n, size):
    """The slices of at most `size` rows that n rows make."""
    return [slice(start, start + size) for start in range(0, n, size)]


def without_target(hidden, weight, targets):
    """log p of the targets (M,), and 1[target] - p of all tokens (M, V): the gradient of log p to
    the logits."""
    z, target = logits(hidden, weight), targets[:, None]                  # (M, V)
    own = (to_fp32(hidden) * to_fp32(weight[targets])).sum(1, keepdim=True)
    z.scatter_(1, target, -torch.inf)
    high = z.amax(1, keepdim=True)
    total = z.sub_(high).exp_().sum(1, keepdim=True)
    margin = own - high - total.log()                                     # z - r
    z.mul_(-torch.sigmoid(-margin) / total).scatter_(1, target, torch.sigmoid(-margin))
    return F.logsigmoid(margin)[:, 0], z


def to_fp32(x):
    """x in float32, or in its own dtype if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


WIDE_MM = "dtype" in torch.ops.aten.mm.overloads()         # bf16 factors, float32 sums: torch 2.8


def logits(hidden, weight, exact=32):
    """hidden (M, D) @ weight.T (D, V) with float32 accumulation and output.

    A CPU's bf16 product rounds its sums to bf16: the `exact` largest of each row, which decide
    what is sampled and nearly all of log p, are then computed again."""
    if weight.dtype != torch.bfloat16:
        return to_fp32(hidden) @ to_fp32(weight.T)
    hidden = hidden.to(weight.dtype)
    if hidden.is_cuda and WIDE_MM:
        return torch.mm(hidden, weight.T, out_dtype=torch.float32)
    z = F.linear(hidden, weight)
    top = z.topk(min(exact, z.shape[1]), sorted=False).indices            # (M, exact)
    best = (weight[top].float() @ hidden[:, :, None].float())[..., 0]
    return z.float().scatter_(1, top, best)


def token_logprobs(hidden, weight, targets, block=None):
    """log p(target) of each row: hidden (M, D), weight (V, D), targets (M,) -> (M,) float32, <= 0.

    Differentiable in hidden and weight; float64 stays float64.  block: how many rows have their
    logits at a time, by default what fits LOGITS_MEMORY."""
    if block is None:
        few = not hidden.is_cuda and not (weight.requires_grad and torch.is_grad_enabled())
        block = 128 if few else max(1, LOGITS_MEMORY // (4 * len(weight)))
    return TokenLogprobs.apply(hidden, weight, targets, block)


LOGITS_MEMORY = 2 ** 29               # bytes


# ---------------------------------------------------------------------------------------------
# Sequence log-probabilities: many sequences behind one prefix

@dataclass
class Batch:
    """Sequences packed into rows [prefix, branch, branch ...]; a branch attends to its row's prefix
    and to itself.  The rows lie one behind the other, S tokens in all, so none is padded.

    source[i] is the index whose hidden state predicts target[i], a scored token of sequence
    owner[i].  Same result as one padded row per sequence, with fewer tokens."""
    ids: torch.Tensor          # (1, S)
    positions: torch.Tensor    # (1, S)
    masks: list                # of each row of T tokens: (1, 1, T, T) bool
    source: torch.Tensor       # (M,)
    target: torch.Tensor       # (M,)
    owner: torch.Tensor        # (M,) in 0..N-1
    size: int                  # N

    def to(self, device):
        return Batch(*([x.to(device) for x in v] if isinstance(v, list) else
                       v.to(device) if torch.is_tensor(v) else v for v in vars(self).values()))


def pack(groups):
    """Batch of groups of sequences, a row each; a sequence is (ids, n): its first n ids are prompt,
    the rest is scored.  A row's prefix is what all its prompts begin with, at most up to their last
    token.

    >>> b = pack([[([1, 2, 3, 7], 3), ([1, 2, 4, 8, 9], 3)]])
    >>> b.ids[0, :7].tolist(), b.positions[0, :7].tolist()
    ([1, 2, 3, 7, 4, 8, 9], [0, 1, 2, 3, 2, 3, 4])
    >>> b.source.tolist(), b.target.tolist(), b.owner.tolist()
    ([2, 4, 5], [7, 8, 9], [0, 1, 1])
    >>> b.masks[0][0, 0, :7, :7].int().tolist()[4]
    [1, 1, 0, 0, 1, 0, 0]
    """
    tokens, scored, masks, size = [], [], [], 0            # tokens: (id, position, branch)
    for group in groups:
        shared = common_prefix([ids[:n] for ids, n in group])
        begin = len(tokens)
        tokens += [(token, i, 0) for i, token in enumerate(group[0][0][:shared])]
        for k, (ids, n) in enumerate(group, 1):
            start = len(tokens) - shared                   # the index of position p is start + p
            scored += [(begin + shared - 1 if p == shared else start + p - 1, ids[p], size)
                       for p in range(n, len(ids))]
            tokens += [(ids[p], p, k) for p in range(shared, len(ids))]
            size += 1
        tokens += [(0, 0, -1)] * (-(len(tokens) - begin) % 16)            # few distinct shapes
        masks.append(row_mask(torch.tensor([k for _, _, k in tokens[begin:]])))
    ids, positions, _ = torch.tensor(tokens).T.contiguous()[:, None]      # (1, S) each
    source, target, owner = torch.tensor(scored, dtype=torch.long).reshape(-1, 3).T.contiguous()
    return Batch(ids, positions, masks, source, target, owner, size)


def row_mask(branch):
    """(1, 1, T, T) bool of a row's branches (T,): 0 prefix, 1.. branches, -1 padding.  True where a
    query may attend: before it, within the prefix and its own branch."""
    seen = (branch == 0) | (branch[:, None] == branch)
    return (seen & torch.ones_like(seen).tril())[None, None]


def common_prefix(sequences):
    """The length of the longest common prefix of all sequences."""
    low, high = min(sequences), max(sequences)             # in sorted order, these differ first
    return next((i for i, (a, b) in enumerate(zip(low, high)) if a != b), min(len(low), len(high)))


def sequence_logprobs(model, batch):
    """log p(answer | prompt) of each sequence: the SUM of its scored tokens' log-probabilities.

    Returns (N,) float32, differentiable.  Main and opponent are both scored by this function."""
    hidden = model(batch.ids, batch.positions, batch.masks)               # (1, S, D)
    logp = token_logprobs(hidden[0, batch.source], model.head, batch.target)
    return logp.new_zeros(batch.size).index_add(0, batch.owner, logp)


def keep_freed_memory():
    """Let glibc keep what torch frees on a CPU, in one arena for all threads: fetching fresh pages
    for each tensor takes longer than computing it, and arenas grow.  Elsewhere it has no effect."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        for setting, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1)):
            libc.mallopt(setting, value)


M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8     # malloc.h


def fast_bf16(device):
    """Whether bfloat16 matrix products are faster: on GPUs and on CPUs with AMX or AVX512_BF16."""
    return (device.type == "cuda" or torch.cpu._is_amx_tile_supported()
            or torch.cpu._is_avx512_bf16_supported())


# ---------------------------------------------------------------------------------------------
# Generation: a static kv cache; rows that end make room for new prompts

@dataclass
class Sample:
    """One answer: its token ids, and the end token after them; None if it was cut off."""
    ids: list
    end: int | None = None

    @property
    def finished(self):
        return self.end is not None

    @property
    def scored(self):
        """The ids that the model chose, its own end token among them."""
        return self.ids + [self.end] * self.finished


class KVCache:
    """Keys and values of `rows` sequences with room for `capacity` positions each, and the forward
    pass that reads and extends them."""

    def __init__(self, model, rows, capacity):
        c = model.config
        shape = (c.num_hidden_layers, 2, rows, c.num_key_value_heads, capacity, c.head_dim)
        self.model, dtype, device = model, model.head.dtype, model.device
        if device.type == "cuda" and math.prod(shape) * dtype.itemsize > free_memory(device) / 2:
            raise torch.OutOfMemoryError(f"a kv cache of {rows} rows")    # prompts need some too
        self.data = torch.zeros(shape, dtype=dtype, device=device)
        self.graphs, self.pool = {} if device.type == "cuda" else None, None
        self.ids, self.start = torch.zeros(2, rows, dtype=torch.long, device=device)

    def advance(self, first, ids, start, last, width):
        """Read ids (B, T) into rows first .. first + B - 1 from positions start (B,) on; logits
        (B, V) at each row's column last (B,).  width: the largest start + T.

        Columns after `last` are padding: what they write lies past the row's end, masked until it
        is overwritten."""
        device, (B, T), width = self.data.device, ids.shape, min(width, self.data.shape[4])
        positions = start[:, None] + torch.arange(T, device=device)               # (B, T)
        positions = positions.clamp(max=self.data.shape[4] - 1)
        mask = torch.arange(width, device=device) <= positions[:, None, :, None]  # (B, 1, T, width)
        self.rows, self.positions, self.width = slice(first, first + B), positions, width
        hidden = self.model(ids, positions, [mask], self)
        return logits(hidden[torch.arange(B, device=device), last], self.model.head)

    def step(self, last, start, longest):
        """Decode a token: logits (B, V) after the rows' last tokens (B,) at positions start (B,).

        On a GPU by a CUDA graph, since launching the kernels takes longer than running them; there
        is one for each (rows, width), both rounded up to few values.  Rows past B compute what
        nobody reads."""
        if self.graphs is None:
            return self.advance(0, last[:, None], start, start * 0, longest)
        B, most, capacity = len(last), self.data.shape[2], self.data.shape[4]
        key = (min(most, max(2, 1 << (B - 1).bit_length())),          # the next power of two
               min(capacity, -(-longest // 256) * 256))
        self.ids[:B], self.start[:B] = last, start
        if key not in self.graphs:
            self.graphs[key] = self.capture(*key)
        graph, logits = self.graphs[key]
        graph.replay()
        return logits[:B]

    def capture(self, rows, width):
        """(CUDA graph, its logits) of a step; graphs share their memory, one runs at a time."""
        def run():
            return self.advance(0, self.ids[:rows, None], self.start[:rows],
                                torch.zeros_like(self.start[:rows]), width)

        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            run()                                          # what is set up once is set up here
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            logits = run()
        self.pool = graph.pool()
        return graph, logits

    def layer(self, i):
        """The function that attention calls: it stores a call's keys and values (B, K, T, E) and
        returns those of all positions (B, K, width, E), as views of the cache."""
        cached = self.data[i, :, self.rows]                               # (2, B, K, C, E)
        rows = torch.arange(cached.shape[1], device=cached.device)[:, None]

        def store(*new):
            for old, x in zip(cached, new):
                old[rows, :, self.positions] = x.transpose(1, 2)
            return cached[:, :, :, :self.width].unbind(0)
        return store

    def copy(self, other, source, target, width):
        """Copy the first `width` positions of row `source` of another cache to row `target`."""
        self.data[:, :, target, :, :width] = other.data[:, :, source, :, :width]


def free_memory(device):
    """Bytes of a GPU that nothing holds, what torch keeps for reuse among them."""
    return (torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device))


class PrefixCache:
    """A kv cache of one row with the prefix that recent prompts share (a schema, or the prompt of
    n samples): it is read once and copied into their rows."""

    def __init__(self, model, capacity):
        self.cache, self.ids = KVCache(model, 1, capacity), []

    def extend(self, ids, shared):
        """How many first tokens of a prompt are cached: `shared` of them, where reading those pays,
        else those that are cached already."""
        have = common_prefix([self.ids, ids[:-1]])         # the last token's logits are wanted
        if shared - have < 16:
            return have
        new = torch.tensor([ids[have:shared]], device=self.cache.data.device)
        start = torch.tensor([have], device=new.device)
        self.cache.advance(0, new, start, start * 0, shared)
        self.ids = ids[:shared]
        return shared


def bucket_by_length(lengths, most=8192):
    """Split the indices of `lengths` into batches, shortest first, in which padding adds at most a
    quarter or 256 tokens; `most` tokens in a batch, or one row.

    >>> bucket_by_length([900, 10, 800, 11])
    [[1, 3], [2, 0]]
    """
    buckets, total = [], 0
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        total += lengths[i]
        padded = lengths[i] * (len(buckets[-1]) + 1) if buckets else 0
        if not buckets or padded > min(most, total + max(total // 4, 256)):
            buckets.append([])
            total = lengths[i]
        buckets[-1].append(i)
    return buckets


def sample_token(logits, temperature, u):
    """Next tokens (B,) from logits (B, V): the likeliest at temperature 0, else the first at which
    the cumulative probability reaches u (B,), in (0, 1].  No GPU-CPU sync."""
    if temperature == 0:
        return logits.argmax(-1)
    p = (logits / temperature).softmax(-1)
    # Of a single row a GPU takes the sums in another order each time.
    below = p.expand(max(2, len(p)), -1).cumsum(-1)[:len(p)] if p.is_cuda else p.cumsum(-1)
    return torch.searchsorted(below, u[:, None] * below[:, -1:])[:, 0]


def random_numbers(seeds, n, most):
    """Numbers in (0, 1] for n samples of each seed's prompt, one a token: (len(seeds) * n, most).
    Each prompt has a stream of its own: its samples do not depend on what is decoded beside it, nor
    on the number of ranks."""
    generator = torch.Generator()
    return 1 - torch.cat([torch.rand(n, most, generator=generator.manual_seed(seed))
                          for seed in seeds])


@dataclass
class Row:
    """A row of the decode batch: its Sample, and how many positions of the cache it fills."""
    sample: Sample
    length: int
    most: int                     # tokens that the answer may have


SYNC_EVERY = {"cuda": 8}      # tokens decoded between two looks at which rows have ended


@torch.no_grad()
def generate(model, prompts, max_new=128, temperature=0.0, n=1, seed=0, batch_size=64,
             progress=None):
    """n Samples of each prompt (lists of token ids), in order: n of the first, n of the second, ...

    Rows have their own lengths (no left padding) and fill the cache from its first row on: when one
    ends, the last row moves into its place; when a quarter of the rows is free, new prompts are
    read.  Greedy at temperature 0; the same seed gives the same samples.  seed: of the first
    prompt, the next one's is one higher; or a list.  progress(n) is called as n rows end.  Answers
    are cut off at max_new tokens or at the model's context; DataError where a prompt leaves no room
    for one, or a GPU none for a row.  Adapters are merged into the weights for the time being."""
    context, longest = model.config.context or math.inf, max(map(len, prompts), default=0)
    if longest >= context:
        raise DataError(f"a prompt has {longest} tokens, which leaves no room for an answer in the "
                        f"model's context of {context} (max_position_embeddings)")
    seeds = seed if isinstance(seed, list) else range(seed, seed + len(prompts))
    with sampling(model):
        while rows := min(batch_size, n * len(prompts), model.caches.get("most rows", batch_size)):
            samples = [Sample([]) for _ in prompts for _ in range(n)]
            try:
                fill_samples(model, samples, prompts, n, max_new, temperature, seeds, rows,
                             progress)
                return samples
            except torch.OutOfMemoryError:                 # what it held is free after this line
                print(f"  not enough memory to decode {rows} rows side by side: {rows // 2} now")
            model.caches.clear()
            model.caches["most rows"] = rows // 2
            torch.cuda.empty_cache()
    if prompts:
        raise DataError(f"the GPU has no memory for an answer behind {longest} tokens of prompt")
    return []


def fill_samples(model, samples, prompts, n, max_new, temperature, seeds, rows, progress):
    context = model.config.context or math.inf
    jobs = sorted(((prompts[i // n], i) for i in range(len(samples))), reverse=True)
    steps = SYNC_EVERY.get(model.device.type, 1)
    cache, prefix = caches(model, rows, max(map(len, prompts)) + max_new + steps)
    u = random_numbers(seeds, n, max_new + steps).to(model.device) if temperature else None
    batch_size, rows, eos = rows, [], set(model.config.eos)
    # Of each row: its last token, its job, how many tokens it has.
    state = torch.zeros(3, 0, dtype=torch.long, device=model.device)
    while jobs or rows:
        first = len(rows)
        if jobs and (batch_size - first) * 4 >= batch_size:
            taken = [jobs.pop() for _ in range(min(batch_size - first, len(jobs)))]
            order, logits = prefill(cache, prefix, first, [ids for ids, _ in taken])
            taken = [taken[i] for i in order]
            rows += [Row(samples[job], len(ids), min(max_new, context - len(ids)))
                     for ids, job in taken]
            job = torch.tensor([job for _, job in taken], device=model.device)
            tokens = sample_token(logits, temperature, u[job, 0] if temperature else None)[:, None]
            state = torch.cat([state, torch.stack([tokens[:, 0], job, job * 0 + 1])], 1)
        else:
            first, tokens = 0, decode(cache, rows, state, steps, temperature, u)
        ended = [i for i, new in enumerate(tokens.tolist(), first)
                 if append(rows[i], new, eos)]
        if ended:
            state = state[:, compact_slots(cache, rows, ended)]
        if ended and progress:
            progress(len(ended))


def caches(model, rows, capacity):
    """The KVCache and the PrefixCache of a generate() call: those of an earlier one in the same
    `sampling` block where they are large enough."""
    capacity = -(-capacity // 256) * 256
    cache, prefix = model.caches.pop(rows, (None, None))
    if not cache or cache.data.shape[4] < capacity:
        cache, prefix = KVCache(model, rows, capacity), PrefixCache(model, capacity)
    model.caches[rows] = cache, prefix
    return cache, prefix


def prefill(cache, prefix, first, prompts):
    """Read sorted prompts into the cache's rows from `first` on; the order in which they lie there,
    and the logits (B, V) after each one's end, in that order."""
    near = [common_prefix(pair) for pair in zip([[], *prompts], [*prompts, []])]
    shared = [min(max(pair), len(ids) - 1) for ids, *pair in zip(prompts, near, near[1:])]
    buckets = bucket_by_length([len(ids) - known for ids, known in zip(prompts, shared)])
    order, held, logits = sum(buckets, []), [], []
    for i, ids in enumerate(prompts):
        held.append(prefix.extend(ids, shared[i]))
        cache.copy(prefix.cache, 0, first + order.index(i), held[i])
    for bucket in buckets:
        rests = [prompts[i][held[i]:] for i in bucket]
        T = max(map(len, rests))
        ids, start, last = (torch.tensor(x, device=cache.data.device) for x in (
            [rest + [0] * (T - len(rest)) for rest in rests],
            [held[i] for i in bucket], [len(rest) - 1 for rest in rests]))
        logits.append(cache.advance(first, ids, start, last,
                                    max(held[i] for i in bucket) + T))
        first += len(bucket)
    return order, torch.cat(logits)


def decode(cache, rows, state, steps, temperature, u):
    """The next tokens (B, steps) of all rows, whose last tokens are not in the cache yet; state
    (3, B) and the random numbers u: see fill_samples."""
    (last, job, made), start = state, torch.tensor([row.length for row in rows],
                                                   device=state.device)
    longest, tokens = max(row.length for row in rows), []
    for i in range(steps):
        logits = cache.step(last, start + i, longest + i + 1)
        last = sample_token(logits, temperature, u[job, made + i] if temperature else None)
        tokens.append(last)
    for row in rows:
        row.length += steps
    state[0], state[2] = last, made + steps
    return torch.stack(tokens, 1)


def append(row, tokens, eos):
    """Append new tokens to a row's sample; True if it has ended."""
    for token in tokens:
        if token in eos:
            row.sample.end = token
            return True
        row.sample.ids.append(token)
        if len(row.sample.ids) >= row.most:
            return True
    return False


def compact_slots(cache, rows, ended):
    """Remove the rows of these indices and move the last rows into their places; for each row that
    is left, its index before."""
    place = list(range(len(rows)))
    for i in reversed(ended):
        place[i], rows[i] = place[-1], rows[-1]
        place.pop(), rows.pop()
    for i, before in enumerate(place):
        if i != before:
            cache.copy(cache, before, i, rows[i].length)
    return place
