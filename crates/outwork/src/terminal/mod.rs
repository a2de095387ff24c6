//! What a person sees: colours, widths, tables, the transcript of a session.
//!
//! Output only ever grows: nothing is drawn over, so it reads the same in a terminal, a pipe and a log. Text of
//! models and tools goes through [`sanitize`] before it comes here. Colours are left out when the output is no
//! terminal or `NO_COLOR` is set.

pub(crate) mod calls;
pub(crate) mod sanitize;
pub(crate) mod table;
pub(crate) mod transcript;
pub(crate) mod view;
pub(crate) mod wrap;

use std::io::IsTerminal;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Style};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Colour {
    // On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    Always,
    Never,
}

/// What an output can show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Columns.
    pub(crate) width: usize,
    /// Whether colours are used.
    pub(crate) colour: bool,
    /// Whether a person looks at it as it is written.
    pub(crate) live: bool,
}

const NARROWEST: usize = 40;
const WIDEST: usize = 100;
const WITHOUT_TERMINAL: usize = 80;

impl Look {
    /// What standard output can show.
    pub(crate) fn of_stdout(colour: Colour) -> Self {
        let live = std::io::stdout().is_terminal();
        let quiet = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let width = match terminal_size::terminal_size_of(std::io::stdout()) {
            Some((terminal_size::Width(columns), _)) if live => usize::from(columns).clamp(NARROWEST, WIDEST),
            _ => WITHOUT_TERMINAL,
        };
        Self {
            width,
            colour: match colour {
                Colour::Auto => live && !quiet("NO_COLOR") && !dumb,
                Colour::Always => true,
                Colour::Never => false,
            },
            live,
        }
    }

    /// `text` in this style, or plain.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        if self.colour && !text.is_empty() {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }
}

/// The styles in use; colours of the terminal's own palette, so that light and dark themes both read well.
pub(crate) mod style {
    use super::{AnsiColor, Style};

    /// Beside the point.
    pub(crate) const FAINT: Style = Style::new().dimmed();
    /// A heading.
    pub(crate) const STRONG: Style = Style::new().bold();
    /// Went well.
    pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
    /// Went wrong.
    pub(crate) const BAD: Style = AnsiColor::Red.on_default();
    /// Look here.
    pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
    /// A name: of a tool, a command, an id.
    pub(crate) const NAME: Style = AnsiColor::Cyan.on_default();
}

/// Columns that `text` takes.
pub(crate) fn columns(text: &str) -> usize {
    text.width()
}

/// `text`, cut to `max` columns with an ellipsis.
pub(crate) fn cut(text: &str, max: usize) -> String {
    if columns(text) <= max {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let width = c.width().unwrap_or(0);
        if used + width + 1 > max {
            break;
        }
        used += width;
        out.push(c);
    }
    if max > 0 {
        out.push('…');
    }
    out
}

/// `text` with spaces up to `width` columns.
pub(crate) fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(columns(text))))
}

/// A span of time as a person says it: `4ms`, `0.41s`, `12.3s`, `2m05s`, `1h02m`.
pub(crate) fn span(time: Duration) -> String {
    let ms = time.as_millis();
    let seconds = time.as_secs_f64();
    match ms {
        0..100 => format!("{ms}ms"),
        100..9_995 => format!("{seconds:.2}s"),
        9_995..59_950 => format!("{seconds:.1}s"),
        59_950..3_600_000 => {
            let whole = seconds.round() as u64;
            format!("{}m{:02}s", whole / 60, whole % 60)
        }
        _ => format!("{}h{:02}m", time.as_secs() / 3600, time.as_secs() % 3600 / 60),
    }
}

/// A count with thousands apart: `12,345`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, c) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A count with its noun: `1 file`, `3 files`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short_and_never_overflow_their_unit() {
        for (ms, text) in [
            (4, "4ms"),
            (410, "0.41s"),
            (9_994, "9.99s"),
            (12_345, "12.3s"),
            (59_960, "1m00s"),
            (125_000, "2m05s"),
            (3_720_000, "1h02m"),
        ] {
            assert_eq!(span(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn wide_characters_are_measured() {
        assert_eq!(cut("日本語テキスト", 7), "日本語…");
        assert_eq!(columns(&cut("日本語テキスト", 6)), 5);
        assert_eq!(cut("short", 5), "short");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(100), "100");
        assert_eq!(counted(1, "tool call"), "1 tool call");
    }
}
