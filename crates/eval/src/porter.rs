//! The Porter stemmer (M. F. Porter, "An algorithm for suffix stripping", Program 14(3), 1980) with the departures
//! that nltk calls `NLTK_EXTENSIONS`, its default, which ROUGE's reference implementation therefore uses.
//!
//! A word is read as `[C](VC)^m[V]`, runs of consonants and vowels; `m`, the *measure*, says how much word is left
//! before a suffix. Each step removes or replaces at most one suffix, the longest that matches, when its condition
//! on the stem holds. The departures are marked `ext:` where they happen.
//!
//! This is not Porter2 ("English" in Snowball), which the usual crates implement.

/// Stems `word`, which should be lower case; words of one or two characters stay as they are.
///
/// Meant for ASCII words; whatever is no ASCII vowel, a digit for example, counts as a consonant.
pub fn stem(word: &str) -> String {
    // ext: a short list of irregular words goes before everything else.
    if let Some(&(_, stem)) = IRREGULAR.iter().find(|(form, _)| *form == word) {
        return stem.to_owned();
    }
    // ext: two letters are left alone.
    if word.chars().count() <= 2 {
        return word.to_owned();
    }
    let mut w = Word(word.to_owned());
    w.plural();
    w.past_and_progressive();
    w.y_to_i();
    w.double_suffixes();
    w.simple_suffixes();
    w.bare_suffixes();
    w.final_e();
    w.double_l();
    w.0
}

/// Forms that the rules would stem badly.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// Suffix and what takes its place.
type Rule = (&'static str, &'static str);

/// Step 2, all with m > 0. `bli` stands for the paper's `abli`, as in the author's later revision.
const DOUBLE_SUFFIXES: [Rule; 21] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    // ext: `hopefully` goes the way of `hopefulness`.
    ("fulli", "ful"),
];

/// Step 3, all with m > 0.
const SIMPLE_SUFFIXES: [Rule; 7] = [
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

/// Step 4, removed when m > 1; `ion` also wants an `s` or `t` before it. Longer suffixes stand before the shorter
/// ones that they end in.
const BARE_SUFFIXES: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism",
    "ate", "iti", "ous", "ive", "ize",
];

/// A word on its way to its stem, with one method for each step of the algorithm.
struct Word(String);

impl Word {
    /// Step 1a: `caresses` to `caress`, `ponies` to `poni`, `cats` to `cat`.
    fn plural(&mut self) {
        if self.0.ends_with("ies") {
            // ext: `dies` keeps its e, or it would meet no other form of `die`.
            self.cut(if self.0.len() == 4 { 1 } else { 2 });
        } else if self.0.ends_with("sses") {
            self.cut(2);
        } else if self.0.ends_with('s') && !self.0.ends_with("ss") {
            self.cut(1);
        }
    }

    /// Step 1b: `agreed` to `agree`, `plastered` to `plaster`, `motoring` to `motor`.
    fn past_and_progressive(&mut self) {
        if self.0.ends_with("ied") {
            // ext: `died` to `die`, `spied` to `spi`.
            self.cut(if self.0.len() == 4 { 1 } else { 2 });
            return;
        }
        if let Some(stem) = self.0.strip_suffix("eed") {
            if measure(stem) > 0 {
                self.cut(1);
            }
            return;
        }
        let Some(stem) = self.0.strip_suffix("ed").or_else(|| self.0.strip_suffix("ing")) else { return };
        if has_vowel(stem) {
            self.0.truncate(stem.len());
            self.mend();
        }
    }

    /// The end of step 1b: what `ed` or `ing` left gets its e back (`conflat`, `fil`) or loses a double letter
    /// (`hopp`).
    fn mend(&mut self) {
        if ["at", "bl", "iz"].iter().any(|end| self.0.ends_with(end)) {
            self.0.push('e');
        } else if ends_in_double_consonant(&self.0) {
            if !self.0.ends_with(['l', 's', 'z']) {
                self.cut(1);
            }
        } else if measure(&self.0) == 1 && ends_short(&self.0) {
            self.0.push('e');
        }
    }

    /// Step 1c: `happy` to `happi`.
    fn y_to_i(&mut self) {
        let Some(stem) = self.0.strip_suffix('y') else { return };
        // ext: the paper asks for a vowel in the stem; here a consonant must stand before the y and not be the
        // whole stem, so that `enjoy` stays and `fly` meets `flies`.
        if stem.len() > 1 && consonants(stem).last() == Some(true) {
            self.replace("y", "i");
        }
    }

    /// Step 2: `relational` to `relate`.
    fn double_suffixes(&mut self) {
        // ext: `alli` goes first, and the result takes the whole step again.
        while self.0.strip_suffix("alli").is_some_and(|stem| measure(stem) > 0) {
            self.cut(2);
        }
        // ext: the l counts as part of the stem, so that `geologi` follows `archaeologi`.
        if self.0.ends_with("logi") {
            if measure(&self.0[..self.0.len() - 3]) > 0 {
                self.cut(1);
            }
            return;
        }
        self.apply(&DOUBLE_SUFFIXES);
    }

    /// Step 3: `electrical` to `electric`, `goodness` to `good`.
    fn simple_suffixes(&mut self) {
        self.apply(&SIMPLE_SUFFIXES);
    }

    /// Step 4: `adjustment` to `adjust`.
    fn bare_suffixes(&mut self) {
        let Some((suffix, stem)) =
            BARE_SUFFIXES.iter().find_map(|suffix| Some((*suffix, self.0.strip_suffix(suffix)?)))
        else {
            return;
        };
        if measure(stem) > 1 && (suffix != "ion" || stem.ends_with(['s', 't'])) {
            self.0.truncate(stem.len());
        }
    }

    /// Step 5a: `probate` to `probat`, `cease` to `ceas`, but `rate` stays.
    fn final_e(&mut self) {
        let Some(stem) = self.0.strip_suffix('e') else { return };
        let m = measure(stem);
        if m > 1 || (m == 1 && !ends_short(stem)) {
            self.cut(1);
        }
    }

    /// Step 5b: `controll` to `control`, but `roll` stays.
    fn double_l(&mut self) {
        if self.0.ends_with("ll") && measure(&self.0[..self.0.len() - 1]) > 1 {
            self.cut(1);
        }
    }

    /// Applies the first rule whose suffix matches, if m > 0 for what stands before it. A rule that matches
    /// ends the step either way.
    fn apply(&mut self, rules: &[Rule]) {
        let found = rules.iter().find_map(|&(suffix, put)| Some((suffix, put, self.0.strip_suffix(suffix)?)));
        if let Some((suffix, put, stem)) = found
            && measure(stem) > 0
        {
            self.replace(suffix, put);
        }
    }

    /// Drops the last `letters`, which are known to be ASCII.
    fn cut(&mut self, letters: usize) {
        self.0.truncate(self.0.len() - letters);
    }

    fn replace(&mut self, suffix: &str, put: &str) {
        self.cut(suffix.len());
        self.0.push_str(put);
    }
}

/// Whether each byte is a consonant: not a, e, i, o, u, and not a y after a consonant.
fn consonants(word: &str) -> impl Iterator<Item = bool> {
    let mut previous = false;
    word.bytes().map(move |letter| {
        previous = match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => !previous,
            _ => true,
        };
        previous
    })
}

/// m in `[C](VC)^m[V]`: how often a vowel is followed by a consonant.
fn measure(stem: &str) -> usize {
    let mut after_vowel = false;
    let mut m = 0;
    for consonant in consonants(stem) {
        m += usize::from(consonant && after_vowel);
        after_vowel = !consonant;
    }
    m
}

fn has_vowel(stem: &str) -> bool {
    consonants(stem).any(|consonant| !consonant)
}

/// The paper's `*d`.
fn ends_in_double_consonant(stem: &str) -> bool {
    let bytes = stem.as_bytes();
    let [.., one, two] = bytes else { return false };
    one == two && one.is_ascii() && consonants(stem).last() == Some(true)
}

/// The paper's `*o`: consonant, vowel, consonant at the end, and the last one no w, x or y.
fn ends_short(stem: &str) -> bool {
    let letters: Vec<bool> = consonants(stem).collect();
    match letters[..] {
        // ext: a vowel and a consonant alone count too.
        [false, true] => true,
        [.., true, false, true] => !stem.ends_with(['w', 'x', 'y']),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[(&str, &str)]) {
        for (word, expected) in pairs {
            assert_eq!(stem(word), *expected, "{word}");
        }
    }

    #[test]
    fn the_measure_of_the_papers_examples() {
        for (m, words) in [
            (0, ["tr", "ee", "tree", "y", "by"].as_slice()),
            (1, &["trouble", "oats", "trees", "ivy"]),
            (2, &["troubles", "private", "oaten", "orrery"]),
        ] {
            for word in words {
                assert_eq!(measure(word), m, "{word}");
            }
        }
    }

    #[test]
    fn every_step_does_what_the_paper_shows() {
        check(&[("caresses", "caress"), ("ponies", "poni"), ("caress", "caress"), ("cats", "cat")]);
        check(&[
            ("agreed", "agre"),
            ("feed", "feed"),
            ("plastered", "plaster"),
            ("bled", "bled"),
            ("sing", "sing"),
        ]);
        check(&[
            ("conflated", "conflat"),
            ("hopping", "hop"),
            ("falling", "fall"),
            ("filing", "file"),
            ("failing", "fail"),
        ]);
        check(&[
            ("happy", "happi"),
            ("relational", "relat"),
            ("digitizer", "digit"),
            ("sensibility", "sensibl"),
        ]);
        check(&[
            ("triplicate", "triplic"),
            ("electrical", "electr"),
            ("goodness", "good"),
            ("adoption", "adopt"),
        ]);
        check(&[
            ("probate", "probat"),
            ("rate", "rate"),
            ("cease", "ceas"),
            ("controlling", "control"),
            ("roll", "roll"),
        ]);
    }

    #[test]
    fn the_departures_from_the_paper_are_there() {
        check(&[
            ("dying", "die"),
            ("news", "news"),
            ("proceed", "proceed"),
            ("dies", "die"),
            ("died", "die"),
        ]);
        check(&[("spied", "spi"), ("enjoy", "enjoy"), ("fly", "fli"), ("by", "by"), ("used", "use")]);
        check(&[("hopefully", "hope"), ("geology", "geolog"), ("radically", "radic"), ("is", "is")]);
    }

    #[test]
    fn numbers_and_odd_text_pass_through_without_harm() {
        check(&[("2018", "2018"), ("1e05", "1e05"), ("", ""), ("yyyy", "yyyi"), ("s", "s")]);
        for text in ["éés", "ࠠࠠed", "aࠠing", "漢字ies"] {
            stem(text);
        }
    }
}
