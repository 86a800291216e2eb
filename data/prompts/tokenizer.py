"""A checkpoint's tokeniser and chat template: text to token ids and back."""

import datetime
import functools
import json
import re
import secrets
import shutil
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.sandbox
import tokenizers

from model import ModelConfig, base_folder, local_folder, read_json
from sqlexec import DataError


class Tokenizer:
    """A checkpoint's tokenizer.json and, where it has one, its chat template.  An adapter's folder
    may have both, or a chat template alone; what it lacks comes from its base model.

    Special tokens spelled out in a text (`</s>`, `<think>`) are encoded as ordinary text: only
    those that the chat template itself writes are special."""

    def __init__(self, name, base=""):
        own, base = local_folder(name), base_folder(name, base)
        self.folders = (own,) if (own / "tokenizer.json").exists() else (own, base)
        path = self.file("tokenizer.json")
        self.folder, raw = path.parent, read_json(path)
        if isinstance(raw.get("model"), dict) and raw["model"].get("dropout"):
            raw["model"]["dropout"] = None                 # of BPE: random pieces, for training it
        text = json.dumps(raw)
        try:
            self.core = tokenizers.Tokenizer.from_str(text)
        except Exception as error:                         # the library raises bare Exception
            raise DataError(f"{path}: not a tokenizer ({error})") from None
        self.core.no_truncation()
        self.core.no_padding()
        self.control = [token.content for token in self.core.get_added_tokens_decoder().values()
                        if token.special or re.fullmatch(r"[<\[].+[>\]]", token.content)]
        self.spelled = re.compile("|".join(
            map(re.escape, sorted(self.control, key=len, reverse=True))) or "(?!)")
        path = self.file("tokenizer_config.json")
        settings = read_json(path) if path.exists() else {}
        texts = {name: token.get("content") if isinstance(token, dict) else token
                 for name, token in settings.items() if name.endswith("_token")}
        self.special = {name: text for name, text in texts.items() if text and type(text) is str}
        source = template_source(self.file("chat_template.jinja"), path, settings)
        self.template = chat_template(path.parent, source) if source else None
        self.end, self.context = 0, None                   # where there is no model yet
        if (base / "config.json").exists():
            config = ModelConfig.read(base)
            self.end, self.context = self.end_token(config), config.context

    def file(self, name):
        """The path of a file in the first folder that has it."""
        return next((f / name for f in self.folders if (f / name).exists()),
                    self.folders[-1] / name)

    def end_token(self, config):
        """The id that ends an answer: the tokeniser's own eos_token, if the model stops at it."""
        largest = max(self.core.get_vocab().values())
        if largest >= config.vocab_size:
            raise DataError(f"{self.folder}: tokenizer.json has token {largest}, config.json says "
                            f"vocab_size {config.vocab_size}")
        own = self.core.token_to_id(self.special.get("eos_token", ""))
        if own is None and not config.eos:
            raise DataError(f"{self.folder}: neither config.json nor the tokeniser has an end "
                            "token")
        return own if own in config.eos or not config.eos else config.eos[0]

    @functools.cached_property
    def guarded(self):
        """The same tokeniser with secret names for its special tokens, which no text spells."""
        text = self.core.to_str()
        for i, token in enumerate(self.control):           # wherever the file names it
            text = text.replace(json.dumps(token, ensure_ascii=False), f'"<{NONCE}{i}>"')
        return tokenizers.Tokenizer.from_str(text)

    def encode(self, text, special=False):
        """Token ids of a text.  special: with those that the tokeniser puts before every text."""
        core = self.guarded if self.spelled.search(text) else self.core
        encoding = core.encode(text, add_special_tokens=special)
        behind = [0, *encoding.special_tokens_mask][::-1].index(0)        # no end after a prompt
        return encoding.ids[:len(encoding.ids) - behind]

    def prompt(self, text):
        """Ids of the prompt that `text` makes: one user turn of the chat template, or plain text
        where there is none."""
        if self.template is None:
            return self.encode(text, special=True)
        if not self.spelled.search(text):
            return self.core.encode(self.render(text), add_special_tokens=False).ids
        number = self.control.index
        # The text's special tokens hide behind numbers while the template's get their secret names.
        chat = self.render(self.spelled.sub(lambda match: f"{NONCE}{number(match[0])}.", text))
        chat = self.spelled.sub(lambda match: f"<{NONCE}{number(match[0])}>", chat)
        chat = re.sub(rf"{NONCE}(\d+)\.", lambda match: self.control[int(match[1])], chat)
        return self.guarded.encode(chat, add_special_tokens=False).ids

    def render(self, text):
        """The checkpoint's chat template around one turn of the user."""
        try:
            return self.template.render(messages=[{"role": "user", "content": text}], tools=None,
                                        documents=None, add_generation_prompt=True,
                                        **self.special)
        except Exception as error:                         # a template can raise anything
            raise DataError(f"{self.folder}: the chat template fails ({error})") from None

    def decode(self, ids):
        return self.core.decode(ids, skip_special_tokens=True)

    def save(self, folder):
        """Copy the tokeniser's files: training it again would give other ids."""
        if Path(folder).resolve() in [own.resolve() for own in self.folders]:
            return
        for name in TOKENIZER_FILES:
            if (path := self.file(name)).exists():
                shutil.copyfile(path, Path(folder) / name)


NONCE = secrets.token_hex(8)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json",
                   "merges.txt", "special_tokens_map.json", "generation_config.json")


def template_source(path, config, settings):
    """The chat template: the text of the file at `path`, else what the object `settings` of
    tokenizer_config.json says; None where there is none."""
    if path.exists():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error})") from None
    source = settings.get("chat_template")
    if isinstance(source, list):                           # several, by name
        source = next((entry.get("template") for entry in source if isinstance(entry, dict)
                       and entry.get("name") == "default"), 0)
    if source is not None and not isinstance(source, str):
        raise DataError(f"{config}: chat_template is no text, nor has one named default")
    return source


class Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}, which marks assistant text: no effect."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


TODAY = datetime.datetime(2024, 7, 26)     # for templates that print the date: Llama 3.1's default


def chat_template(folder, source):
    """The compiled chat template, sandboxed because it is untrusted code."""
    def refuse_turn(message):
        raise jinja2.TemplateError(message)

    # Templates expect the settings and functions that transformers gives them.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
    environment.globals.update(raise_exception=refuse_turn, strftime_now=TODAY.strftime)
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise DataError(f"{folder}: the chat template does not parse ({error})") from None
