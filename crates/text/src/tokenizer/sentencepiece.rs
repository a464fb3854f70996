//! SentencePiece models (`spiece.model`, `sentencepiece.bpe.model`, `spm.model`, `tokenizer.model`: `sentencepiece_model.proto` of
//! google/sentencepiece), brought to the form of a `tokenizer.json`, which the `tokenizers` crate runs.

use std::path::Path;

use prost::Message;
use serde_json::{Map, Value, json};
use tokenizers::normalizers::precompiled::Precompiled;

use super::error::TokenizerError;
use super::files::TokenizerConfig;

/// Names that such models have in folders.
pub(super) const NAMES: [&str; 4] = ["spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model"];
/// The longest model that is read; one of 250,000 pieces has 5 MB.
const LIMIT: u64 = 256 << 20;
/// What stands for a space.
const SPACE: &str = "▁";

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, tag = "1")]
    piece: String,
    #[prost(float, tag = "2")]
    score: f32,
    /// 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; not given: normal.
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    /// 1 unigram, 2 bpe, 3 word, 4 char; not given: unigram.
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "22")]
    split_by_whitespace: Option<bool>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
    #[prost(int32, optional, tag = "40")]
    unk_id: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// How models number the pieces and what they put around a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    /// `<s> <pad> </s> <unk>`, the pieces from the fourth, `<mask>`.
    XlmRoberta,
    /// `<s>NOTUSED <pad> </s>NOTUSED <unk> <unk>NOTUSED`, the pieces from the second, `<mask>`.
    Camembert,
    /// The pieces as they are (DeBERTa's: and `[MASK]`); `[CLS] text [SEP]`.
    Bert { lower: bool, keep_accents: bool, commas: bool },
    /// The pieces as they are; `text <sep> <cls>`.
    Xlnet { lower: bool, keep_accents: bool },
    /// The pieces as they are; `<s> text </s>` where both are there.
    Plain,
}

/// `tokenizer.json` for the model at `path`. Names of special tokens that the files leave open are filled in.
pub(super) fn convert(path: &Path, folder: &Path, config: &mut TokenizerConfig) -> Result<Value, TokenizerError> {
    let read = |source| TokenizerError::Read { path: path.to_path_buf(), source };
    let size = std::fs::metadata(path).map_err(read)?.len();
    let broken = |message: String| TokenizerError::SentencePiece { path: path.to_path_buf(), message };
    if size > LIMIT {
        return Err(broken(format!("{size} bytes, above the limit of {LIMIT}")));
    }
    let bytes = std::fs::read(path).map_err(read)?;
    let proto = ModelProto::decode(&bytes[..]).map_err(|e| broken(e.to_string()))?;
    if proto.pieces.len() < 4 {
        return Err(broken(format!("it has {} pieces", proto.pieces.len())));
    }
    if let Some(i) = proto.pieces.iter().position(|p| p.piece.is_empty() || !p.score.is_finite()) {
        return Err(broken(format!("piece {i} is empty or has no score")));
    }
    // The table of replacements begins with the length of its first part, for which memory is taken unseen.
    let table = proto.normalizer_spec.as_ref().and_then(|n| n.precompiled_charsmap.as_ref()).filter(|map| !map.is_empty());
    if let Some(map) = table {
        let first = map.first_chunk::<4>().map(|b| u32::from_le_bytes(*b) as usize);
        if first.is_none_or(|len| len > map.len() - 4) {
            return Err(broken("its table of replacements is cut off".into()));
        }
        // Read once for its faults: where the library reads it, it gives up with a panic.
        if Precompiled::from(map).is_err() {
            return Err(broken("its table of replacements cannot be read".into()));
        }
    }
    let trainer = proto.trainer_spec.clone().unwrap_or_default();
    if trainer.treat_whitespace_as_suffix == Some(true) {
        return Err(broken("it marks the ends of words instead of their starts, which Cloze does not have".into()));
    }
    let scheme = scheme(path, folder, config, &proto);
    let pieces = numbered(&proto, scheme);
    let mut ids: std::collections::HashMap<&str, usize> = std::collections::HashMap::with_capacity(pieces.len());
    for (id, piece) in pieces.iter().enumerate() {
        if let Some(first) = ids.insert(&piece.text, id) {
            return Err(broken(format!("pieces {first} and {id} are both {:?}", piece.text)));
        }
    }
    let unk = pieces.iter().position(|p| p.kind == UNKNOWN).or_else(|| usize::try_from(trainer.unk_id?).ok());
    let unk = unk.filter(|id| *id < pieces.len()).ok_or_else(|| broken("no piece stands for the unknown".into()))?;
    let byte_fallback = trainer.byte_fallback == Some(true);
    let model = match trainer.model_type.unwrap_or(1) {
        1 => {
            let vocab: Vec<Value> = pieces.iter().map(|p| json!([p.text, p.score])).collect();
            json!({ "type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": byte_fallback })
        }
        2 => {
            let vocab: Map<String, Value> = pieces.iter().enumerate().map(|(id, p)| (p.text.clone(), id.into())).collect();
            json!({
                "type": "BPE", "dropout": null, "unk_token": pieces[unk].text, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": true, "byte_fallback": byte_fallback, "ignore_merges": pieces.iter().any(|p| p.kind == USER_DEFINED), "vocab": vocab,
                "merges": merges(&pieces),
            })
        }
        other => return Err(broken(format!("its kind is {other}; unigram (1) and BPE (2) are read"))),
    };
    for (field, usual) in [
        (&mut config.cls_token, ["<cls>", "[CLS]", "<s>"]),
        (&mut config.sep_token, ["<sep>", "[SEP]", "</s>"]),
        (&mut config.unk_token, ["<unk>", "[UNK]", "<unk>"]),
        (&mut config.pad_token, ["<pad>", "[PAD]", "<pad>"]),
        (&mut config.mask_token, ["<mask>", "[MASK]", "<mask>"]),
    ] {
        if field.is_none() {
            *field = usual.into_iter().find(|name| ids.contains_key(name)).map(str::to_owned);
        }
    }
    let around = match scheme {
        Scheme::XlmRoberta | Scheme::Camembert => Around::Both { cls: "<s>".into(), sep: "</s>".into(), doubled: true, segments: false },
        Scheme::Xlnet { .. } => Around::Behind,
        Scheme::Bert { .. } => {
            let name = |named: &Option<String>, usual: &str| named.clone().unwrap_or_else(|| usual.into());
            Around::Both { cls: name(&config.cls_token, "[CLS]"), sep: name(&config.sep_token, "[SEP]"), doubled: false, segments: true }
        }
        Scheme::Plain if ids.contains_key("<s>") && ids.contains_key("</s>") => {
            Around::Both { cls: "<s>".into(), sep: "</s>".into(), doubled: true, segments: false }
        }
        Scheme::Plain => Around::Nothing,
    };
    let template = around.template(|token| ids.get(token).copied()).map_err(|token| TokenizerError::MissingToken {
        path: path.to_path_buf(),
        token,
        role: "what this kind of tokenizer puts around a text",
    })?;
    let mask = config.mask_token.clone();
    let names: Vec<&String> =
        [&config.cls_token, &config.sep_token, &config.unk_token, &config.pad_token, &config.mask_token].into_iter().flatten().collect();
    let added: Vec<Value> = pieces
        .iter()
        .enumerate()
        .filter(|(_, p)| p.kind == CONTROL || names.contains(&&p.text))
        .map(|(id, p)| {
            json!({
                "id": id, "content": p.text, "single_word": false, "lstrip": mask.as_ref() == Some(&p.text), "rstrip": false,
                "normalized": false, "special": true,
            })
        })
        .collect();
    // A piece that the user asked for is never cut nor joined. It is no added token: the text after one of those would begin anew.
    let mut whole: Vec<&str> =
        pieces.iter().filter(|p| p.kind == USER_DEFINED && !names.contains(&&p.text)).map(|p| p.text.as_str()).collect();
    whole.sort_by_key(|text| std::cmp::Reverse(text.len()));
    let normalizer = proto.normalizer_spec.clone().unwrap_or_default();
    let scheme_prefix = if normalizer.add_dummy_prefix == Some(false) { "never" } else { "always" };
    let split = trainer.split_by_whitespace != Some(false);
    let metaspace = json!({ "type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme_prefix, "split": split });
    let mut pre_tokenizer = metaspace.clone();
    if !whole.is_empty() {
        let pattern = whole.iter().map(|text| escaped(text)).collect::<Vec<_>>().join("|");
        let split = json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        pre_tokenizer = json!({ "type": "Sequence", "pretokenizers": [metaspace, split] });
    }
    if normalizer.escape_whitespaces == Some(false) {
        return Err(broken("it leaves spaces as they are, which Cloze does not have".into()));
    }
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizers(&normalizer, scheme),
        "pre_tokenizer": pre_tokenizer,
        "post_processor": template,
        "decoder": metaspace,
        "model": model,
    }))
}

/// A piece under its id.
struct Numbered {
    text: String,
    score: f64,
    kind: i32,
}

fn scheme(path: &Path, folder: &Path, config: &TokenizerConfig, proto: &ModelProto) -> Scheme {
    let flag = |key: &str| config.raw().and_then(|raw| raw.get(key)?.as_bool());
    let model_type = std::fs::read(folder.join("config.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        .and_then(|value| value.get("model_type")?.as_str().map(str::to_owned));
    let class =
        config.raw().and_then(|raw| raw.get("tokenizer_class")?.as_str()).map(|c| c.trim_end_matches("Fast").trim_end_matches("Tokenizer"));
    let has = |piece: &str| proto.pieces.iter().any(|p| p.piece == piece);
    let lower = flag("do_lower_case");
    let keep_accents = flag("keep_accents");
    match (class, model_type.as_deref()) {
        (Some("XLMRoberta"), _) | (None, Some("xlm-roberta")) => Scheme::XlmRoberta,
        (Some("Camembert"), _) | (None, Some("camembert")) => Scheme::Camembert,
        (Some("XLNet"), _) | (None, Some("xlnet")) => {
            Scheme::Xlnet { lower: lower == Some(true), keep_accents: keep_accents == Some(true) }
        }
        (Some("Albert"), _) | (None, Some("albert")) => {
            Scheme::Bert { lower: lower != Some(false), keep_accents: keep_accents == Some(true), commas: true }
        }
        (Some("DebertaV2"), _) | (None, Some("deberta-v2")) => {
            Scheme::Bert { lower: lower == Some(true), keep_accents: true, commas: false }
        }
        (Some(_), _) | (None, Some(_)) => Scheme::Plain,
        (None, None) if path.file_name().is_some_and(|n| n == "sentencepiece.bpe.model") => Scheme::XlmRoberta,
        (None, None) if has("<cls>") && has("<sep>") => {
            Scheme::Xlnet { lower: lower == Some(true), keep_accents: keep_accents == Some(true) }
        }
        (None, None) if has("[CLS]") && has("[SEP]") => {
            Scheme::Bert { lower: lower != Some(false), keep_accents: keep_accents == Some(true), commas: true }
        }
        (None, None) => Scheme::Plain,
    }
}

/// The pieces in the order of the ids that the model's embeddings have.
fn numbered(proto: &ModelProto, scheme: Scheme) -> Vec<Numbered> {
    let own = |p: &Piece| Numbered { text: p.piece.clone(), score: p.score.into(), kind: p.kind.unwrap_or(1) };
    let with = |text: &str, kind: i32, score: f64| Numbered { text: text.into(), score, kind };
    let all = proto.pieces.iter();
    match scheme {
        Scheme::XlmRoberta => {
            let mut pieces =
                vec![with("<s>", CONTROL, 0.0), with("<pad>", CONTROL, 0.0), with("</s>", CONTROL, 0.0), with("<unk>", UNKNOWN, 0.0)];
            pieces.extend(all.skip(3).map(own));
            pieces.push(with("<mask>", CONTROL, 0.0));
            pieces
        }
        Scheme::Camembert => {
            let names = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)];
            let kind = |name: &str| if name == "<unk>" { UNKNOWN } else { CONTROL };
            let mut pieces: Vec<Numbered> = names.iter().map(|(name, score)| with(name, kind(name), *score)).collect();
            pieces.extend(all.skip(1).map(own));
            pieces.push(with("<mask>", CONTROL, 0.0));
            pieces
        }
        // A number and the comma after it are kept apart: the piece of both is made unlikely (Yang et al.'s code splits it afterwards).
        Scheme::Xlnet { .. } | Scheme::Bert { commas: true, .. } => all
            .map(|p| {
                let mut end = p.piece.chars().rev();
                let comma = end.next() == Some(',') && end.next().is_some_and(char::is_numeric);
                Numbered { score: f64::from(p.score) - if comma { 100.0 } else { 0.0 }, ..own(p) }
            })
            .collect(),
        // DeBERTa's models were trained without a mask; it comes behind the pieces.
        Scheme::Bert { .. } => {
            let mut pieces: Vec<Numbered> = all.map(own).collect();
            if !pieces.iter().any(|p| p.text == "[MASK]") {
                pieces.push(with("[MASK]", CONTROL, 0.0));
            }
            pieces
        }
        Scheme::Plain => all.map(own).collect(),
    }
}

/// The merges that lead to each piece: every way to cut it into two others, the likelier pieces first (SentencePiece merges by the score of what comes
/// out).
fn merges(pieces: &[Numbered]) -> Vec<Value> {
    let normal: std::collections::HashMap<&str, usize> =
        pieces.iter().enumerate().filter(|(_, p)| p.kind == 1).map(|(id, p)| (p.text.as_str(), id)).collect();
    let mut ranked: Vec<usize> = normal.values().copied().collect();
    ranked.sort_by(|&a, &b| pieces[b].score.total_cmp(&pieces[a].score).then(a.cmp(&b)));
    let mut merges = Vec::new();
    for id in ranked {
        let text = &pieces[id].text;
        let mut ways: Vec<(usize, usize, &str, &str)> = text
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| {
                let (left, right) = text.split_at(at);
                Some((*normal.get(left)?, *normal.get(right)?, left, right))
            })
            .collect();
        ways.sort_unstable();
        merges.extend(ways.into_iter().map(|(_, _, left, right)| json!([left, right])));
    }
    merges
}

/// What is done to a text before it is cut, in SentencePiece's order.
fn normalizers(spec: &NormalizerSpec, scheme: Scheme) -> Value {
    let replace = |pattern: Value, content: &str| json!({ "type": "Replace", "pattern": pattern, "content": content });
    let mut list = Vec::new();
    if let Scheme::Xlnet { lower, keep_accents } | Scheme::Bert { lower, keep_accents, commas: true } = scheme {
        list.push(replace(json!({ "String": "``" }), "\""));
        list.push(replace(json!({ "String": "''" }), "\""));
        if !keep_accents {
            list.extend([json!({ "type": "NFKD" }), json!({ "type": "StripAccents" })]);
        }
        if lower {
            list.push(json!({ "type": "Lowercase" }));
        }
    } else if let Scheme::Bert { lower: true, .. } = scheme {
        list.push(json!({ "type": "Lowercase" }));
    }
    if let Some(map) = spec.precompiled_charsmap.as_ref().filter(|map| !map.is_empty()) {
        list.push(json!({ "type": "Precompiled", "precompiled_charsmap": base64(map) }));
    }
    if spec.remove_extra_whitespaces != Some(false) {
        list.push(replace(json!({ "Regex": r"\A +| +\z" }), ""));
        list.push(replace(json!({ "Regex": " {2,}" }), " "));
    }
    json!({ "type": "Sequence", "normalizers": list })
}

/// What stands around a text.
pub(super) enum Around {
    Nothing,
    /// `cls A sep`; a pair has one `sep` between its texts, or two.
    Both {
        cls: String,
        sep: String,
        doubled: bool,
        segments: bool,
    },
    /// `A <sep> <cls>`, the last in segment 2.
    Behind,
}

impl Around {
    /// The post-processor of a tokenizer.json; the token that is missing otherwise.
    pub(super) fn template(&self, id: impl Fn(&str) -> Option<usize>) -> Result<Value, String> {
        let special = |token: &str, segment: u32| json!({ "SpecialToken": { "id": token, "type_id": segment } });
        let text = |which: &str, segment: u32| json!({ "Sequence": { "id": which, "type_id": segment } });
        let (single, pair, tokens) = match self {
            Around::Nothing => return Ok(Value::Null),
            Around::Both { cls, sep, doubled, segments } => {
                let second = u32::from(*segments);
                let single = vec![special(cls, 0), text("A", 0), special(sep, 0)];
                let mut pair = single.clone();
                if *doubled {
                    pair.push(special(sep, 0));
                }
                pair.extend([text("B", second), special(sep, second)]);
                (single, pair, [cls.clone(), sep.clone()])
            }
            Around::Behind => {
                let end = [special("<sep>", 0), special("<cls>", 2)];
                let mut single = vec![text("A", 0)];
                single.extend(end);
                let pair = vec![text("A", 0), special("<sep>", 0), text("B", 1), special("<sep>", 1), special("<cls>", 2)];
                (single, pair, ["<sep>".into(), "<cls>".into()])
            }
        };
        let mut known = Map::new();
        for token in tokens {
            let id = id(&token).ok_or_else(|| token.clone())?;
            known.insert(token.clone(), json!({ "id": token, "ids": [id], "tokens": [token] }));
        }
        Ok(json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known }))
    }
}

/// A text as a regular expression that matches it alone.
fn escaped(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || c == '_' || !c.is_ascii();
    text.chars().flat_map(|c| (!plain(c)).then_some('\\').into_iter().chain([c])).collect()
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let three = [chunk[0], chunk.get(1).copied().unwrap_or(0), chunk.get(2).copied().unwrap_or(0)];
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for i in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_as_the_rfc_has_it() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="), ("foobar", "Zm9vYmFy")];
        for (plain, coded) in cases {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
