//! The built-in detectors: what secrets and account numbers look like, and the checksums that tell them from numbers
//! that only look so.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::Regex;

/// One thing that can be recognised.
pub struct Detector {
    /// Its name in configurations and replacements.
    pub name: &'static str,
    pub(super) pattern: &'static str,
    pub(super) confirm: Confirm,
}

/// Whether the match from the first to the second place is one indeed: where it ends then.
pub(super) type Confirm = fn(&str, usize, usize) -> Option<usize>;

/// A pattern that needs no second look.
pub(super) const AS_IT_IS: Confirm = |_, _, end| Some(end);

/// Every detector. Shapes as the issuers of the keys document them.
pub const DETECTORS: &[Detector] = &[
    Detector {
        name: "private_key",
        // To the end marker, or to the end of the text: half a key is a key too.
        pattern: r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|\z)",
        confirm: AS_IT_IS,
    },
    Detector {
        name: "aws_key",
        pattern: r#"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b|(?i:aws_?secret_?(?:access_?)?key)["'\s:=]{1,8}[A-Za-z0-9/+]{40}\b"#,
        confirm: AS_IT_IS,
    },
    Detector {
        name: "gcp_key",
        pattern: r"AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{20,}|GOCSPX-[0-9A-Za-z_-]{28}",
        confirm: AS_IT_IS,
    },
    Detector {
        name: "azure_key",
        pattern: r"AccountKey=[A-Za-z0-9+/]{86}==",
        confirm: AS_IT_IS,
    },
    Detector {
        name: "github_token",
        pattern: r"gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}",
        confirm: AS_IT_IS,
    },
    Detector {
        name: "slack_token",
        pattern: r"xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{10,}|https://hooks\.slack\.com/services/[A-Za-z0-9/]{20,}",
        confirm: AS_IT_IS,
    },
    Detector {
        name: "card_number",
        pattern: r"[2-6][0-9](?:[ -]?[0-9]){11,17}",
        confirm: card,
    },
    Detector {
        name: "iban",
        pattern: r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}",
        confirm: iban,
    },
];

impl Detector {
    /// Its pattern, compiled once for all routes.
    pub(super) fn compiled(&self) -> Result<Regex, regex::Error> {
        static COMPILED: LazyLock<Mutex<HashMap<&str, Regex>>> = LazyLock::new(Mutex::default);
        // A map is whole whatever panicked beside it.
        let mut all = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pattern) = all.get(self.name) {
            return Ok(pattern.clone());
        }
        let pattern = Regex::new(self.pattern)?;
        all.insert(self.name, pattern.clone());
        Ok(pattern)
    }
}

/// The detectors that a name stands for: one, `cloud_key` for those of the clouds, or `all`.
pub fn named(name: &str) -> Option<Vec<&'static Detector>> {
    let of = |names: &[&str]| {
        DETECTORS
            .iter()
            .filter(|detector| names.contains(&detector.name))
            .collect::<Vec<_>>()
    };
    let found = match name {
        "all" => DETECTORS.iter().collect(),
        "cloud_key" => of(&["aws_key", "gcp_key", "azure_key"]),
        name => of(&[name]),
    };
    (!found.is_empty()).then_some(found)
}

/// The names that a configuration may use.
pub fn names() -> Vec<&'static str> {
    DETECTORS
        .iter()
        .map(|detector| detector.name)
        .chain(["cloud_key", "all"])
        .collect()
}

/// A card number of 13 to 19 digits, not in the middle of a longer one. Digits may follow after a space (a date), so the
/// match is tried shorter and shorter.
fn card(text: &str, start: usize, end: usize) -> Option<usize> {
    let digit_at = |place: Option<&u8>| place.is_some_and(u8::is_ascii_digit);
    let bytes = text.as_bytes();
    if start > 0 && digit_at(bytes.get(start - 1)) {
        return None;
    }
    (start + 13..=end)
        .rev()
        .find(|end| digit_at(bytes.get(end - 1)) && !digit_at(bytes.get(*end)) && luhn(&bytes[start..*end]))
}

/// The checksum of card numbers (ISO/IEC 7812).
fn luhn(text: &[u8]) -> bool {
    let digits: Vec<u32> = text
        .iter()
        .filter(|b| b.is_ascii_digit())
        .map(|b| u32::from(b - b'0'))
        .collect();
    let same = digits.windows(2).all(|pair| pair[0] == pair[1]);
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            if place % 2 == 0 {
                *digit
            } else {
                digit * 2 - if *digit > 4 { 9 } else { 0 }
            }
        })
        .sum();
    (13..=19).contains(&digits.len()) && !same && sum.is_multiple_of(10)
}

/// An account number with the checksum of ISO 13616: the rearranged number is 1 modulo 97. Words may follow, so only
/// as much is taken as the country's numbers have.
fn iban(text: &str, start: usize, end: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    if start > 0 && bytes[start - 1].is_ascii_alphanumeric() {
        return None;
    }
    let length = country_length(&bytes[start..start + 2])?;
    let places: Vec<usize> = (start..end).filter(|at| bytes[*at] != b' ').take(length).collect();
    if places.len() < length {
        return None;
    }
    let remainder = places[4..]
        .iter()
        .chain(&places[..4])
        .fold(0u32, |sum, at| match bytes[*at] {
            digit @ b'0'..=b'9' => (sum * 10 + u32::from(digit - b'0')) % 97,
            letter => (sum * 100 + u32::from(letter - b'A') + 10) % 97,
        });
    let end = places[length - 1] + 1;
    (remainder == 1).then_some(end)
}

/// How long a country's numbers are (SWIFT's registry). A country that is not listed has none.
fn country_length(country: &[u8]) -> Option<usize> {
    const LENGTHS: &[(usize, &str)] = &[
        (15, "NO"),
        (16, "BE"),
        (18, "DK FO FI GL NL FK SD"),
        (19, "MK SI"),
        (20, "AT BA EE KZ LT LU XK MN"),
        (21, "CH HR LI LV"),
        (22, "BG BH CR DE GB GE IE ME RS VA"),
        (23, "AE GI IL IQ TL OM SO"),
        (24, "AD CZ ES MD PK RO SA SE SK TN VG"),
        (25, "LY PT ST"),
        (26, "IS TR"),
        (27, "BI DJ FR GR IT MC MR SM"),
        (28, "AL AZ BY CY DO GT HN HU LB NI PL SV"),
        (29, "BR EG PS QA UA"),
        (30, "JO KW MU YE"),
        (31, "MT SC"),
        (32, "LC"),
        (33, "RU"),
    ];
    let country = std::str::from_utf8(country).ok()?;
    LENGTHS
        .iter()
        .find(|(_, countries)| countries.split(' ').any(|one| one == country))
        .map(|(length, _)| *length)
}

#[cfg(test)]
mod tests {
    use super::super::{Action, tests::redactor};
    use super::*;

    #[test]
    fn each_is_found_and_its_neighbour_is_not() {
        let key = format!("AccountKey={}==", "A".repeat(86));
        let github = format!("ghp_{}", "a1B2".repeat(9));
        for (name, secret, harmless) in [
            (
                "private_key",
                "-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----",
                "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
            ),
            (
                "private_key",
                "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blb",
                "-----BEGIN CERTIFICATE-----",
            ),
            ("aws_key", "AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7"),
            (
                "aws_key",
                "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                "aws_secret_access_key = x",
            ),
            ("gcp_key", "AIzaSyA1234567890abcdefghijklmnopqrstuv", "AIzaShort"),
            ("azure_key", &key, "AccountKey=short"),
            ("github_token", &github, "ghp_short"),
            ("slack_token", "xoxb-123456789012-abcdef", "xoxb-"),
            ("card_number", "4111-1111-1111-1111", "4111-1111-1111-1112"),
            ("card_number", "378282246310005", "378282246310006"),
            ("iban", "DE89 3704 0044 0532 0130 00", "DE88 3704 0044 0532 0130 00"),
            ("iban", "GB82WEST12345698765432", "GB83WEST12345698765432"),
            ("cloud_key", "AKIAIOSFODNN7EXAMPLE", "AKIA"),
            ("all", "NO9386011117947", "NO9386011117948"),
        ] {
            let redactor = redactor(name, Action::Redact);
            let found = redactor.text(&format!("it is {secret}")).unwrap();
            assert!(
                found
                    .as_deref()
                    .is_some_and(|text| text.starts_with("it is [redacted:")),
                "{name}: {found:?}"
            );
            assert!(!found.unwrap_or_default().contains(secret), "{name}");
            assert_eq!(redactor.text(harmless), Ok(None), "{name}: {harmless}");
        }
    }

    #[test]
    fn an_iban_before_a_word_is_found() {
        let text = redactor("iban", Action::Redact)
            .text("DE89370400440532013000 PAID BY")
            .unwrap()
            .unwrap();
        assert!(!text.contains("DE8937"), "{text}");
    }

    #[test]
    fn equal_digits_are_no_card() {
        assert!(!luhn(b"4444444444444444") && luhn(b"4111111111111111"));
    }

    #[test]
    fn what_stands_around_a_card_does_not_hide_it() {
        for text in [
            "4111111111111111 12/29",
            "card_4111111111111111x",
            "2 4111111111111111",
            "4111-1111-1111-1111-12",
        ] {
            let left = redactor("card_number", Action::Redact).text(text).unwrap();
            assert!(
                left.as_deref().is_some_and(|left| !left.contains("1111")),
                "{text}: {left:?}"
            );
        }
        for text in ["84111111111111111", "41111111111111118888888"] {
            assert_eq!(redactor("card_number", Action::Redact).text(text), Ok(None), "{text}");
        }
    }
}
