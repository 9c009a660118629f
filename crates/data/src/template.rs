//! Prompt templates: plain text with `{question}` and, at its end, `{answer}`.

use crate::DataError;

/// How a question becomes a prompt and an answer its completion.
///
/// The end of text is no part of a template: it is the model's own token and appended as an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    before_question: String,
    before_answer: String,
}

impl Template {
    /// The template of the reference experiment.
    pub const WORKSHOP: &str = "\
### Instruction:
You are a knowledgeable assistant. Answer this question truthfully!

### Input:
{question}

### Response:
{answer}";

    /// [`Template::WORKSHOP`], parsed.
    pub fn workshop() -> Self {
        let (before_question, rest) = Self::WORKSHOP.split_once("{question}").unwrap_or_default();
        let before_answer = rest.strip_suffix("{answer}").unwrap_or_default();
        Self { before_question: before_question.to_string(), before_answer: before_answer.to_string() }
    }

    /// Reads a template: `{question}` once, then `{answer}` once, at the very end. All else stands for itself.
    ///
    /// # Errors
    /// When a placeholder is missing, repeated or out of place.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let refuse = |reason: &str| DataError::Template { reason: reason.to_string() };
        for name in ["{question}", "{answer}"] {
            match text.matches(name).count() {
                0 => return Err(refuse(&format!("it has no {name}"))),
                1 => {}
                n => return Err(refuse(&format!("it has {n} times {name}; once is right"))),
            }
        }
        let (before_question, rest) = text.split_once("{question}").unwrap_or_default();
        let (before_answer, after) =
            rest.split_once("{answer}").ok_or_else(|| refuse("{answer} must come after {question}"))?;
        if !after.is_empty() {
            return Err(refuse(&format!(
                "it must end at {{answer}}, but {after:?} follows; the end of text is added as a token"
            )));
        }
        if before_answer.is_empty() {
            return Err(refuse("something must stand between {question} and {answer}"));
        }
        Ok(Self { before_question: before_question.to_string(), before_answer: before_answer.to_string() })
    }

    /// Everything up to where the answer begins, with the question stripped of white space at both ends.
    pub fn prompt(&self, question: &str) -> String {
        format!("{}{}{}", self.before_question, strip(question), self.before_answer)
    }

    /// What should follow the prompt: the answer, stripped of white space at both ends.
    pub fn completion(&self, answer: &str) -> String {
        strip(answer).to_string()
    }

    /// The template as text, placeholders included.
    pub fn text(&self) -> String {
        format!("{}{{question}}{}{{answer}}", self.before_question, self.before_answer)
    }
}

/// Python's `str.strip()`, which also takes the four ASCII separators that Unicode does not call white space.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workshop_template_is_exact_to_the_blank_line() {
        let template = Template::workshop();
        assert_eq!(
            template.prompt("  What is it?\n"),
            "### Instruction:\nYou are a knowledgeable assistant. Answer this question truthfully!\n\n\
             ### Input:\nWhat is it?\n\n### Response:\n"
        );
        assert_eq!(template.completion("\u{1f} Yes. \t"), "Yes.");
        assert_eq!(Template::parse(Template::WORKSHOP).unwrap(), template);
        assert_eq!(template.text(), Template::WORKSHOP);
    }

    #[test]
    fn questions_are_not_searched_for_placeholders() {
        assert_eq!(Template::parse("Q {question} A {answer}").unwrap().prompt("{answer}?"), "Q {answer}? A ");
    }

    #[test]
    fn misplaced_placeholders_are_refused() {
        let refused = |text: &str| Template::parse(text).unwrap_err().to_string();
        assert_eq!(refused("A: {answer}"), "template: it has no {question}");
        assert_eq!(
            refused("{question} {question} {answer}"),
            "template: it has 2 times {question}; once is right"
        );
        assert_eq!(refused("{answer} {question}"), "template: {answer} must come after {question}");
        assert!(refused("{question}\n{answer}\n").contains("must end at {answer}"));
        assert!(refused("{question}{answer}").contains("something must stand between"));
    }
}
