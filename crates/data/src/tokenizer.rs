//! Text to token ids and back, through Hugging Face's `tokenizers`.
//!
//! A training row is tokenised as one text, prompt and completion together, as TRL does for a text column; tokenising
//! the halves apart would give other ids where they meet. Where the answer begins is then found by byte offset. The
//! end of text is appended as an id and never spelled out, and whether a text begins with a BOS token is the
//! tokenizer's own rule (its post-processor).

use std::path::Path;

use tokenizers::{Encoding, Tokenizer};

use crate::template::Template;
use crate::{DataError, Example};

/// One training row as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// BOS if the tokenizer adds one, prompt, answer, end of text (unless cut off).
    pub ids: Vec<u32>,
    /// Index of the answer's first token; `ids.len()` when truncation left nothing of the answer.
    pub loss_from: usize,
    /// Whether the row was cut to the token limit. A cut row has no end of text: its answer does not end there.
    pub truncated: bool,
}

/// Training rows as ids, and what the token limit cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// One for each example, in order.
    pub rows: Vec<Tokens>,
    /// How many rows were cut to the limit.
    pub truncated: usize,
    /// How many of these have no token of the answer left.
    pub answer_lost: usize,
}

/// A tokenizer together with the id that ends a text.
#[derive(Clone)]
pub struct TextTokenizer {
    inner: Tokenizer,
    eos_id: u32,
}

impl TextTokenizer {
    /// Loads `tokenizer.json` from a model's directory. `eos_id` is the model's `eos_token_id`.
    ///
    /// # Errors
    /// When the file is missing or broken, or knows no token `eos_id`.
    pub fn from_dir(dir: &Path, eos_id: u32) -> Result<Self, DataError> {
        let path = dir.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| DataError::Io { path: path.clone(), source })?;
        Self::load(&path.display().to_string(), &bytes, eos_id)
    }

    /// The same from the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// When the bytes are no tokenizer, or it knows no token `eos_id`.
    pub fn from_bytes(bytes: &[u8], eos_id: u32) -> Result<Self, DataError> {
        Self::load("(bytes)", bytes, eos_id)
    }

    fn load(name: &str, bytes: &[u8], eos_id: u32) -> Result<Self, DataError> {
        let refuse = |reason: String| DataError::Tokenizer { name: name.to_string(), reason };
        let mut inner = Tokenizer::from_bytes(bytes).map_err(|error| refuse(error.to_string()))?;
        // A file may ask for cutting and padding; here both are decided elsewhere.
        inner.with_truncation(None).map_err(|error| refuse(error.to_string()))?;
        inner.with_padding(None);
        if inner.id_to_token(eos_id).is_none() {
            return Err(refuse(format!(
                "it has no token {eos_id}, which the model uses as end of text; do they belong together?"
            )));
        }
        Ok(Self { inner, eos_id })
    }

    /// The id that ends a text.
    pub fn eos_id(&self) -> u32 {
        self.eos_id
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Checks that every id of the tokenizer has a row in a model's embedding.
    ///
    /// # Errors
    /// [`DataError::TokenizerDoesNotFit`] when the largest id is not below `vocab`.
    pub fn check_fits(&self, vocab: usize) -> Result<(), DataError> {
        let largest_id = self.inner.get_vocab(true).into_values().max().unwrap_or(0);
        if largest_id as usize >= vocab {
            return Err(DataError::TokenizerDoesNotFit { largest_id, vocab });
        }
        Ok(())
    }

    /// Ids of a text to be continued: with BOS if that is the tokenizer's rule, without an end of text.
    ///
    /// # Errors
    /// When the tokenizer's model cannot express the text.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let encoding = self.encode(text)?;
        Ok(encoding.get_ids()[..text_end(&encoding)].to_vec())
    }

    /// A training row: the template's prompt and completion as one text, and the end of text; at most `max_tokens` ids.
    ///
    /// # Errors
    /// When the tokenizer's model cannot express the text.
    pub fn encode_example(
        &self,
        template: &Template,
        example: &Example,
        max_tokens: usize,
    ) -> Result<Tokens, DataError> {
        let prompt = template.prompt(&example.question);
        let text = format!("{prompt}{}", template.completion(&example.answer));
        let encoding = self.encode(&text)?;
        let end = text_end(&encoding);
        let mut ids = encoding.get_ids()[..end].to_vec();
        // A token that spans the border counts as answer: predicting it is part of answering.
        let answer = encoding.get_offsets()[..end].iter().position(|&(_, stop)| stop > prompt.len());
        let mut loss_from = answer.unwrap_or(end);
        ids.push(self.eos_id);
        let truncated = ids.len() > max_tokens;
        if truncated {
            ids.truncate(max_tokens);
            loss_from = loss_from.min(max_tokens);
        }
        Ok(Tokens { ids, loss_from, truncated })
    }

    /// [`Self::encode_example`] for every example, counting what the limit cut.
    ///
    /// # Errors
    /// As [`Self::encode_example`].
    pub fn encode_all(
        &self,
        template: &Template,
        examples: &[Example],
        max_tokens: usize,
    ) -> Result<Encoded, DataError> {
        let mut encoded = Encoded::default();
        for example in examples {
            let row = self.encode_example(template, example, max_tokens)?;
            encoded.truncated += usize::from(row.truncated);
            encoded.answer_lost += usize::from(row.truncated && row.loss_from == row.ids.len());
            encoded.rows.push(row);
        }
        Ok(encoded)
    }

    /// The text of `ids`, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> String {
        // Decoders fail on malformed decoder rules only; the bare tokens are then the most that can be shown.
        self.inner.decode(ids, true).unwrap_or_else(|_| ids.iter().map(|&id| self.token(id)).collect())
    }

    /// The token as the vocabulary spells it (`Ġthe`), for display; `<id>` in angle brackets where there is none.
    pub fn token(&self, id: u32) -> String {
        self.inner.id_to_token(id).unwrap_or_else(|| format!("<{id}>"))
    }

    fn encode(&self, text: &str) -> Result<Encoding, DataError> {
        self.inner.encode(text, true).map_err(|error| DataError::Tokenizer {
            name: "(loaded)".to_string(),
            // The text itself stays out: it may be a patient's row, and errors end up in logs.
            reason: format!("cannot encode a text of {} bytes: {error}", text.len()),
        })
    }
}

impl std::fmt::Debug for TextTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextTokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("eos_id", &self.eos_id)
            .finish_non_exhaustive()
    }
}

/// Where the text ends: before the specials that a post-processor appended, which stand for no byte of it.
fn text_end(encoding: &Encoding) -> usize {
    let appended = encoding
        .get_special_tokens_mask()
        .iter()
        .zip(encoding.get_offsets())
        .rev()
        .take_while(|&(&special, &offsets)| special == 1 && offsets == (0, 0))
        .count();
    // A text without tokens is all specials; those are its beginning, not its end.
    if appended == encoding.len() { encoding.len() } else { encoding.len() - appended }
}
