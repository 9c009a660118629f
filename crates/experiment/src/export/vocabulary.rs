//! A `tokenizer.json` in GGUF's terms: tokens, their kinds, merges or scores, and the rule that cuts text into words.

use std::collections::HashMap;

use consilium_core::gguf::Value;
use consilium_engine::LlamaConfig;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::error::ExperimentError;

/// llama.cpp's token kinds.
mod kind {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

#[derive(Deserialize)]
struct Tokenizer {
    model: Bpe,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Json,
    #[serde(default)]
    pre_tokenizer: Json,
    #[serde(default)]
    post_processor: Json,
}

#[derive(Deserialize)]
struct Bpe {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: Vec<Merge>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    unk_token: Option<String>,
}

/// Older files write a merge as `"a b"`, newer ones as `["a", "b"]`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair(String, String),
}

impl Merge {
    fn parts(&self) -> (&str, &str) {
        match self {
            Self::Text(text) => text.split_once(' ').unwrap_or((text, "")),
            Self::Pair(left, right) => (left, right),
        }
    }
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

/// The `tokenizer.ggml.*` pairs of a model's vocabulary.
///
/// # Errors
/// When the file is broken, its tokenizer is not a BPE with byte level or byte fallback, or it is larger than the
/// model's vocabulary.
pub(super) fn metadata(
    tokenizer_json: &[u8],
    config: &LlamaConfig,
) -> Result<Vec<(String, Value)>, ExperimentError> {
    let refuse = |reason: String| ExperimentError::Export(format!("tokenizer.json: {reason}"));
    let tokenizer: Tokenizer = serde_json::from_slice(tokenizer_json).map_err(|e| refuse(e.to_string()))?;
    if tokenizer.model.kind != "BPE" {
        return Err(refuse(format!(
            "a {} tokenizer has no form in GGUF here, only BPE",
            tokenizer.model.kind
        )));
    }
    let (tokens, kinds) = tokens(&tokenizer, config.vocab_size).map_err(refuse)?;
    let mut pairs = if tokenizer.model.byte_fallback {
        sentence_piece(&tokenizer, &tokens)
    } else if finds(&tokenizer.pre_tokenizer, "type", "ByteLevel") {
        byte_level(&tokenizer)
    } else {
        return Err(refuse("it has neither a byte-level pre-tokenizer nor byte fallback".into()));
    };
    pairs.push(("tokens", Value::Array(tokens.into_iter().map(Value::Text).collect())));
    pairs.push(("token_type", Value::Array(kinds.into_iter().map(Value::I32).collect())));
    if let Some(bos) = config.bos_id {
        pairs.push(("bos_token_id", Value::U32(bos)));
    }
    if let Some(&eos) = config.eos_ids.first() {
        pairs.push(("eos_token_id", Value::U32(eos)));
    }
    let unknown = tokenizer.model.unk_token.as_ref().and_then(|token| tokenizer.model.vocab.get(token));
    if let Some(&id) = unknown {
        pairs.push(("unknown_token_id", Value::U32(id)));
    }
    pairs.push(("add_bos_token", Value::Bool(adds_bos(&tokenizer, config))));
    pairs.push(("add_eos_token", Value::Bool(false)));
    Ok(pairs.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect())
}

/// Token texts by id, padded to the model's vocabulary, and their kinds.
fn tokens(tokenizer: &Tokenizer, vocab_size: usize) -> Result<(Vec<String>, Vec<i32>), String> {
    let mut texts: Vec<String> = (0..vocab_size).map(|id| format!("[PAD{id}]")).collect();
    let mut kinds = vec![kind::UNUSED; vocab_size];
    let mut put = |id: u32, text: &str, kind: i32| match texts.get_mut(id as usize) {
        Some(place) => {
            text.clone_into(place);
            kinds[id as usize] = kind;
            Ok(())
        }
        None => Err(format!("token {id} ('{text}') lies beyond the model's vocabulary of {vocab_size}")),
    };
    for (text, &id) in &tokenizer.model.vocab {
        let is_byte = tokenizer.model.byte_fallback && text.len() == 6 && text.starts_with("<0x");
        put(id, text, if is_byte { kind::BYTE } else { kind::NORMAL })?;
    }
    for added in &tokenizer.added_tokens {
        let unknown = tokenizer.model.unk_token.as_ref() == Some(&added.content);
        let kind = match (unknown, added.special) {
            (true, _) => kind::UNKNOWN,
            (_, true) => kind::CONTROL,
            _ => kind::USER_DEFINED,
        };
        put(added.id, &added.content, kind)?;
    }
    Ok((texts, kinds))
}

type Pairs = Vec<(&'static str, Value)>;

/// GPT-2's kind: byte-level BPE with a list of merges.
fn byte_level(tokenizer: &Tokenizer) -> Pairs {
    let merges = tokenizer.model.merges.iter().map(|merge| {
        let (left, right) = merge.parts();
        Value::Text(format!("{left} {right}"))
    });
    vec![
        ("model", "gpt2".into()),
        ("pre", pre_tokenizer(&tokenizer.pre_tokenizer).into()),
        ("merges", Value::Array(merges.collect())),
    ]
}

/// llama.cpp's name of the rule that cuts text into words, by the best known match.
fn pre_tokenizer(rule: &Json) -> &'static str {
    let text = rule.to_string();
    if finds(rule, "type", "Digits") {
        "smollm"
    } else if text.contains("\\\\p{N}{1,3}") {
        "llama-bpe"
    } else if text.contains("(?i:'s|'t|'re|'ve|'m|'ll|'d)") {
        "qwen2"
    } else {
        "gpt-2"
    }
}

/// SentencePiece's kind: the pair with the best score merges first, so a merge's rank is its result's score.
fn sentence_piece(tokenizer: &Tokenizer, tokens: &[String]) -> Pairs {
    let mut ranks: HashMap<String, f32> = HashMap::new();
    for (rank, merge) in tokenizer.model.merges.iter().enumerate() {
        let (left, right) = merge.parts();
        ranks.entry(format!("{left}{right}")).or_insert(-(rank as f32));
    }
    // What no merge makes is never merged into, so its score is never compared.
    let scores = tokens.iter().map(|token| Value::F32(ranks.get(token).copied().unwrap_or(0.0)));
    let merges = tokenizer.model.merges.iter().map(|merge| {
        let (left, right) = merge.parts();
        Value::Text(format!("{left} {right}"))
    });
    vec![
        ("model", "llama".into()),
        ("pre", "default".into()),
        ("scores", Value::Array(scores.collect())),
        ("merges", Value::Array(merges.collect())),
        ("add_space_prefix", Value::Bool(finds(&tokenizer.normalizer, "type", "Prepend"))),
    ]
}

/// Whether the tokenizer itself puts the model's BOS before every text.
fn adds_bos(tokenizer: &Tokenizer, config: &LlamaConfig) -> bool {
    let text = config.bos_id.and_then(|bos| tokenizer.added_tokens.iter().find(|added| added.id == bos));
    text.is_some_and(|bos| finds(&tokenizer.post_processor["single"], "id", &bos.content))
}

/// Whether an object anywhere in `json` has `key` with the text `value`.
fn finds(json: &Json, key: &str, value: &str) -> bool {
    match json {
        Json::Object(fields) => {
            fields.get(key).and_then(Json::as_str) == Some(value)
                || fields.values().any(|field| finds(field, key, value))
        }
        Json::Array(items) => items.iter().any(|item| finds(item, key, value)),
        _ => false,
    }
}
