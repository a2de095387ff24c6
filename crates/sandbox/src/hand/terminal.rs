//! A command's output as plain text.
//!
//! The output of a command goes into a log, to a model and to people's terminals. Control sequences in it can move
//! a cursor, retitle a window, write a clipboard or hide text, so none is kept: escape sequences (CSI; OSC, DCS, SOS,
//! PM and APC strings; two-character ones), the C1 controls, and all other control characters but tab, line feed and
//! carriage return. Bytes that are not UTF-8 become U+FFFD. Invisible marks that reorder text are kept: they are
//! text. File tools give files as they are, because `edit` must find what `read` showed; who shows them escapes them.

/// The text of some output.
pub(super) fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if !text.chars().any(is_control) {
        return text.into_owned();
    }
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => match characters.peek().copied() {
                Some('[') => {
                    characters.next();
                    skip_csi(&mut characters);
                }
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    characters.next();
                    skip_string(&mut characters);
                }
                // Intermediates, then one final: charset choices and the like.
                Some(' '..='/') => {
                    while characters.next_if(|next| matches!(next, ' '..='/')).is_some() {}
                    characters.next_if(|next| matches!(next, '0'..='~'));
                }
                Some('0'..='~') => {
                    characters.next();
                }
                _ => {}
            },
            '\u{9b}' => skip_csi(&mut characters),
            '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => skip_string(&mut characters),
            control if is_control(control) => {}
            character => plain.push(character),
        }
    }
    plain
}

fn is_control(character: char) -> bool {
    character.is_control() && !matches!(character, '\t' | '\n' | '\r')
}

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn skip_csi(characters: &mut Characters<'_>) {
    while characters.next_if(|next| matches!(next, ' '..='?')).is_some() {}
    characters.next_if(|next| matches!(next, '@'..='~'));
}

/// To the terminator, or to the end of the line when there is none: an unfinished one must not swallow the rest.
fn skip_string(characters: &mut Characters<'_>) {
    while let Some(next) = characters.peek().copied() {
        match next {
            '\n' => return,
            '\u{7}' | '\u{9c}' => {
                characters.next();
                return;
            }
            '\u{1b}' => {
                characters.next();
                characters.next_if_eq(&'\\');
                return;
            }
            _ => {
                characters.next();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sequences_go_and_text_stays() {
        for (from, to) in [
            ("\u{1b}[1;31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]52;c;ZXZpbA==\u{1b}\\after", "after"),
            ("\u{1b}Pq#0\u{1b}\\after", "after"),
            ("\u{1b}(Bafter", "after"),
            ("\u{1b}cafter", "after"),
            ("\u{9b}2Jafter", "after"),
            ("a\u{8}\u{7f}\u{0}b", "ab"),
            ("unfinished \u{1b}]0;title\nnext line", "unfinished \nnext line"),
            ("tab\tline\r\n", "tab\tline\r\n"),
            ("trailing \u{1b}", "trailing "),
            ("grüße", "grüße"),
        ] {
            assert_eq!(plain(from.as_bytes()), to, "{from:?}");
        }
        assert_eq!(plain(b"\xff"), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn nothing_that_controls_is_left(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(!plain(&bytes).chars().any(is_control));
        }

        #[test]
        fn plain_text_is_kept(text in "[a-zA-Zäöü0-9 \t\n]{0,100}") {
            prop_assert_eq!(plain(text.as_bytes()), text);
        }
    }
}
