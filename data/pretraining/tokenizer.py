"""The tokeniser of the base model: byte-level BPE whose pieces suit schemas, SQL and questions."""

import json
from pathlib import Path

import tokenizers

# A word is split into the same tokens wherever it stands (after a space, a dot, a quote, an
# underscore), so that a small model can copy it.  Spaces are therefore separate tokens, except next
# to SQL keywords, punctuation and the most common English words, which absorb them.
KEYWORDS = ("SELECT|DISTINCT|FROM|JOIN|ON|AS|WHERE|AND|OR|NOT|IN|LIKE|BETWEEN|IS|NULL|GROUP BY|"
            "HAVING|ORDER BY|DESC|LIMIT|UNION|INTERSECT|EXCEPT|COUNT|SUM|AVG|MIN|MAX")
COMMON = ("a|an|and|are|all|by|do|does|each|every|for|from|have|has|how many|in|is|it|its|list|"
          "many|me|more than|number of|not|of|on|or|show|than|that|the|their|there|to|was|were|"
          "what|which|who|whose|with")
TYPES = "text|number|time|boolean|others|key"              # of columns, in a prompt's schema
PIECES = (rf"(?: (?:{TYPES})\b)+(?:, )?| AS T\d+| ?T\d+\.?| ?\b(?:{KEYWORDS})\b(?:(?= T\d)| ?)|"
          rf"(?: (?:{COMMON})\b)+ ?|"
          r"\p{Lu}?\p{Ll}+|\p{Lu}+(?!\p{Ll})|\p{L}|\p{N}| ?[^\s\p{L}\p{N}_]+ ?|_|\s")


def train_tokenizer(texts, vocab_size, folder):
    """Train byte-level BPE on `texts`, with single digits and token 0 = <end>; writes
    FOLDER/tokenizer.json and tokenizer_config.json."""
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Split(tokenizers.Regex(PIECES), "isolated"),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    core.decoder = tokenizers.decoders.ByteLevel()
    core.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<end>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    Path(folder).mkdir(parents=True, exist_ok=True)
    core.save(str(Path(folder) / "tokenizer.json"))
    (Path(folder) / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}) + "\n")
