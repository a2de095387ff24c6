//! Placeholders: what a sandbox sees instead of a secret. As long as the secret and of its shape, so that clients which
//! check a key's prefix, length or alphabet, or parse a token, take it for one.
//!
//! Letters stay letters of their case and digits digits; known prefixes, `-._~` and the structure of addresses and
//! tokens stay; everything else becomes a letter, so that a placeholder is written one way in JSON, forms and headers.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore;

/// Beginnings of keys and tokens that say what they are and that clients check; the longer before the shorter.
const PREFIXES: &[&str] = &[
    "sk-ant-admin01-",
    "sk-ant-api03-",
    "sk-ant-oat01-",
    "sk-ant-",
    "sk-svcacct-",
    "sk-proj-",
    "sk-or-v1-",
    "sk_live_",
    "sk_test_",
    "pk_live_",
    "pk_test_",
    "rk_live_",
    "rk_test_",
    "sk-",
    "github_pat_",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "glpat-",
    "gldt-",
    "glrt-",
    "ATATT3x",
    "xoxb-",
    "xoxp-",
    "xoxa-",
    "xoxs-",
    "xapp-",
    "AKIA",
    "ASIA",
    "AIza",
    "ya29.",
    "GOCSPX-",
    "npm_",
    "pypi-",
    "hf_",
    "dop_v1_",
    "dckr_pat_",
    "shpat_",
    "whsec_",
    "SG.",
    "hvs.",
    "lin_api_",
    "ntn_",
    "secret_",
    "gsk_",
    "r8_",
    "pat-",
    "key-",
    "Bearer ",
    "bearer ",
    "Basic ",
    "Token ",
    "token ",
];

/// Possibilities that a placeholder must leave open, in bits, before it may follow its value's classes.
const ENOUGH_BITS: f64 = 40.0;

const LOWER: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const DIGIT: &[u8] = b"0123456789";
const ANY: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// A new placeholder for `value`: as many bytes, of the same shape, never the value itself.
pub fn for_value(value: &str, random: &mut dyn RngCore) -> String {
    loop {
        let made = jwt(value, random).unwrap_or_else(|| shaped(value, random));
        if made != value {
            return made;
        }
    }
}

/// Whether a value reads as a JSON Web Token.
pub fn is_jwt(value: &str) -> bool {
    let mut parts = value.split('.');
    let (Some(header), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let object = |part: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
        serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes).ok()
    };
    object(header).is_some_and(|h| h.contains_key("alg")) && object(claims).is_some()
}

fn pick(from: &[u8], random: &mut dyn RngCore) -> u8 {
    // The bias of the remainder does not matter over so few choices.
    from[random.next_u32() as usize % from.len()]
}

fn shaped(value: &str, random: &mut dyn RngCore) -> String {
    let prefix = PREFIXES
        .iter()
        .find(|p| value.starts_with(**p) && value.len() > p.len())
        .map_or(0, |p| p.len());
    let scheme = value.find("://").unwrap_or(0);
    let address = scheme > 0
        && value
            .bytes()
            .take(scheme)
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let padding = value.len() - value.trim_end_matches('=').len();
    let kept = |index: usize, byte: u8| {
        index < prefix
            || (address && index < scheme)
            || matches!(byte, b'-' | b'.' | b'_' | b'~')
            || index >= value.len() - padding
            || (address && matches!(byte, b':' | b'/' | b'@' | b'?'))
    };
    let class = |byte: u8| match byte {
        b'a'..=b'z' => LOWER,
        b'A'..=b'Z' => UPPER,
        b'0'..=b'9' => DIGIT,
        _ => ANY,
    };
    let bits: f64 = value
        .bytes()
        .enumerate()
        .filter(|(index, byte)| !kept(*index, *byte))
        .map(|(_, byte)| (class(byte).len() as f64).log2())
        .sum();
    // A value of few possibilities (eight digits, say) would have a placeholder that occurs by accident.
    let (wide, narrow_prefix) = (bits < ENOUGH_BITS, bits < ENOUGH_BITS / 2.0);
    let made: Vec<u8> = value
        .bytes()
        .enumerate()
        .map(|(index, byte)| {
            if narrow_prefix {
                pick(ANY, random)
            } else if kept(index, byte) {
                byte
            } else {
                pick(if wide { ANY } else { class(byte) }, random)
            }
        })
        .collect();
    String::from_utf8(made).expect("kept and picked bytes are ASCII")
}

/// A token with a header and claims of its own that parses, and a signature that is none.
fn jwt(value: &str, random: &mut dyn RngCore) -> Option<String> {
    if !is_jwt(value) {
        return None;
    }
    let mut parts = value.split('.');
    let header = parts.next()?;
    let claims = object_of(parts.next()?.len(), random)?;
    let signature: String = parts.next()?.chars().map(|_| char::from(pick(ANY, random))).collect();
    // The header holds no secret, and clients choose by its algorithm.
    Some(format!("{header}.{claims}.{signature}"))
}

/// Base64url of exactly `length` characters that decodes to a JSON object.
fn object_of(length: usize, random: &mut dyn RngCore) -> Option<String> {
    let bytes = length * 6 / 8;
    // `{"exp":4102444800,"jti":"…"}`, or `{"j":"…"}` where there is less room.
    let (open, close) = if bytes >= 48 {
        (r#"{"exp":4102444800,"jti":""#, r#""}"#)
    } else {
        (r#"{"j":""#, r#""}"#)
    };
    let room = bytes.checked_sub(open.len() + close.len())?;
    let filling: String = (0..room).map(|_| char::from(pick(ANY, random))).collect();
    let made = URL_SAFE_NO_PAD.encode(format!("{open}{filling}{close}"));
    (made.len() == length).then_some(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn placeholders_have_the_shape_of_their_values() {
        let mut random = StdRng::seed_from_u64(7);
        for (value, prefix) in [
            ("sk-ant-api03-AbCdEf0123456789-_xyz", "sk-ant-api03-"),
            ("ghp_0123456789abcdefABCDEF0123456789abcd", "ghp_"),
            ("AKIAIOSFODNN7EXAMPLE", "AKIA"),
            ("xoxb-123456789012-abcdefGHIJKL", "xoxb-"),
            ("Bearer abcdef0123456789", "Bearer "),
        ] {
            for _ in 0..50 {
                let made = for_value(value, &mut random);
                assert_eq!(made.len(), value.len());
                assert!(made.starts_with(prefix), "{made}");
                assert_ne!(made, value);
                for (a, b) in made.bytes().zip(value.bytes()) {
                    assert_eq!(a.is_ascii_digit(), b.is_ascii_digit(), "{made} {value}");
                    assert_eq!(a.is_ascii_uppercase(), b.is_ascii_uppercase(), "{made} {value}");
                }
            }
        }
    }

    #[test]
    fn awkward_values_get_plain_placeholders() {
        let mut random = StdRng::seed_from_u64(8);
        for value in [
            "pass\"word\\\n1",
            "12345678",
            "\u{e9}t\u{e9}-secret",
            "a b+c/d=e&f%",
            "sk-12345",
            "--------",
        ] {
            let made = for_value(value, &mut random);
            assert_eq!(made.len(), value.len(), "{value}");
            assert!(
                made.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)),
                "{made}"
            );
        }
        let made = for_value("postgres://user:pa$$word@db.example.com/main", &mut random);
        assert!(made.starts_with("postgres://") && made.contains('@'), "{made}");
        assert_ne!(for_value("12345678", &mut random), for_value("12345678", &mut random));
    }

    #[test]
    fn a_token_gets_a_token() {
        let mut random = StdRng::seed_from_u64(9);
        for padding in 0..12 {
            let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
            let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"{}","role":"admin"}}"#, "x".repeat(padding * 5)));
            let token = format!("{header}.{claims}.c2lnbmF0dXJlLXNpZ25hdHVyZQ");
            let made = for_value(&token, &mut random);
            assert!(is_jwt(&made), "{made}");
            assert_eq!(made.len(), token.len());
            assert_ne!(made.split('.').nth(1), token.split('.').nth(1));
        }
        assert!(!is_jwt("a.b.c") && !is_jwt("not a token"));
    }
}
