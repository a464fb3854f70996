//! Tokenizer files as Hugging Face has them: `tokenizer.json`, `vocab.txt`,
//! `tokenizer_config.json`, `special_tokens_map.json`.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::added_tokens::{Found, add_tokens, found_tokens};
use super::byte_bpe;
use super::error::TokenizerError;
use super::foreign::Foreign;
use super::normalize::Normalization;
use super::sentencepiece;
use super::wordpiece::{CONTINUATION, WordPiece, WordPieceOptions};
use super::{Kind, Tokenizer};

const TOKENIZER: &str = "tokenizer.json";
const VOCAB: &str = "vocab.txt";
const VOCAB_JSON: &str = "vocab.json";
const MERGES: &str = "merges.txt";
pub(super) const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
pub(super) const AGAIN: &str = "save the tokenizer again or fetch the file again";

/// What `tokenizer_config.json` and `special_tokens_map.json` say.
#[derive(Clone, Debug, Default)]
pub struct TokenizerConfig {
    /// Whether the text is lowercased, where the file says so.
    pub do_lower_case: Option<bool>,
    /// Whether accents are dropped, where the file says so; else as `do_lower_case`.
    pub strip_accents: Option<bool>,
    /// Whether each CJK ideograph is a word, where the file says so; else yes.
    pub tokenize_chinese_chars: Option<bool>,
    /// The longest input the model takes, in tokens.
    pub model_max_length: Option<usize>,
    /// Name of the padding token.
    pub pad_token: Option<String>,
    /// Name of the unknown token.
    pub unk_token: Option<String>,
    /// Name of the token before a text.
    pub cls_token: Option<String>,
    /// Name of the token after a text.
    pub sep_token: Option<String>,
    /// Name of the mask token.
    pub mask_token: Option<String>,
    /// Whether texts that are too long lose their beginning instead of their end.
    pub truncate_left: bool,
    /// Special tokens without a role.
    pub(super) additional: Vec<Found>,
    /// The file as it was, for tokenizers that are saved as they were.
    raw: Option<Value>,
}

impl Tokenizer {
    /// Reads a tokenizer from a folder, or from one of its files. In a folder the first of these is taken: `tokenizer.json`; `vocab.txt` (WordPiece);
    /// `vocab.json` with `merges.txt` (byte-level BPE); a SentencePiece model (`spiece.model`, `sentencepiece.bpe.model`, `spm.model`,
    /// `tokenizer.model`).
    ///
    /// # Errors
    /// Names the file, the place in it and what was expected there.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let path = path.as_ref();
        if !path.is_dir() {
            let folder = path.parent().unwrap_or(Path::new(""));
            let is = |extension: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
            if is("model") {
                return Self::load_sentencepiece(path, folder);
            }
            if path.file_name().is_some_and(|n| n == VOCAB_JSON) {
                return Self::load_bpe(path, &folder.join(MERGES), folder);
            }
            return if is("json") { Self::load_json(path, folder) } else { Self::load_vocab(path, folder) };
        }
        let json = path.join(TOKENIZER);
        let vocab = path.join(VOCAB);
        if json.exists() {
            Self::load_json(&json, path)
        } else if vocab.exists() {
            Self::load_vocab(&vocab, path)
        } else if path.join(VOCAB_JSON).exists() && path.join(MERGES).exists() {
            Self::load_bpe(&path.join(VOCAB_JSON), &path.join(MERGES), path)
        } else if let Some(model) = sentencepiece::NAMES.iter().map(|name| path.join(name)).find(|p| p.exists()) {
            Self::load_sentencepiece(&model, path)
        } else {
            Err(TokenizerError::NoTokenizer { folder: path.to_path_buf() })
        }
    }

    fn load_json(path: &Path, folder: &Path) -> Result<Self, TokenizerError> {
        let config = TokenizerConfig::load(folder)?;
        let text = read_text(path)?;
        let value = parse(&text, path)?;
        Ok(Self::of(kind(&value, text, path)?, config))
    }

    fn load_bpe(vocab: &Path, merges: &Path, folder: &Path) -> Result<Self, TokenizerError> {
        let mut config = TokenizerConfig::load(folder)?;
        let mut value = byte_bpe::convert(vocab, merges, folder, &mut config)?;
        add_tokens(&mut value, found_tokens(folder, &config)?)?;
        Self::of_value(value, vocab, config)
    }

    fn load_sentencepiece(path: &Path, folder: &Path) -> Result<Self, TokenizerError> {
        let mut config = TokenizerConfig::load(folder)?;
        let mut value = sentencepiece::convert(path, folder, &mut config)?;
        add_tokens(&mut value, found_tokens(folder, &config)?)?;
        Self::of_value(value, path, config)
    }

    /// A tokenizer of the `tokenizers` crate that was made here; `origin` stands for the file in errors.
    pub(crate) fn from_json(value: Value, origin: &Path) -> Result<Self, TokenizerError> {
        // BERT's usual limit, for a tokenizer that is not of a model yet.
        let config = TokenizerConfig { model_max_length: Some(512), ..TokenizerConfig::default() };
        Self::of_value(value, origin, config)
    }

    /// A tokenizer of the `tokenizers` crate, made from files of another form.
    fn of_value(value: Value, path: &Path, config: TokenizerConfig) -> Result<Self, TokenizerError> {
        let foreign = Foreign::new(value.to_string(), &value, path)?;
        Ok(Self::of(Kind::Foreign(Box::new(foreign)), config))
    }

    fn load_vocab(path: &Path, folder: &Path) -> Result<Self, TokenizerError> {
        let mut config = TokenizerConfig::load(folder)?;
        let pieces = read_pieces(path)?;
        let framed = is_framed_as_roberta(&pieces, &config);
        if framed {
            let usual = [
                ("<s>", &mut config.cls_token),
                ("</s>", &mut config.sep_token),
                ("<pad>", &mut config.pad_token),
                ("<mask>", &mut config.mask_token),
            ];
            for (name, field) in usual {
                field.get_or_insert_with(|| name.into());
            }
        }
        let name = |named: &Option<String>, usual: &str| named.clone().unwrap_or_else(|| usual.into());
        let unk = name(&config.unk_token, "[UNK]");
        let (cls, sep) = (name(&config.cls_token, "[CLS]"), name(&config.sep_token, "[SEP]"));
        let special = [name(&config.pad_token, "[PAD]"), unk.clone(), cls.clone(), sep.clone(), name(&config.mask_token, "[MASK]")];
        // Without a config the vocabulary tells: only a cased one has pieces with capitals.
        let cased = || {
            let is_bracketed = |piece: &str| piece.starts_with('[') && piece.ends_with(']');
            pieces.iter().any(|p| !is_bracketed(p) && !special.contains(p) && p.chars().any(char::is_uppercase))
        };
        let options = WordPieceOptions {
            normalization: Normalization {
                clean_text: true,
                split_cjk: config.tokenize_chinese_chars.unwrap_or(true),
                strip_accents: config.strip_accents,
                lowercase: config.do_lower_case.unwrap_or_else(|| !cased()),
            },
            unk_token: unk,
            template: Some((cls, sep)),
            added: special.iter().filter(|token| pieces.contains(token)).map(|token| (token.clone(), true)).collect(),
            ..WordPieceOptions::default()
        };
        let wordpiece = WordPiece::new(pieces, options, path)?;
        if framed {
            let mut value = framed_as_roberta(&wordpiece, config.mask_token.as_deref());
            add_tokens(&mut value, found_tokens(folder, &config)?)?;
            return Self::of_value(value, path, config);
        }
        let found = found_tokens(folder, &config)?;
        if !found.is_empty() {
            let mut value = tokenizer_json(&wordpiece);
            add_tokens(&mut value, found)?;
            return Ok(Self::of(kind(&value, value.to_string(), path)?, config));
        }
        Ok(Self::of(Kind::WordPiece(Box::new(wordpiece)), config))
    }

    /// Writes `tokenizer.json`, `vocab.txt`, `tokenizer_config.json` and `special_tokens_map.json`
    /// (for tokenizers of other kinds the first and the third, as they were read). The folder is
    /// made if need be; files are replaced whole or not at all.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<(), TokenizerError> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|source| TokenizerError::Write { path: folder.to_path_buf(), source })?;
        let wordpiece = match &self.kind {
            Kind::WordPiece(wordpiece) => wordpiece,
            Kind::Foreign(foreign) => {
                write(&folder.join(TOKENIZER), foreign.json.as_bytes())?;
                // Names that the files left open are written, too: a tokenizer that was converted has no other place for them.
                let mut config = self.config.raw.clone().unwrap_or_else(|| json!({ "tokenizer_class": "PreTrainedTokenizerFast" }));
                if let Value::Object(map) = &mut config {
                    for (key, name) in self.special_names() {
                        map.entry(key).or_insert(name);
                    }
                    let limit = self.config.model_max_length;
                    if let Some(limit) = limit.filter(|&limit| map.get("model_max_length").and_then(Value::as_f64) != Some(limit as f64)) {
                        map.insert("model_max_length".into(), limit.into());
                    }
                }
                write(&folder.join(CONFIG), pretty(&config).as_bytes())?;
                return Ok(());
            }
        };
        write(&folder.join(TOKENIZER), pretty(&tokenizer_json(wordpiece)).as_bytes())?;
        let mut vocab = String::new();
        for piece in wordpiece.own_pieces() {
            vocab.push_str(piece);
            vocab.push('\n');
        }
        write(&folder.join(VOCAB), vocab.as_bytes())?;

        let names = self.special_names();
        let normalization = wordpiece.options().normalization;
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), "BertTokenizer".into());
        config.insert("do_lower_case".into(), normalization.lowercase.into());
        config.insert("strip_accents".into(), normalization.strip_accents.into());
        config.insert("tokenize_chinese_chars".into(), normalization.split_cjk.into());
        // A limit that nobody knows is none; readers take the model's own.
        if let Some(limit) = self.config.model_max_length {
            config.insert("model_max_length".into(), limit.into());
        }
        if self.config.truncate_left {
            config.insert("truncation_side".into(), "left".into());
        }
        config.insert("clean_up_tokenization_spaces".into(), wordpiece.options().cleanup.into());
        let decoder: Map<String, Value> = added_tokens(wordpiece).into_iter().map(|(id, token)| (id.to_string(), token)).collect();
        config.insert("added_tokens_decoder".into(), decoder.into());
        config.extend(names.clone());
        write(&folder.join(CONFIG), pretty(&config.into()).as_bytes())?;
        write(&folder.join(SPECIAL), pretty(&names.into()).as_bytes())
    }

    fn special_names(&self) -> Map<String, Value> {
        let special = self.special();
        let named = [
            ("cls_token", special.cls),
            ("mask_token", special.mask),
            ("pad_token", special.pad),
            ("sep_token", special.sep),
            ("unk_token", special.unk),
        ];
        named.into_iter().filter_map(|(key, id)| Some((key.to_string(), self.id_to_token(id?)?.into()))).collect()
    }
}

impl TokenizerConfig {
    fn load(folder: &Path) -> Result<Self, TokenizerError> {
        let mut config = Self::default();
        let path = folder.join(CONFIG);
        if path.exists() {
            let value = parse(&read_text(&path)?, &path)?;
            if !value.is_object() {
                return Err(wrong(&path, "the file", "an object", &value, AGAIN));
            }
            config.do_lower_case = optional(&value, "do_lower_case", "true or false", &path, Value::as_bool)?;
            config.strip_accents = optional(&value, "strip_accents", "true, false or null", &path, Value::as_bool)?;
            config.tokenize_chinese_chars = optional(&value, "tokenize_chinese_chars", "true or false", &path, Value::as_bool)?;
            // Files that know no limit say 10^30.
            config.model_max_length = optional(&value, "model_max_length", "a number", &path, Value::as_f64)?
                .filter(|&n| (1.0..1e9).contains(&n))
                .map(|n| n as usize);
            let side = |v: &Value| v.as_str().filter(|side| ["left", "right"].contains(side)).map(|side| side == "left");
            config.truncate_left = optional(&value, "truncation_side", "\"left\" or \"right\"", &path, side)?.unwrap_or(false);
            config.names(&value, &path)?;
            config.raw = Some(value);
        }
        let path = folder.join(SPECIAL);
        if path.exists() {
            let value = parse(&read_text(&path)?, &path)?;
            config.names(&value, &path)?;
        }
        Ok(config)
    }

    /// `tokenizer_config.json` as it was.
    pub(super) fn raw(&self) -> Option<&Value> {
        self.raw.as_ref()
    }

    /// The names of the special tokens: strings, or objects with `content`. What is known stays.
    fn names(&mut self, value: &Value, path: &Path) -> Result<(), TokenizerError> {
        let fields = [
            ("pad_token", &mut self.pad_token),
            ("unk_token", &mut self.unk_token),
            ("cls_token", &mut self.cls_token),
            ("sep_token", &mut self.sep_token),
            ("mask_token", &mut self.mask_token),
        ];
        for (key, field) in fields {
            let name = optional(value, key, "a token, or an object with its content", path, |v| {
                v.as_str().or_else(|| v.get("content")?.as_str()).map(String::from)
            })?;
            if field.is_none() {
                *field = name;
            }
        }
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            // The newer of the two is also a table of roles, whose tokens `added_tokens_decoder` has.
            for (i, token) in value.get(key).and_then(Value::as_array).into_iter().flatten().enumerate() {
                let token = if token.is_string() { json!({ "content": token, "special": true }) } else { token.clone() };
                self.additional.push(Found { id: None, token, path: path.to_owned(), place: format!("{key}[{i}]") });
            }
        }
        Ok(())
    }
}

/// The tokenizer of a `tokenizer.json`, whose text is kept if the `tokenizers` crate runs it.
fn kind(value: &Value, text: String, path: &Path) -> Result<Kind, TokenizerError> {
    Ok(match bert(value, path)? {
        Some((pieces, options)) => Kind::WordPiece(Box::new(WordPiece::new(pieces, options, path)?)),
        None => Kind::Foreign(Box::new(Foreign::new(text, value, path)?)),
    })
}

/// Pieces and options of a `tokenizer.json` that describes BERT's WordPiece; `None` if it describes
/// something else.
fn bert(value: &Value, path: &Path) -> Result<Option<(Vec<String>, WordPieceOptions)>, TokenizerError> {
    if !value.is_object() {
        return Err(wrong(path, "the file", "an object", value, AGAIN));
    }
    let model = &value["model"];
    if !model.is_object() {
        return Err(wrong(path, "model", "an object", model, AGAIN));
    }
    const KINDS: [&str; 4] = ["WordPiece", "BPE", "Unigram", "WordLevel"];
    if let Some(kind) = model.get("type").filter(|kind| !kind.as_str().is_some_and(|kind| KINDS.contains(&kind))) {
        let remedy = "convert the tokenizer to one of these kinds";
        return Err(wrong(path, "model.type", &KINDS.join(", "), kind, remedy));
    }
    let is = |part: &str, kind: &str| value[part]["type"].as_str() == Some(kind);
    if !is("model", "WordPiece") || !is("normalizer", "BertNormalizer") || !is("pre_tokenizer", "BertPreTokenizer") {
        return Ok(None);
    }
    if let Some(version) = value.get("version").filter(|version| version.as_str() != Some("1.0")) {
        return Err(wrong(path, "version", "\"1.0\"", version, "convert the file with the library that wrote it"));
    }
    let cleanup = match &value["decoder"] {
        decoder if decoder["type"].as_str() == Some("WordPiece") && decoder["prefix"].as_str() == Some(CONTINUATION) => {
            required(decoder, "decoder", "cleanup", "true or false", path, Value::as_bool)?
        }
        _ => return Ok(None),
    };
    let normalizer = &value["normalizer"];
    let flag = |key| required(normalizer, "normalizer", key, "true or false", path, Value::as_bool);
    let normalization = Normalization {
        clean_text: flag("clean_text")?,
        split_cjk: flag("handle_chinese_chars")?,
        strip_accents: optional(normalizer, "strip_accents", "true, false or null", path, Value::as_bool)?,
        lowercase: flag("lowercase")?,
    };
    let unk_token = required(model, "model", "unk_token", "a token", path, Value::as_str)?.to_string();
    let prefix = required(model, "model", "continuing_subword_prefix", "a string", path, Value::as_str)?;
    let max = required(model, "model", "max_input_chars_per_word", "a whole number", path, Value::as_u64)?;
    let max_word_chars = usize::try_from(max).unwrap_or(usize::MAX);
    if prefix != CONTINUATION {
        return Ok(None);
    }
    let vocab = required(model, "model", "vocab", "an object of pieces and ids", path, Value::as_object)?;
    let Some(pieces) = by_id(vocab, path)? else { return Ok(None) };
    let Some(template) = template(&value["post_processor"], vocab, path)? else { return Ok(None) };
    let Some(added) = added(value, vocab, path)? else { return Ok(None) };
    let options = WordPieceOptions { normalization, max_word_chars, unk_token, template, added, cleanup };
    Ok(Some((pieces, options)))
}

/// The pieces in the order of their ids, if the ids are 0, 1, 2 … without gaps.
fn by_id(vocab: &Map<String, Value>, path: &Path) -> Result<Option<Vec<String>>, TokenizerError> {
    if vocab.is_empty() {
        return Err(TokenizerError::EmptyVocabulary { path: path.to_path_buf() });
    }
    let mut pieces: Vec<Option<&String>> = vec![None; vocab.len()];
    let mut dense = true;
    for (piece, id) in vocab {
        let key = || format!("model.vocab[{piece:?}]");
        let Some(number) = id.as_u64().and_then(|id| u32::try_from(id).ok()) else {
            return Err(wrong(path, &key(), "an id", id, AGAIN));
        };
        match pieces.get_mut(number as usize) {
            Some(place @ None) => *place = Some(piece),
            Some(Some(other)) => {
                let expected = format!("an id of its own ({other:?} has it too)");
                return Err(wrong(path, &key(), &expected, id, "give every piece a different id"));
            }
            None => dense = false,
        }
    }
    Ok(dense.then(|| pieces.into_iter().flatten().cloned().collect()))
}

/// The tokens around a text: `Some(None)` for none, `None` if they are not BERT's.
#[allow(clippy::type_complexity)]
fn template(value: &Value, vocab: &Map<String, Value>, path: &Path) -> Result<Option<Option<(String, String)>>, TokenizerError> {
    if value.is_null() {
        return Ok(Some(None));
    }
    let same_id = |token: &str, id: &Value| vocab.get(token).is_some_and(|own| own == id);
    match value["type"].as_str() {
        Some("BertProcessing") => {
            let token = |key: &str| -> Result<(String, bool), TokenizerError> {
                let pair = required(value, "post_processor", key, "a token and its id", path, Value::as_array)?;
                match pair.as_slice() {
                    [Value::String(token), id] => Ok((token.clone(), same_id(token, id))),
                    _ => Err(wrong(path, &format!("post_processor.{key}"), "a token and its id", &value[key], AGAIN)),
                }
            };
            let ((sep, sep_same), (cls, cls_same)) = (token("sep")?, token("cls")?);
            Ok((sep_same && cls_same).then_some(Some((cls, sep))))
        }
        Some("TemplateProcessing") => {
            let item = |kind: &str, id: &str, segment: u64| json!({ kind: { "id": id, "type_id": segment } });
            let name = |i: usize| value["single"][i]["SpecialToken"]["id"].as_str();
            let (Some(cls), Some(sep)) = (name(0), name(2)) else { return Ok(None) };
            let single = [item("SpecialToken", cls, 0), item("Sequence", "A", 0), item("SpecialToken", sep, 0)];
            let mut pair = single.to_vec();
            pair.extend([item("Sequence", "B", 1), item("SpecialToken", sep, 1)]);
            let is_plain = |token: &str| match value["special_tokens"][token]["ids"].as_array().map(Vec::as_slice) {
                Some([id]) => same_id(token, id),
                _ => false,
            };
            let is_bert = value["single"].as_array().is_some_and(|items| items[..] == single)
                && value["pair"].as_array() == Some(&pair)
                && is_plain(cls)
                && is_plain(sep);
            Ok(is_bert.then(|| Some((cls.to_string(), sep.to_string()))))
        }
        _ => Ok(None),
    }
}

/// The added tokens, if all of them are matched plainly in the raw text and have the id that the
/// `tokenizers` crate would give them.
#[allow(clippy::type_complexity)]
fn added(value: &Value, vocab: &Map<String, Value>, path: &Path) -> Result<Option<Vec<(String, bool)>>, TokenizerError> {
    let tokens = match &value["added_tokens"] {
        Value::Null => return Ok(Some(Vec::new())),
        Value::Array(tokens) => tokens,
        other => return Err(wrong(path, "added_tokens", "an array", other, AGAIN)),
    };
    let mut next = vocab.len() as u64;
    let mut appended: HashMap<&str, u64> = HashMap::new();
    let mut out = Vec::with_capacity(tokens.len());
    for (i, token) in tokens.iter().enumerate() {
        let place = format!("added_tokens[{i}]");
        let content = required(token, &place, "content", "a string", path, Value::as_str)?;
        let id = required(token, &place, "id", "an id", path, Value::as_u64)?;
        let flag = |key| required(token, &place, key, "true or false", path, Value::as_bool);
        let is_plain = !flag("single_word")? && !flag("lstrip")? && !flag("rstrip")? && !flag("normalized")?;
        let special = flag("special")?;
        let own = match vocab.get(content).and_then(Value::as_u64) {
            Some(own) => own,
            None => *appended.entry(content).or_insert_with(|| {
                next += 1;
                next - 1
            }),
        };
        if !is_plain || own != id || content.is_empty() {
            return Ok(None);
        }
        out.push((content.to_string(), special));
    }
    Ok(Some(out))
}

fn added_tokens(wordpiece: &WordPiece) -> Vec<(u32, Value)> {
    let mut tokens: Vec<(u32, Value)> = wordpiece
        .options()
        .added
        .iter()
        .filter_map(|(content, special)| {
            let id = wordpiece.token_to_id(content)?;
            let token = json!({
                "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            });
            Some((id, token))
        })
        .collect();
    tokens.sort_by_key(|(id, _)| *id);
    tokens.dedup_by_key(|(id, _)| *id);
    tokens
}

/// The whole of `tokenizer.json`.
fn tokenizer_json(wordpiece: &WordPiece) -> Value {
    let options = wordpiece.options();
    let added: Vec<Value> = added_tokens(wordpiece)
        .into_iter()
        .map(|(id, token)| {
            let mut entry = Map::new();
            entry.insert("id".into(), id.into());
            if let Value::Object(token) = token {
                entry.extend(token);
            }
            entry.into()
        })
        .collect();
    let vocab: Map<String, Value> = wordpiece.own_pieces().iter().enumerate().map(|(id, piece)| (piece.clone(), id.into())).collect();
    let post_processor = match (&options.template, wordpiece.template()) {
        (Some((cls, sep)), Some((cls_id, sep_id))) => {
            let special = |id: &str, segment: u32| json!({ "SpecialToken": { "id": id, "type_id": segment } });
            let text = |id: &str, segment: u32| json!({ "Sequence": { "id": id, "type_id": segment } });
            let single = vec![special(cls, 0), text("A", 0), special(sep, 0)];
            let mut pair = single.clone();
            pair.extend([text("B", 1), special(sep, 1)]);
            let mut tokens = Map::new();
            for (token, id) in [(cls, cls_id), (sep, sep_id)] {
                tokens.insert(token.clone(), json!({ "id": token, "ids": [id], "tokens": [token] }));
            }
            json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens })
        }
        _ => Value::Null,
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": options.normalization.clean_text,
            "handle_chinese_chars": options.normalization.split_cjk,
            "strip_accents": options.normalization.strip_accents,
            "lowercase": options.normalization.lowercase,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": post_processor,
        "decoder": { "type": "WordPiece", "prefix": CONTINUATION, "cleanup": options.cleanup },
        "model": {
            "type": "WordPiece",
            "unk_token": options.unk_token,
            "continuing_subword_prefix": CONTINUATION,
            "max_input_chars_per_word": options.max_word_chars,
            "vocab": vocab,
        },
    })
}

/// Whether a `vocab.txt` is MPNet's: BERT's pieces between RoBERTa's special tokens. The config says so, or the pieces without one.
fn is_framed_as_roberta(pieces: &[String], config: &TokenizerConfig) -> bool {
    let class = config.raw.as_ref().and_then(|raw| raw.get("tokenizer_class")?.as_str());
    let has = |piece: &str| pieces.iter().any(|p| p == piece);
    match class {
        Some(class) => class.starts_with("MPNet"),
        None => config.cls_token.is_none() && !has("[CLS]") && has("<s>") && has("</s>"),
    }
}

/// `tokenizer.json` for such a vocabulary: two separators between the texts of a pair, no segments, and the mask takes the space before it.
fn framed_as_roberta(wordpiece: &WordPiece, mask: Option<&str>) -> Value {
    let mut value = tokenizer_json(wordpiece);
    if let (Some((cls, sep)), Some((cls_id, sep_id))) = (&wordpiece.options().template, wordpiece.template()) {
        value["post_processor"] = json!({
            "type": "RobertaProcessing", "sep": [sep, sep_id], "cls": [cls, cls_id], "trim_offsets": true, "add_prefix_space": false,
        });
    }
    for token in value["added_tokens"].as_array_mut().into_iter().flatten().filter(|token| token["content"].as_str() == mask) {
        token["lstrip"] = true.into();
    }
    value
}

/// Reads `vocab.txt`: one piece a line. Empty lines at the end do not count.
fn read_pieces(path: &Path) -> Result<Vec<String>, TokenizerError> {
    let text = read_text(path)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(TokenizerError::EmptyVocabulary { path: path.to_path_buf() });
    }
    let mut pieces = Vec::new();
    for (i, line) in text.split('\n').enumerate() {
        let piece = line.strip_suffix('\r').unwrap_or(line);
        if piece.is_empty() {
            return Err(TokenizerError::EmptyLine { path: path.to_path_buf(), line: i + 1 });
        }
        pieces.push(piece.to_string());
    }
    Ok(pieces)
}

pub(super) fn read_text(path: &Path) -> Result<String, TokenizerError> {
    let bytes = std::fs::read(path).map_err(|source| TokenizerError::Read { path: path.to_path_buf(), source })?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let before = &error.as_bytes()[..at];
        let line_start = before.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
        TokenizerError::NotUtf8 { path: path.to_path_buf(), line, byte: at - line_start + 1 }
    })
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Value, TokenizerError> {
    serde_json::from_str(text).map_err(|error| TokenizerError::Json {
        path: path.to_path_buf(),
        line: error.line(),
        column: error.column(),
        message: error.to_string(),
    })
}

/// Writes beside the file and moves it into place.
fn write(path: &Path, bytes: &[u8]) -> Result<(), TokenizerError> {
    let failed = |source| TokenizerError::Write { path: path.to_path_buf(), source };
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let mut file = std::fs::File::create(&part).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&part, path).map_err(failed)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

pub(super) fn wrong(path: &Path, key: &str, expected: &str, found: &Value, remedy: &str) -> TokenizerError {
    let found = match found {
        Value::Null => "nothing".to_string(),
        Value::Bool(_) | Value::Number(_) => found.to_string(),
        Value::String(s) => format!("{:?}", s.chars().take(40).collect::<String>()),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(_) => "an object".to_string(),
    };
    TokenizerError::Key {
        path: path.to_path_buf(),
        key: key.to_string(),
        expected: expected.to_string(),
        found,
        remedy: remedy.to_string(),
    }
}

fn required<'a, T>(
    object: &'a Value,
    place: &str,
    key: &str,
    expected: &str,
    path: &Path,
    read: impl FnOnce(&'a Value) -> Option<T>,
) -> Result<T, TokenizerError> {
    read(&object[key]).ok_or_else(|| wrong(path, &format!("{place}.{key}"), expected, &object[key], AGAIN))
}

pub(super) fn optional<T>(
    object: &Value,
    key: &str,
    expected: &str,
    path: &Path,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<Option<T>, TokenizerError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(found) => match read(found) {
            Some(value) => Ok(Some(value)),
            None => Err(wrong(path, key, expected, found, AGAIN)),
        },
    }
}
