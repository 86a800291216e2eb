"""Write the goldens beside this file: tiny random checkpoints and what transformers makes of them.

    pip install torch transformers peft
    python tests/goldens/make.py            writes the folders, the logits and the rendered prompts
    python tests/goldens/make.py --check    the way back: what model.py saves, read by transformers
    python tests/goldens/make.py real       real_models.json: ids and logits of real checkpoints,
                                            in folders of SPFT_MODELS, else ../models

The tests read the files only; neither library is needed to run them.
"""

import json
import os
import shutil
import sys
import tempfile
import types
from pathlib import Path

import peft
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
import model as lm                                                        # noqa: E402
from data.benchmarks.reader import Data                                   # noqa: E402
from data.pretraining.tokenizer import train_tokenizer                    # noqa: E402
from data.prompts.prompts import question_prompt, sql_prompt              # noqa: E402
from data.prompts.schema_text import ddl                                  # noqa: E402
from data.prompts.tokenizer import TODAY, Tokenizer                       # noqa: E402

LENGTHS = (23, 40, 7)                 # of the rows of the ragged batch
SIZES = dict(vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=2)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=128)
OLD_LLAMA3 = {k: v for k, v in LLAMA3.items() if k != "rope_theta"}

# name: family, settings of its config, keys of config.json to rewrite the old way (None: as it is)
CASES = {
    "llama2": ("Llama", dict(num_key_value_heads=4), dict(rope_theta=10000.0)),
    "llama3": ("Llama", dict(rope_parameters=LLAMA3, head_dim=8), None),
    "llama3-old-keys": ("Llama", dict(rope_parameters=LLAMA3, head_dim=8,
                                      tie_word_embeddings=True),
                        dict(rope_theta=10000.0, rope_scaling=OLD_LLAMA3)),
    "llama-bias": ("Llama", dict(attention_bias=True, tie_word_embeddings=True), None),
    "codellama": ("Llama", dict(rope_parameters=dict(rope_type="default", rope_theta=1e6)), None),
    "deepseek-coder": ("Llama", dict(rope_parameters=dict(rope_type="linear", factor=4.0,
                                                          rope_theta=100000.0)),
                       dict(rope_theta=100000.0, rope_scaling=dict(type="linear", factor=4.0))),
    "qwen2": ("Qwen2", dict(), None),
    "qwen2-tied": ("Qwen2", dict(tie_word_embeddings=True), dict(rope_theta=10000.0)),
    "qwen2-window": ("Qwen2", dict(use_sliding_window=True, sliding_window=9, max_window_layers=1),
                     dict(rope_theta=10000.0, layer_types=None)),
    "qwen3": ("Qwen3", dict(head_dim=8), None),
    "qwen3-tied": ("Qwen3", dict(head_dim=8, tie_word_embeddings=True), None),
    "mistral": ("Mistral", dict(sliding_window=8), None),
    "mistral-tied": ("Mistral", dict(sliding_window=None, head_dim=6, tie_word_embeddings=True),
                     dict(rope_theta=10000.0)),
}
SHARDED = "llama2"                    # this one comes in several files
# name: checkpoint, settings of the adapter
ADAPTERS = {
    "qwen2": dict(r=4, lora_alpha=10, target_modules=["q_proj", "v_proj", "down_proj"]),
    "llama3": dict(r=2, lora_alpha=4, target_modules="all-linear", use_rslora=True),
    "qwen3-tied": dict(r=3, lora_alpha=6, target_modules=r".*layers\.1\..*(k|o|gate)_proj"),
}

# bos and eos of each of templates/*.jinja, which are in the manner of these checkpoints' own, and
# the other tokens that are more than text; those of MORE are no special ones
TEMPLATES = {"llama3": ("<|begin_of_text|>", "<|eot_id|>"), "qwen2.5": ("", "<|im_end|>"),
             "deepseek-coder": ("<bos>", "<|EOT|>"), "mistral": ("<s>", "</s>"),
             "llama2": ("<s>", "</s>"), "llama3.2": ("<|begin_of_text|>", "<|eot_id|>"),
             "gemma": ("<bos>", "<eos>"), "phi3": ("<s>", "<|endoftext|>"), "zephyr": ("", "</s>"),
             "qwen3": ("", "<|im_end|>"), "smollm2": ("<|im_start|>", "<|im_end|>"),
             "generation": ("<s>", "</s>"), "tojson": ("<s>", "</s>"), "loops": ("", "</s>")}
SPECIAL = ("<|start_header_id|>", "<|end_header_id|>", "<|im_start|>", "<|user|>", "<|assistant|>",
           "<|end|>", "<start_of_turn>", "<end_of_turn>")
MORE = ("<think>", "</think>", "<tool_call>", "\n\n\n", "\u00fc")
TEXTS = ("singer(singer_id number key, name text)\nquestion: How many singers are there?\nsql:\n",
         "  \u00fcber <b>'Zo\u00eb' & \"\u4e2d\u6587\"</b>?\n\n\n\t x < 3 AND y <> '[a]' "
         "{{ bos_token }} \n ")

MODELS = Path(os.environ.get("SPFT_MODELS") or HERE.parents[2] / "models")
# name: precision; in float32 the largest needs more memory than many machines have
REAL = {"smollm2-135m": "float32", "qwen2.5-coder-0.5b": "float32",
        "qwen2.5-coder-1.5b": "bfloat16"}
REAL_TEXTS = (
    "SELECT T1.name, COUNT(*) FROM singer AS T1 JOIN concert AS T2 ON T1.id = T2.singer_id "
    "GROUP BY T1.name HAVING COUNT(*) >= 2 ORDER BY T1.age DESC LIMIT 1",
    'CREATE TABLE "Order Details" (\n  order_id INTEGER,\n  price REAL, -- in \u20ac\n'
    "  PRIMARY KEY (order_id)\n);\n",
    "WHERE name LIKE '%O''Brien_%' AND x <> -1.5e-3 OR y != 0x1F",
    "  two spaces before,   three between, and some behind   ", "\tif (x) {\n\t\treturn\t1;\n\t}\n",
    "one\n\ntwo\r\n\r\n\n three \n \n  four\n", "0 7 42 1999 20240131 3.14159 1,234,567 1_000",
    "I'll say they've DON'T, we'RE sure it's Zo\u00eb's", "\u00fcber stra\u00dfe na\u00efve \u0130",
    "e\u0301 and \u00e9, \u212b and \ufb01: composed or not", "\u4e2d\u6587\u67e5\u8be2\uff0c"
    "\u65e5\u672c\u8a9e \u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u0627\u0644 \u0967\u0968\u0969",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2192 \u00a0 \u2003 a\u0000b",
    "snake_case.camelCase")
REAL_ANSWER = "SELECT COUNT(*) FROM member WHERE city = 'Oslo'"


def randomise(model, seed):
    """Weights large enough that every part of the model shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(1 + 0.2 * noise if "norm" in name else 0.3 * noise)


def ragged(seed):
    """ids (B, T) padded with 0, and their mask."""
    generator = torch.Generator().manual_seed(1000 + seed)
    ids = torch.randint(3, SIZES["vocab_size"], (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return ids * mask, mask


@torch.no_grad()
def logits_of(folder, ids, mask, adapter=None):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter:
        model = peft.PeftModel.from_pretrained(model, adapter)
    return model.eval()(input_ids=ids, attention_mask=mask.long()).logits * mask[..., None]


def rewrite(folder, keys):
    """config.json with the rotary settings under their keys of before transformers 5."""
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    raw.pop("rope_parameters")
    raw.update(keys, torch_dtype=raw.pop("dtype"))
    path.write_text(json.dumps({k: v for k, v in raw.items() if v is not None}, indent=2) + "\n")


def make(name, seed):
    """One folder with its checkpoint and expected.safetensors (ids, mask, logits)."""
    family, settings, old = CASES[name]
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    config = getattr(transformers, family + "Config")(**{**SIZES, **settings})
    model = getattr(transformers, family + "ForCausalLM")(config)
    randomise(model, seed)
    model.save_pretrained(folder, max_shard_size="8KB" if name == SHARDED else "5GB")
    ids, mask = ragged(seed)
    expected = logits_of(folder, ids, mask)
    if old is not None:
        rewrite(folder, old)
        assert torch.equal(logits_of(folder, ids, mask), expected), name
    save_file({"ids": ids, "mask": mask, "logits": expected}, folder / "expected.safetensors")
    print(f"{name}: largest logit {expected.abs().max():.1f}, "
          f"{sum(f.stat().st_size for f in folder.iterdir()) / 1e3:.0f} kB")


def make_adapter(name, seed):
    """adapters/NAME: what PEFT saves, and the logits with it."""
    folder = HERE / "adapters" / name
    shutil.rmtree(folder, ignore_errors=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(HERE / name, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **ADAPTERS[name]))
    randomise(torch.nn.ParameterDict({k.replace(".", "_"): p for k, p in model.named_parameters()
                                      if "lora_" in k}), seed)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    edit = json.loads((folder / "adapter_config.json").read_text())
    edit["base_model_name_or_path"] = f"tests/goldens/{name}"
    (folder / "adapter_config.json").write_text(json.dumps(edit, indent=2) + "\n")
    ids, mask = ragged(seed)
    expected = logits_of(HERE / name, ids, mask, folder)
    change = (expected - logits_of(HERE / name, ids, mask)).abs().max()
    save_file({"ids": ids, "mask": mask, "logits": expected}, folder / "expected.safetensors")
    print(f"adapter of {name}: logits change by up to {change:.1f}")


def make_prompts():
    """prompts.json: what transformers renders from each template, and the ids; tokenizer.json."""
    made = {}
    transformers.utils.chat_template_utils.datetime = types.SimpleNamespace(now=lambda: TODAY)
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer(TEXTS, 320, folder)
        Tokenizer(folder).core.save(str(HERE / "tokenizer.json"), pretty=False)
    for name, (bos, eos) in TEMPLATES.items():
        core = tokenizers.Tokenizer.from_file(str(HERE / "tokenizer.json"))
        core.add_special_tokens([token for token in (bos, eos, *SPECIAL) if token])
        core.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in MORE])
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=core, bos_token=bos or None, eos_token=eos, unk_token="<end>",
            chat_template=(HERE / "templates" / f"{name}.jinja").read_text())
        made[name] = {"bos": bos, "eos": eos, "special": SPECIAL, "more": MORE, "turns": [
            {"text": text, "expected": tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True),
             "ids": tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]}
            for text in TEXTS]}
    (HERE / "prompts.json").write_text(json.dumps(made) + "\n")


def real_prompts():
    """Texts of three prompts, as training and asking write them, on a database of the demo."""
    schema = Data(HERE.parents[1] / "data/demo").schema("library")
    question = "How many members live in Oslo?"
    return [sql_prompt(schema, question, [("member", "city", "Oslo")], ddl, chat=True),
            question_prompt(schema, REAL_ANSWER, ddl, chat=True),
            sql_prompt(schema, question, [], chat=True, shots=[
                ("What is na\u00efve?", "SELECT price FROM t WHERE kind = 'na\u00efve'")])]


def make_real():
    """real_models.json: texts, and what transformers makes of them with each model."""
    prompts = real_prompts()
    made = {"texts": REAL_TEXTS, "prompts": prompts, "answer": REAL_ANSWER, "models": {}}
    for name, dtype in REAL.items():
        tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS / name)
        chats = [tokenizer.apply_chat_template([{"role": "user", "content": text}],
                                               add_generation_prompt=True)["input_ids"]
                 for text in prompts]
        answer = tokenizer.encode(REAL_ANSWER, add_special_tokens=False) + [tokenizer.eos_token_id]
        logits = answer_logits(MODELS / name, dtype, chats[0], answer)
        top = logits[0].topk(10)
        logp = logits.log_softmax(-1)[range(len(answer)), answer].sum()
        made["models"][name] = {
            "dtype": dtype,
            "ids": [tokenizer.encode(text, add_special_tokens=False) for text in REAL_TEXTS],
            "prompts": chats, "answer": answer, "top": top.indices.tolist(),
            "logits": [round(x, 5) for x in top.values.tolist()],
            "mean": round(float(logits[0].mean()), 5), "std": round(float(logits[0].std()), 5),
            "logp": round(float(logp), 5)}
        print(f"{name}: largest logit {top.values[0]:.2f}, log p of the answer {logp:.3f}")
    (HERE / "real_models.json").write_text(json.dumps(made) + "\n")


@torch.no_grad()
def answer_logits(folder, dtype, prompt, answer):
    """Logits (len(answer), V) that predict each token of an answer, in float32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    ids = torch.tensor([prompt + answer[:-1]])
    return model.eval()(ids, logits_to_keep=len(answer)).logits[0].float()


def check_real(name):
    """Load a real model with model.py, save, read with transformers: the logits of the golden."""
    known = json.loads((HERE / "real_models.json").read_text())["models"][name]
    with tempfile.TemporaryDirectory() as folder:
        lm.save_pretrained(lm.load_pretrained(MODELS / name, dtype=torch.bfloat16), folder)
        logits = answer_logits(folder, known["dtype"], known["prompts"][0], known["answer"])[0]
    print(f"{name}: saved and read by transformers, logits differ by at most "
          f"{(logits[known['top']] - torch.tensor(known['logits'])).abs().max():.1e}")


def check(name):
    """Load with model.py, save, read with transformers: the logits of the golden."""
    expected = load_file(HERE / name / "expected.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        lm.save_pretrained(lm.load_pretrained(HERE / name), folder)
        logits = logits_of(folder, expected["ids"], expected["mask"])
    print(f"{name}: saved and read by transformers, logits differ by at most "
          f"{(logits - expected['logits']).abs().max():.1e}")


def check_adapter(name):
    """Load with model.py, save, read with PEFT: the logits of the golden; and merged the same."""
    expected = load_file(HERE / "adapters" / name / "expected.safetensors")
    model = lm.load_adapter(lm.load_pretrained(HERE / name), HERE / "adapters" / name)
    with tempfile.TemporaryDirectory() as folder:
        lm.save_adapter(model, folder, HERE / name)
        logits = logits_of(HERE / name, expected["ids"], expected["mask"], folder)
    with tempfile.TemporaryDirectory() as folder:
        lm.save_pretrained(model, folder)
        merged = logits_of(folder, expected["ids"], expected["mask"])
    print(f"adapter of {name}: saved and read by PEFT, logits differ by at most "
          f"{(logits - expected['logits']).abs().max():.1e}; merged, by "
          f"{(merged - expected['logits']).abs().max():.1e}")


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if sys.argv[1:] == ["real"]:
        sys.exit(make_real())
    if sys.argv[1:] != ["--check"]:
        make_prompts()
        for seed, name in enumerate(CASES):
            make(name, seed)
        for seed, name in enumerate(ADAPTERS):
            make_adapter(name, seed)
    for name in CASES:
        check(name)
    for name in ADAPTERS:
        check_adapter(name)
    for name in REAL:
        if (MODELS / name).exists():
            check_real(name)
        else:
            print(f"{name}: not checked, {MODELS / name} is missing")
