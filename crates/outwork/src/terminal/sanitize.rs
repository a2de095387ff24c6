//! Text of models and tools, made harmless for a terminal.
//!
//! A terminal obeys what it is shown: escape sequences move the cursor, set titles, answer as if typed; bidirectional
//! marks show another order than there is. So every control character becomes a visible sign. What is printed
//! has the same letters as what came, and no power. Colours are added after this, by us.

/// Makes text harmless that may have several lines; line feeds and tabs stay.
pub(crate) fn lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => out.push('\n'),
            '\t' => out.push_str("    "),
            '\r' if chars.peek() == Some(&'\n') => {}
            c => push(&mut out, c),
        }
    }
    out
}

/// Makes text harmless that must stay on one line; line feeds become `⏎`.
pub(crate) fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in lines(text).chars() {
        out.push(if c == '\n' { '⏎' } else { c });
    }
    out
}

fn push(out: &mut String, c: char) {
    match c {
        '\0'..='\x1f' => out.push(char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}')),
        '\x7f' => out.push('\u{2421}'),
        '\u{80}'..='\u{9f}'
        // Marks that change the order of what is shown, or are not shown at all.
        | '\u{61c}'
        | '\u{200e}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => {
            out.push_str(&format!("<U+{:04X}>", u32::from(c)));
        }
        c => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_lose_their_power_and_stay_visible() {
        assert_eq!(lines("\x1b]0;owned\x07 \x1b[2J\u{9b}31m"), "␛]0;owned␇ ␛[2J<U+009B>31m");
        assert_eq!(lines("a\r\nb\rc\td"), "a\nb␍c    d");
        assert_eq!(line("a\nb"), "a⏎b");
        assert_eq!(lines("\u{202e}txt.exe"), "<U+202E>txt.exe");
    }

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        let all: String = (0..0x11_0000).filter_map(char::from_u32).collect();
        assert!(lines(&all).chars().all(|c| c == '\n' || !c.is_control()));
        assert!(line(&all).chars().all(|c| !c.is_control()));
    }

    #[test]
    fn ordinary_text_is_untouched() {
        for text in ["größer 日本 👩‍💻 é", "x = {\"a\": 1}"] {
            assert_eq!(lines(text), text);
        }
    }
}
