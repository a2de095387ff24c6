//! Content codings.

use std::io::Write;

use flate2::Compression;

use super::super::coding::{Coding, Decoder, Encoder, parse};
use super::*;

fn decode(codings: &[Coding], coded: &[u8], limits: &Limits) -> Result<Vec<u8>, ScrubError> {
    let mut decoder = Decoder::new(codings, limits)?;
    let mut out = Vec::new();
    for chunk in coded.chunks(7) {
        decoder.push(chunk, |piece| {
            out.extend_from_slice(piece);
            Ok::<(), ScrubError>(())
        })?;
    }
    decoder.finish(|piece| {
        out.extend_from_slice(piece);
        Ok::<(), ScrubError>(())
    })?;
    Ok(out)
}

fn encode(codings: &[Coding], text: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(codings).unwrap();
    let mut out = Vec::new();
    for chunk in text.chunks(1000) {
        out.extend(encoder.push(chunk).unwrap());
    }
    out.extend(encoder.finish().unwrap());
    out
}

const ALL: [Coding; 4] = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];

#[test]
fn every_coding_round_trips_and_flushes() {
    let text: Vec<u8> = (0..50_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    for coding in ALL {
        let coded = encode(&[coding], &text);
        assert_eq!(
            decode(&[coding], &coded, &Limits::default()).unwrap(),
            text,
            "{coding:?}"
        );
        assert!(
            decode(&[coding], &coded[..coded.len() - 3], &Limits::default()).is_err(),
            "{coding:?} cut short"
        );
        // What was pushed can be read before the end.
        let mut encoder = Encoder::new(&[coding]).unwrap();
        let part = encoder.push(b"data: hello\n\n").unwrap();
        let mut seen = Vec::new();
        let mut decoder = Decoder::new(&[coding], &Limits::default()).unwrap();
        decoder
            .push(&part, |piece| {
                seen.extend_from_slice(piece);
                Ok::<(), ScrubError>(())
            })
            .unwrap();
        assert_eq!(seen, b"data: hello\n\n", "{coding:?}");
    }
    let nested = [Coding::Gzip, Coding::Zstd];
    assert_eq!(
        decode(&nested, &encode(&nested, &text), &Limits::default()).unwrap(),
        text
    );
}

#[test]
fn bombs_are_refused() {
    let limits = Limits {
        decoded: 1 << 20,
        ..Limits::default()
    };
    for coding in ALL {
        let coded = encode(&[coding], &vec![0; 4 << 20]);
        assert_eq!(decode(&[coding], &coded, &limits), Err(ScrubError::Bomb), "{coding:?}");
    }
    let once = encode(&[Coding::Zstd], &vec![0; 200 << 20]);
    let twice = encode(&[Coding::Zstd], &once);
    assert_eq!(
        decode(&[Coding::Zstd, Coding::Zstd], &twice, &Limits::default()),
        Err(ScrubError::Bomb)
    );
}

#[test]
fn headers_are_read_and_unknown_codings_named() {
    assert_eq!(parse("gzip, br"), Ok(vec![Coding::Gzip, Coding::Brotli]));
    assert_eq!(parse("identity"), Ok(vec![]));
    assert_eq!(parse("aws-chunked"), Ok(vec![]));
    assert_eq!(parse("x-gzip"), Ok(vec![Coding::Gzip]));
    assert_eq!(parse("gzip, sdch"), Err("sdch".to_owned()));
    assert!(parse("gzip,gzip,gzip,gzip").is_err());
}

#[test]
fn both_forms_of_deflate_are_read() {
    let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), Compression::fast());
    raw.write_all(b"raw deflate without a wrapper").unwrap();
    let raw = raw.finish().unwrap();
    assert_eq!(
        decode(&[Coding::Deflate], &raw, &Limits::default()).unwrap(),
        b"raw deflate without a wrapper"
    );
}
