//! What holds for all texts and all ways of cutting them.

use super::*;
use proptest::prelude::*;

/// Pieces of secrets, placeholders, escapes and noise.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let all: Vec<Vec<u8>> = [GITHUB, AWKWARD, FOREIGN]
        .iter()
        .flat_map(|pair| encodings(pair.0))
        .map(|(_, encoded)| encoded)
        .collect();
    let some = all.clone();
    prop_oneof![
        3 => proptest::sample::select(all),
        2 => (proptest::sample::select(some), any::<proptest::sample::Index>()).prop_map(|(text, at)| {
            let at = at.index(text.len());
            text[..at].to_vec()
        }),
        3 => "[ -~\\\\%&=;\n]{0,12}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
    ]
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(piece(), 0..8).prop_map(|pieces| pieces.concat())
}

fn scrubbed(set: &SecretSet, text: &[u8], cuts: &[usize], fit: Fit) -> Vec<u8> {
    let mut scrubber = set.scrubber("", fit, &Limits::default()).unwrap();
    let mut out = Vec::new();
    let mut rest = text;
    for cut in cuts {
        let (now, later) = rest.split_at((*cut).min(rest.len()));
        out.extend(scrubber.push(now).unwrap());
        rest = later;
    }
    out.extend(scrubber.push(rest).unwrap());
    out.extend(scrubber.finish().unwrap());
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_result_does_not_depend_on_the_chunks(
        text in text(),
        cuts in proptest::collection::vec(0usize..40, 0..40),
    ) {
        let set = set();
        let whole = scrubbed(&set, &text, &[], Fit::Exact);
        prop_assert_eq!(scrubbed(&set, &text, &cuts, Fit::Exact), whole);
        prop_assert_eq!(scrubbed(&set, &text, &cuts, Fit::SameLength).len(), text.len());
    }

    #[test]
    fn no_secret_survives_in_any_encoding(
        before in "[ -~]{0,5}",
        after in "[ -~]{0,5}",
        which in 0usize..3,
        index in any::<proptest::sample::Index>(),
    ) {
        let (value, _) = [GITHUB, AWKWARD, FOREIGN][which];
        let all = encodings(value);
        let (name, encoded) = &all[index.index(all.len())];
        let text = [before.as_bytes(), encoded, after.as_bytes()].concat();
        let out = scrubbed(&set(), &text, &[3, 5, 7], Fit::Exact);
        prop_assert_eq!(leaks(&out, value), None, "{}", name);
    }

    #[test]
    fn what_goes_out_comes_back(text in "[ -~]{0,40}", more in "[ -~]{0,40}", size in 1usize..20) {
        // A body with a placeholder, echoed by the server, is the body again.
        let set = set();
        let inside = format!("{text}{}{more}", GITHUB.1);
        let mut parts = head("POST", "/", &[("content-type", "text/plain")]);
        let mut rewriter = set.rewrite_head(&destination(), &mut parts, &Limits::default()).unwrap().rewriter;
        let mut outside = Vec::new();
        for chunk in inside.as_bytes().chunks(size) {
            outside.extend(rewriter.push(chunk).unwrap());
        }
        outside.extend(rewriter.finish(&mut parts).unwrap());
        prop_assert!(String::from_utf8_lossy(&outside).contains(GITHUB.0));
        prop_assert_eq!(scrubbed(&set, &outside, &[size, size], Fit::Exact), inside.into_bytes());
    }

    #[test]
    fn made_placeholders_make_sets(value in "[ -~]{8,60}|[a\"+]{0,5}://[ -~]{5,30}", seed in any::<u64>()) {
        use rand::SeedableRng;
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        let made = placeholder::for_value(&value, &mut random);
        let set = SecretSet::new(vec![spec("a", (&value, &made), &[HOST], true)]);
        prop_assert!(set.is_ok(), "{:?}", set.err());
    }

    #[test]
    fn fuzz_entries_take_anything(data in proptest::collection::vec(any::<u8>(), 0..300), text in text()) {
        for input in [&data, &text] {
            fuzz::head(input);
            fuzz::body(input);
            fuzz::scrub(input);
            fuzz::websocket(input);
        }
    }
}
