//! The value that must not get out, and every form in which it is looked for.
//!
//! Independent of what the proxy does: what it took out is not believed, but looked for again.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};

/// How it begins, as keys of that kind do.
pub(super) const PREFIX: &str = "sk_live_";

/// The value of the credential. Has no `Debug`.
pub(super) struct Value {
    secret: SecretString,
    /// Name of a form, and the bytes that say that it is there.
    forms: Vec<(&'static str, Vec<u8>)>,
}

impl Value {
    pub(super) fn new(secret: SecretString) -> Self {
        let plain = secret.expose_secret().to_owned();
        let mut forms = vec![("as it is", plain.clone().into_bytes())];
        for before in 0..3 {
            // Where it stands among other bytes shifts its digits; the first and the last mix with the neighbours'.
            let shifted = ["\0".repeat(before).as_bytes(), plain.as_bytes()].concat();
            for (name, digits) in [
                ("in base64", STANDARD_NO_PAD.encode(&shifted)),
                ("in base64url", URL_SAFE_NO_PAD.encode(&shifted)),
            ] {
                let first = [0, 2, 3][before];
                let last = shifted.len() * 8 / 6;
                forms.push((name, digits.as_bytes()[first..last].to_vec()));
            }
        }
        let hex = |upper| -> String {
            let digit = |byte: u8| {
                if upper {
                    format!("{byte:02X}")
                } else {
                    format!("{byte:02x}")
                }
            };
            plain.bytes().map(digit).collect()
        };
        forms.push(("in hexadecimal digits", hex(false).into_bytes()));
        forms.push(("in hexadecimal digits", hex(true).into_bytes()));
        forms.push((
            "with percent signs",
            plain
                .bytes()
                .map(|byte| format!("%{byte:02X}"))
                .collect::<String>()
                .into(),
        ));
        forms.push(("backwards", plain.bytes().rev().collect()));
        Self { secret, forms }
    }

    pub(super) fn secret(&self) -> &SecretString {
        &self.secret
    }

    /// In which form it is in these bytes.
    pub(super) fn found_in(&self, bytes: &[u8]) -> Option<&'static str> {
        let holds = |form: &[u8]| bytes.windows(form.len()).any(|window| window == form);
        self.forms.iter().find(|(_, form)| holds(form)).map(|(name, _)| *name)
    }

    /// Whether a text has something in it that begins as the value does, plain or as the servers of the demonstration
    /// encode it. What is no value (see [`Self::found_in`]) is its placeholder then: it has the same shape.
    pub(super) fn has_its_shape(text: &str) -> bool {
        // Without the end, which mixes with what follows.
        let encoded = |form| {
            let mut digits = Self::encode(&format!("Bearer {PREFIX}"), form);
            digits.truncate(18);
            digits
        };
        text.contains(PREFIX) || text.contains(&encoded("base64")) || text.contains(&encoded("hex"))
    }

    /// A text in a form that a server would give it.
    pub(super) fn encode(text: &str, form: &str) -> String {
        match form {
            "base64" => STANDARD.encode(text),
            "hex" => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
            _ => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_has_the_shape_in_each_form() {
        for form in ["plain", "hex", "base64"] {
            let said = format!("you sent {}", Value::encode("Bearer sk_live_YcM51wNST2zX", form));
            assert!(Value::has_its_shape(&said), "{said}");
        }
        assert!(!Value::has_its_shape("you sent nothing"));
    }

    #[test]
    fn it_is_found_in_every_form_and_nowhere_else() {
        let value = Value::new(SecretString::from("sk_live_0123456789abcdefghij?>"));
        for before in ["", "a", "ab", "abc", "Bearer "] {
            let text = format!("{before}sk_live_0123456789abcdefghij?> and more");
            for form in ["plain", "base64", "hex"] {
                let encoded = Value::encode(&text, form);
                assert!(value.found_in(encoded.as_bytes()).is_some(), "{form} after {before:?}");
            }
            assert!(value.found_in(URL_SAFE_NO_PAD.encode(&text).as_bytes()).is_some());
        }
        assert_eq!(value.found_in(b"sk_live_0123456789abcdefghij?"), None);
        assert_eq!(
            value.found_in(Value::encode("sk_live_9123456789abcdefghij?>", "base64").as_bytes()),
            None
        );
    }
}
