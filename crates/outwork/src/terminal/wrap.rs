//! Prose that arrives in pieces, wrapped at words as it comes.
//!
//! Only the word that is not complete yet is held back, so text appears while it is written, and it looks the same
//! however it was cut into pieces. Lines that begin with white space, and fenced code, are not joined or moved:
//! they break only where the terminal ends.

use unicode_width::UnicodeWidthChar;

use super::columns;

/// Wraps one text.
#[derive(Debug)]
pub(crate) struct Wrap {
    indent: usize,
    width: usize,
    column: usize,
    word: String,
    spaces: usize,
    fenced: bool,
    line_start: bool,
    indent_due: bool,
    fence_ticks: usize,
}

impl Wrap {
    /// Lines begin after `indent` columns and end before `width`.
    pub(crate) fn new(indent: usize, width: usize) -> Self {
        Self {
            indent,
            width: width.max(indent + 20),
            column: indent,
            word: String::new(),
            spaces: 0,
            fenced: false,
            line_start: true,
            indent_due: true,
            fence_ticks: 0,
        }
    }

    /// The first line stands behind a label that is written already.
    pub(crate) fn after_label(&mut self) {
        self.indent_due = false;
    }

    /// What can be printed of the text with this piece.
    pub(crate) fn push(&mut self, piece: &str) -> String {
        let mut out = String::new();
        for c in piece.chars() {
            self.take(c, &mut out);
        }
        out
    }

    /// What was held back.
    pub(crate) fn finish(&mut self) -> String {
        let mut out = String::new();
        self.flush(&mut out);
        out
    }

    fn take(&mut self, c: char, out: &mut String) {
        match c {
            '\n' => {
                self.flush(out);
                out.push('\n');
                self.spaces = 0;
                self.column = self.indent;
                self.line_start = true;
                self.indent_due = true;
                self.fence_ticks = 0;
            }
            ' ' => {
                self.flush(out);
                self.spaces += 1;
            }
            c => {
                if self.line_start && self.word.chars().all(|w| w == '`') && c == '`' {
                    self.fence_ticks += 1;
                    if self.fence_ticks == 3 {
                        self.fenced = !self.fenced;
                    }
                }
                self.word.push(c);
                // A word longer than the line is given out in pieces, so that it is neither held back nor cut.
                if columns(&self.word) >= self.width - self.indent {
                    self.flush(out);
                }
            }
        }
    }

    fn flush(&mut self, out: &mut String) {
        if self.word.is_empty() {
            return;
        }
        let word = std::mem::take(&mut self.word);
        let word_columns = columns(&word);
        self.line_start = false;
        if std::mem::take(&mut self.indent_due) {
            out.push_str(&" ".repeat(self.indent));
        }
        if self.column > self.indent && self.column + self.spaces + word_columns > self.width && !self.fenced {
            out.push('\n');
            out.push_str(&" ".repeat(self.indent));
            self.column = self.indent;
            self.spaces = 0;
        }
        let spaces = std::mem::take(&mut self.spaces);
        out.push_str(&" ".repeat(spaces));
        self.column += spaces;
        for c in word.chars() {
            let columns = c.width().unwrap_or(0);
            if self.column + columns > self.width && self.column > self.indent {
                out.push('\n');
                out.push_str(&" ".repeat(self.indent));
                self.column = self.indent;
            }
            out.push(c);
            self.column += columns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> String {
        let mut wrap = Wrap::new(2, 24);
        let mut out = wrap.push(text);
        out.push_str(&wrap.finish());
        out
    }

    #[test]
    fn lines_break_between_words_and_stay_inside() {
        let out = whole(
            "The quick brown fox jumps over the lazy dog.\n\nA new paragraph: https://example.com/a/very/long/address",
        );
        assert!(
            out.starts_with("  The quick brown fox\n  jumps over the lazy\n  dog.\n\n  A new"),
            "{out}"
        );
        assert!(out.lines().all(|line| columns(line) <= 24), "{out}");
    }

    #[test]
    fn code_keeps_its_lines() {
        let code = "```\nlet x = some + long;  // y\n```";
        let out = whole(code);
        let joined: String = out
            .lines()
            .map(|l| l.trim_start_matches("  "))
            .collect::<Vec<_>>()
            .join("");
        assert_eq!(joined, code.replace('\n', ""));
        assert!(whole("- a\n  - b").ends_with("    - b"));
    }

    #[test]
    fn pieces_do_not_matter() {
        let text = "Some words, 日本語の文章 and `code`.\n```\nfenced   code\n```\nend";
        let mut wrap = Wrap::new(2, 24);
        let mut out = String::new();
        for c in text.chars() {
            out.push_str(&wrap.push(&c.to_string()));
        }
        out.push_str(&wrap.finish());
        assert_eq!(out, whole(text));
    }
}
