"""A checkpoint's tokeniser and chat template, against transformers' ids and by themselves."""

import json
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import load_file
from test_model import all_logits, difference, edit_json, truncate

import model as lm
from data.adapter import make
from data.pretraining.tokenizer import train_tokenizer
from data.prompts.tokenizer import Tokenizer
from sqlexec import DataError

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture
def written(tmp_path):
    """A folder with a tokeniser over a few words, tokenizer_config.json and config.json."""
    def write(vocab_size=400, eos=(0,), **settings):
        train_tokenizer(["how many singers? SELECT COUNT(*)"], 300, tmp_path)
        core = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        core.add_special_tokens([w for name, w in settings.items() if name.endswith("_token")])
        core.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        (tmp_path / "config.json").write_text(json.dumps(
            lm.ModelConfig.tiny(vocab_size, eos=eos).to_json()))
        return tmp_path
    return write


PROMPTS = json.loads((GOLDENS / "prompts.json").read_text())


def prompter(name, folder):
    """The golden's Tokenizer, in a folder with its template."""
    case = PROMPTS[name]
    core = tokenizers.Tokenizer.from_file(str(GOLDENS / "tokenizer.json"))
    core.add_special_tokens([t for t in (case["bos"], case["eos"], *case["special"]) if t])
    core.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in case["more"]])
    core.save(str(folder / "tokenizer.json"))
    template = (GOLDENS / "templates" / f"{name}.jinja").read_text()
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "bos_token": case["bos"] or None, "eos_token": {"content": case["eos"]},
        "unk_token": "<end>", "add_bos_token": True, "chat_template": template}))
    return Tokenizer(folder)


@pytest.mark.parametrize("name", PROMPTS)
def test_chat_templates_give_the_text_and_ids_of_transformers(name, tmp_path):
    tokenizer = prompter(name, tmp_path)
    for turn in PROMPTS[name]["turns"]:
        assert tokenizer.render(turn["text"]) == turn["expected"]
        assert tokenizer.prompt(turn["text"]) == turn["ids"]


@pytest.mark.parametrize("name", PROMPTS)
def test_special_tokens_in_a_users_text_are_text(name, tmp_path):
    """In prompts with a template and without, and in answers; a template's own stay special."""
    tokenizer = prompter(name, tmp_path)
    text = " ".join(tokenizer.control) + " '<end>' <<end>> </s><s>\n\n\n <|im_end|>"
    assert len(tokenizer.control) > 12
    special = {tokenizer.core.token_to_id(token) for token in tokenizer.control}
    plain = tokenizer.encode(text)
    assert tokenizer.decode(plain) == text and not special & set(plain)
    ids, empty = tokenizer.prompt(text), tokenizer.prompt("x")
    if name not in ("tojson", "loops"):                    # which do not show the text once, as is
        assert tokenizer.core.decode(ids, skip_special_tokens=False) == tokenizer.render(text)
        assert [t for t in ids if t in special] == [t for t in empty if t in special]
    tokenizer.template = None
    assert tokenizer.prompt(text) == plain


def test_special_tokens_put_before_a_prompt_stay_behind_none_and_text_is_text(written):
    folder = written(bos_token="<s>", eos_token="</s>")
    core = Tokenizer(folder).core
    bos, eos = map(core.token_to_id, ("<s>", "</s>"))
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", bos), ("</s>", eos)])
    core.enable_truncation(5)
    core.enable_padding(length=64)
    core.save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer(folder)                       # neither cuts off nor pads
    for text in ("how many singers, how many", "how many <s> </s>"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and bos not in ids and eos not in ids
        assert tokenizer.prompt(text) == [bos] + ids


def test_a_text_has_the_same_pieces_each_time(written):
    """Also where the tokeniser was trained with BPE dropout."""
    folder, text = written(), "SELECT name FROM singer WHERE country = 'France'"
    raw = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(
        {**raw, "model": {**raw["model"], "dropout": 0.5}}))
    drawn = [tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
             for _ in range(200)]
    assert len(set(map(tuple, drawn))) > 1
    assert {tuple(Tokenizer(folder).encode(text)) for _ in range(5)} == {
        tuple(Tokenizer(written()).encode(text))}


def test_a_template_file_that_is_not_text_is_refused(written):
    folder = written()
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(DataError, match="chat_template.jinja: cannot be read"):
        Tokenizer(folder)


def test_strftime_now_is_a_date_that_stays(written):
    folder = written(chat_template="{{ strftime_now('%d %b %Y') }}")
    assert Tokenizer(folder).render("") == "26 Jul 2024"


def test_an_adapters_own_tokeniser_and_template_come_first(written, tmp_path_factory):
    base = written(chat_template="base {{ messages[0].content }}", eos_token="<stop>")
    folder = tmp_path_factory.mktemp("adapter")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    assert Tokenizer(folder).render("x") == "base x"
    (folder / "chat_template.jinja").write_text("own {{ messages[0].content }}")
    assert Tokenizer(folder).render("x") == "own x"     # its template, and the base's tokeniser
    (folder / "chat_template.jinja").unlink()
    core = Tokenizer(base).core
    core.add_special_tokens(["<new>"])
    core.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"chat_template": "new {{ bos_token }}"}')
    (base / "chat_template.jinja").write_text("newer base")
    own = Tokenizer(folder)
    assert own.render("x") == "new " and own.core.token_to_id("<new>") == core.get_vocab_size() - 1
    copy = tmp_path_factory.mktemp("copy")
    own.save(copy)
    assert Tokenizer(copy).render("x") == "new "
    assert Tokenizer(copy).core.token_to_id("<new>") == own.core.token_to_id("<new>")
    (folder / "tokenizer_config.json").write_text("{}")    # a whole tokeniser without a template
    assert Tokenizer(folder).template is None
    edit_json(base / "config.json", vocab_size=core.get_vocab_size() - 1)
    with pytest.raises(DataError, match="tokenizer.json has token .*, config.json says vocab_size"):
        Tokenizer(folder)


def test_the_template_may_lie_in_a_file_of_its_own_or_be_one_of_several(written):
    folder = written(chat_template=[
        {"name": "tool_use", "template": "no"},
        {"name": "default", "template": "a {{ messages[0]['content'] }}"}])
    tokenizer = Tokenizer(folder)
    assert tokenizer.decode(tokenizer.prompt("SELECT")) == "a SELECT"
    (folder / "chat_template.jinja").write_text("b {{ messages[0]['content'] }}")
    tokenizer = Tokenizer(folder)
    assert tokenizer.decode(tokenizer.prompt("SELECT")) == "b SELECT"


def test_without_a_template_the_prompt_is_plain_with_the_bos_of_the_tokeniser(written):
    folder = written(bos_token="<s>")
    tokenizer = Tokenizer(folder)
    assert tokenizer.prompt("how many") == tokenizer.encode("how many")
    bos = tokenizer.core.token_to_id("<s>")
    tokenizer.core.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)])
    assert tokenizer.prompt("how many") == [bos] + tokenizer.encode("how many")
    assert bos not in tokenizer.encode("how many")


@pytest.mark.parametrize("template, message", [
    ("{{ raise_exception('one turn only') }}", "the chat template fails .one turn only"),
    ("{% if %}", "the chat template does not parse"),
    ("{{ ''.__class__.__mro__ }}", "the chat template fails"),
    ("{{ 1 + 'a' }}", "the chat template fails"),
    ("{{ 1 / 0 }}", "the chat template fails"),
    ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "the chat template fails"),
    ([{"name": "tool_use", "template": "x"}], "no text, nor has one named default"),
    ({"default": "x"}, "no text, nor has one named default"),
])
def test_a_template_that_fails_or_reaches_out_is_refused(template, message, written):
    with pytest.raises(DataError, match=message):
        Tokenizer(written(chat_template=template)).prompt("how many")


def test_the_end_token_is_the_tokenisers_own_if_the_model_stops_at_it(written):
    folder = written(eos_token="<stop>")
    own = Tokenizer(folder).core.token_to_id("<stop>")
    assert Tokenizer(folder).end == 0                   # the model does not stop at <stop>
    assert Tokenizer(folder).context is None
    edit_json(folder / "config.json", eos_token_id=[5, own], max_position_embeddings=77)
    assert (Tokenizer(folder).end, Tokenizer(folder).context) == (own, 77)
    edit_json(folder / "tokenizer_config.json", eos_token={"content": "<stop>", "lstrip": False})
    assert Tokenizer(folder).end == own


@pytest.mark.parametrize("message, ruin", [
    ("tokenizer.json has token 3.., config.json says vocab_size 200",
     lambda d: edit_json(d / "config.json", vocab_size=200)),
    ("tokenizer.json: not JSON", lambda d: truncate(d / "tokenizer.json")),
    ("tokenizer.json: not a tokenizer", lambda d: (d / "tokenizer.json").write_text("{}")),
    ("tokenizer.json: No such file", lambda d: (d / "tokenizer.json").unlink()),
    ("neither config.json nor the tokeniser has an end token",
     lambda d: edit_json(d / "config.json", eos_token_id=None)),
])
def test_a_broken_tokeniser_is_refused_in_one_clear_line(message, ruin, written):
    folder = written()
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<pad-to-300>"}')
    core = Tokenizer(folder).core
    core.add_special_tokens([f"<extra{i}>" for i in range(310 - core.get_vocab_size())])
    core.save(str(folder / "tokenizer.json"))
    ruin(folder)
    with pytest.raises(DataError, match=message) as error:
        Tokenizer(folder)
    assert "\n" not in str(error.value)


def test_a_saved_tokeniser_gives_the_same_ids(written, tmp_path):
    tokenizer = Tokenizer(written(chat_template="a {{ messages[0]['content'] }}"))
    (tmp_path / "copy").mkdir()
    tokenizer.save(tmp_path / "copy")
    tokenizer.save(tokenizer.folder)                       # over itself: nothing happens
    again = Tokenizer(tmp_path / "copy")
    text = "how many singers are there? SELECT COUNT(*) FROM t WHERE x = 'it''s 12'"
    assert again.prompt(text) == tokenizer.prompt(text) and again.decode(again.encode(text)) == text


def test_a_folder_of_an_adapter_loads_with_its_base_model_and_tokeniser(written, tmp_path):
    base, folder = written(), tmp_path / "adapter"
    model = lm.random_model(lm.ModelConfig.read(base))
    lm.save_pretrained(model, base)
    model = lm.add_lora(model, 2, 4, ["v_proj"])
    for _, layer in lm.lora_layers(model):
        torch.nn.init.normal_(layer.lora_B.weight)
    lm.save_adapter(model, folder, base)
    assert difference(all_logits(lm.load_pretrained(folder), [[5, 6, 7]]),
                      all_logits(model, [[5, 6, 7]])) == 0
    assert Tokenizer(folder).encode("how many") == Tokenizer(base).encode("how many")
    edit_json(folder / lm.ADAPTER_CONFIG, base_model_name_or_path="nobody/has-this")
    assert difference(all_logits(lm.load_pretrained(folder, base=base), [[5, 6, 7]]),
                      all_logits(model, [[5, 6, 7]])) == 0       # --base_model
    assert Tokenizer(folder, base).encode("how many") == Tokenizer(base).encode("how many")
    edit_json(folder / lm.ADAPTER_CONFIG, base_model_name_or_path=None)
    with pytest.raises(DataError, match="base_model_name_or_path is None"):
        lm.load_pretrained(folder)


def test_a_shipped_adapter_is_rounded_and_names_its_base(written, tmp_path, capsys):
    base, source, shipped = written(), tmp_path / "adapter", tmp_path / "shipped"
    model = lm.add_lora(lm.random_model(lm.ModelConfig.read(base)), 2, 4)
    for _, layer in lm.lora_layers(model):
        torch.nn.init.normal_(layer.lora_B.weight)
    lm.save_adapter(model, source, base)
    assert make.main([str(source), "--base", "some/base", "--out", str(shipped)]) in (0, None)
    before, after = (load_file(folder / lm.ADAPTER_WEIGHTS) for folder in (source, shipped))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], before[key].bfloat16()) for key in before)
    settings = [json.loads((folder / lm.ADAPTER_CONFIG).read_text())
                for folder in (source, shipped)]
    assert settings[1] == settings[0] | {"base_model_name_or_path": "some/base"}
    assert make.main([str(tmp_path), "--base", "some/base", "--out", str(shipped)]) == 2
    assert "adapter_config.json" in capsys.readouterr().err
