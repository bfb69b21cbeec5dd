//! Reads which paths a Rust file uses, without a compiler: words, `::` and braces, with comments,
//! strings and test code left out. It knows as much of Rust as this repository needs.

use std::path::Path;

/// A path that is used, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Use {
    /// As in `crate::types::Cid` or `std::fs`; `self` and `super` are resolved.
    pub(super) path: String,
    /// Counted from 1.
    pub(super) line: usize,
    /// The module it is used in.
    pub(super) module: String,
}

/// What was read of a file.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The file's module, as in `tracker::machine`; empty for the crate's root.
    pub(super) module: String,
    /// In order.
    pub(super) uses: Vec<Use>,
    /// Modules declared here for tests only.
    pub(super) test_modules: Vec<String>,
}

/// The module of a file, by its path inside `src`.
pub(super) fn module_of(file: &Path) -> String {
    let mut parts: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts.join("::")
}

impl Source {
    /// Reads a file's text.
    pub(super) fn read(module: &str, text: &str) -> Self {
        let mut reader = Reader {
            tokens: tokens(text),
            at: 0,
            modules: vec![(module.to_owned(), 0)],
            depth: 0,
            uses: Vec::new(),
            test_modules: Vec::new(),
        };
        reader.read();
        Self { module: module.to_owned(), uses: reader.uses, test_modules: reader.test_modules }
    }
}

/// A word, `::`, or one other character.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let end = match skipped(&chars[at..]) {
            0 => at + word_len(&chars[at..]),
            len => at + len,
        };
        if skipped(&chars[at..]) == 0 {
            tokens.push(Token { text: chars[at..end].iter().collect(), line });
        }
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    tokens
}

/// Length of the word or sign at the start.
fn word_len(chars: &[char]) -> usize {
    let word = chars.iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
    match chars {
        _ if word > 0 => word,
        [':', ':', ..] => 2,
        _ => 1,
    }
}

/// Length of the space, comment, string, character or lifetime at the start; 0 when there is none.
fn skipped(chars: &[char]) -> usize {
    match chars {
        [c, ..] if c.is_whitespace() => 1,
        ['/', '/', ..] => chars.iter().take_while(|c| **c != '\n').count(),
        ['/', '*', ..] => comment_len(chars),
        ['"', ..] => quoted_len(chars),
        ['b' | 'c', '"', ..] => 1 + quoted_len(&chars[1..]),
        ['r', '"' | '#', ..] => raw_len(chars, 1),
        ['b', 'r', '"' | '#', ..] => raw_len(chars, 2),
        ['\'', '\\', ..] => 2 + chars[2..].iter().skip(1).take_while(|c| **c != '\'').count() + 2,
        ['\'', _, '\'', ..] => 3,
        ['\'', ..] => {
            1 + chars[1..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count()
        }
        _ => 0,
    }
    .min(chars.len())
}

fn comment_len(chars: &[char]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < chars.len() {
        match chars[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] if depth == 1 => return at + 2,
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

fn quoted_len(chars: &[char]) -> usize {
    let mut at = 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// A raw string; `r#name` is none.
fn raw_len(chars: &[char], prefix: usize) -> usize {
    let hashes = chars[prefix..].iter().take_while(|c| **c == '#').count();
    if chars.get(prefix + hashes) != Some(&'"') {
        return 0;
    }
    let mut at = prefix + hashes + 1;
    while at < chars.len() {
        let closing = chars[at] == '"' && chars[at + 1..].iter().take(hashes).all(|c| *c == '#');
        if closing {
            return at + 1 + hashes;
        }
        at += 1;
    }
    at
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    /// The modules around this place, and the depth of braces each began at.
    modules: Vec<(String, usize)>,
    depth: usize,
    uses: Vec<Use>,
    test_modules: Vec<String>,
}

impl Reader {
    fn text(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", |token| &token.text)
    }

    fn starts(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(n, word)| self.text(n) == *word)
    }

    fn module(&self) -> &str {
        self.modules.last().map_or("", |(module, _)| module)
    }

    fn inner(&self, name: &str) -> String {
        if self.module().is_empty() {
            name.to_owned()
        } else {
            format!("{}::{name}", self.module())
        }
    }

    fn read(&mut self) {
        while self.at < self.tokens.len() {
            if self.starts(&["#", "[", "cfg", "(", "test", ")", "]"]) {
                self.skip_test_item();
            } else if self.starts(&["pub", "("]) {
                self.skip_visibility();
            } else if self.text(0) == "mod" && self.text(2) == "{" {
                let inner = self.inner(self.text(1));
                self.modules.push((inner, self.depth));
                self.at += 2;
            } else if self.text(0) == "use" {
                self.at += 1;
                self.tree("");
            } else if is_word(self.text(0)) && self.text(1) == "::" && !self.is_continued() {
                self.inline();
            } else {
                self.brace();
                self.at += 1;
            }
        }
    }

    /// Whether the word here belongs to a path that began before, as in `Vec::<T>::new`.
    fn is_continued(&self) -> bool {
        self.at > 0 && self.tokens[self.at - 1].text == "::"
    }

    fn brace(&mut self) {
        match self.text(0) {
            "{" => self.depth += 1,
            "}" => {
                self.depth = self.depth.saturating_sub(1);
                if self.modules.len() > 1 && self.modules.last().is_some_and(|m| m.1 == self.depth)
                {
                    self.modules.pop();
                }
            }
            _ => {}
        }
    }

    /// Passes over the item after `#[cfg(test)]`.
    fn skip_test_item(&mut self) {
        while self.text(0) == "#" {
            while !["]", ""].contains(&self.text(0)) {
                self.at += 1;
            }
            self.at += 1;
        }
        self.skip_visibility();
        if self.text(0) == "mod" && self.text(2) == ";" {
            let name = self.inner(self.text(1));
            self.test_modules.push(name);
        }
        let mut depth = 0_usize;
        while self.at < self.tokens.len() {
            match self.text(0) {
                "{" => depth += 1,
                "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            let ends = depth == 0 && matches!(self.text(0), "}" | ";");
            self.at += 1;
            if ends {
                return;
            }
        }
    }

    /// Passes over `pub`, and over what is in parentheses after it: that is no use.
    fn skip_visibility(&mut self) {
        if self.text(0) == "pub" {
            self.at += 1;
            if self.text(0) == "(" {
                while ![")", ""].contains(&self.text(0)) {
                    self.at += 1;
                }
                self.at += 1;
            }
        }
    }

    /// A path in the middle of code, as in `crate::types::Cid`.
    fn inline(&mut self) {
        let line = self.tokens[self.at].line;
        let mut path = self.text(0).to_owned();
        self.at += 1;
        while self.text(0) == "::" && is_word(self.text(1)) {
            path = format!("{path}::{}", self.text(1));
            self.at += 2;
        }
        self.note(&path, line);
    }

    /// The tree after `use`, up to what ends it.
    fn tree(&mut self, before: &str) {
        let mut path = before.to_owned();
        loop {
            let line = self.tokens.get(self.at).map_or(0, |token| token.line);
            let text = self.text(0).to_owned();
            match text.as_str() {
                "{" => {
                    self.at += 1;
                    while !["}", ""].contains(&self.text(0)) {
                        self.tree(&path);
                        if self.text(0) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "::" => self.at += 1,
                "self" if !before.is_empty() => self.at += 1,
                "*" => {
                    self.note(&format!("{path}::*"), line);
                    self.at += 1;
                    return;
                }
                word if is_word(word) && word != "as" => {
                    path = if path.is_empty() { text } else { format!("{path}::{text}") };
                    self.at += 1;
                }
                _ => break,
            }
        }
        let line = self.tokens.get(self.at.saturating_sub(1)).map_or(0, |token| token.line);
        self.note(&path, line);
        if self.text(0) == "as" {
            self.at += 2;
        }
        // Something this reader does not know: not to stand still is what matters.
        if !matches!(self.text(0), "," | "}" | ";" | "") {
            self.at += 1;
        }
    }

    fn note(&mut self, path: &str, line: usize) {
        let path = self.resolved(path);
        let module = self.module().to_owned();
        self.uses.push(Use { path, line, module });
    }

    fn resolved(&self, path: &str) -> String {
        let mut module: Vec<&str> = self.module().split("::").filter(|m| !m.is_empty()).collect();
        let mut rest = path;
        let mut is_local = false;
        loop {
            let (first, after) = rest.split_once("::").unwrap_or((rest, ""));
            match first {
                "self" if !is_local => {}
                "super" => drop(module.pop()),
                _ => break,
            }
            (is_local, rest) = (true, after);
        }
        if !is_local {
            return path.to_owned();
        }
        let all: Vec<&str> = ["crate"]
            .into_iter()
            .chain(module)
            .chain([rest].into_iter().filter(|r| !r.is_empty()))
            .collect();
        all.join("::")
    }
}
