//! Prints how fast bodies are searched for secrets, on the way out and on the way back, and what rewriting a head costs.
//!
//! `cargo run --release -p outwork-egress --example bench_scrub`

use std::hint::black_box;

use outwork_egress::secret::{Destination, Fit, Limits, SecretSet, SecretSpec, placeholder};

const CHUNK: usize = 16 << 10;
const ROUNDS: usize = 9;

/// Time that this thread ran, in seconds: other programs on the machine do not count.
fn ran() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn set(count: usize, length: usize) -> SecretSet {
    let mut random = rand::rng();
    let specs = (0..count).map(|index| {
        let shape = format!("sk-{}", "aB3dE5".repeat(length / 6 + 1));
        let value = placeholder::for_value(&shape[..length], &mut random);
        let made = placeholder::for_value(&value, &mut random);
        let mut spec = SecretSpec::new(format!("s{index}"), value.into(), made, vec!["api.example.com".into()]);
        spec.locations.body = true;
        spec
    });
    SecretSet::new(specs.collect()).expect("random placeholders do not overlap")
}

/// Runs of a deterministic generator.
fn noise(length: usize, alphabet: &[u8]) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            alphabet[(state >> 33) as usize % alphabet.len()]
        })
        .collect()
}

fn bodies(length: usize) -> Vec<(&'static str, Vec<u8>)> {
    let all: Vec<u8> = (0..=255).collect();
    let base64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let line = br#"{"id":1284,"name":"a name","path":"\/usr\/lib","text":"It said: \"no\"\nand \u00e9 was & is %20 there","ok":true},"#;
    let page = b"<li class=\"entry\">\n  <a href=\"/x?a=1&amp;b=2%20c\">Some words &gt; others</a>\n</li>\n";
    let source = b"        let value = self.read(index).map_err(|error| Error::Read(error))?;\n";
    let words = b"plain words and nothing else, of several lengths. ";
    let cycle = |piece: &[u8]| piece.iter().copied().cycle().take(length).collect();
    vec![
        ("bytes", noise(length, &all)),
        ("base64", noise(length, base64)),
        ("words", cycle(words)),
        ("source code", cycle(source)),
        ("JSON with escapes", cycle(line)),
        ("HTML with entities", cycle(page)),
    ]
}

fn main() {
    let length = 8 << 20;
    println!(
        "{:<20} {:>12} {:>16} {:>16}",
        "body of 8 MiB", "secrets", "back, GB/s", "out, GB/s"
    );
    for (count, size) in [(1, 40), (5, 40), (20, 40), (5, 8), (2, 2000)] {
        let set = set(count, size);
        for (name, body) in bodies(length) {
            let mut back = f64::MAX;
            let mut out = f64::MAX;
            for _ in 0..ROUNDS {
                let start = ran();
                let mut scrubber = set
                    .scrubber("", Fit::Exact, &Limits::default())
                    .expect("identity is known");
                for chunk in body.chunks(CHUNK) {
                    black_box(scrubber.push(chunk).expect("identity bodies are never refused"));
                }
                black_box(scrubber.finish().expect("identity bodies are never refused"));
                back = back.min(ran() - start);
                assert_eq!(scrubber.hits(), 0);
                let request = http::Request::post("/").header("content-length", body.len());
                let (mut head, ()) = request.body(()).expect("a fixed request").into_parts();
                let to = Destination::https("api.example.com", 443);
                let start = ran();
                let outcome = set
                    .rewrite_head(&to, &mut head, &Limits::default())
                    .expect("no placeholder inside");
                let mut rewriter = outcome.rewriter;
                for chunk in body.chunks(CHUNK) {
                    black_box(rewriter.push(chunk).expect("no placeholder inside"));
                }
                black_box(rewriter.finish(&mut head).expect("no placeholder inside"));
                out = out.min(ran() - start);
            }
            let rate = |seconds: f64| length as f64 / seconds / 1e9;
            println!(
                "{name:<20} {:>12} {:>16.2} {:>16.2}",
                format!("{count} x {size}"),
                rate(back),
                rate(out)
            );
        }
    }
    let set = set(5, 40);
    let bearer = format!("Bearer {}", set.placeholders().next().map_or("", |p| p.1));
    let to = Destination::https("api.example.com", 443);
    let rounds = 20_000;
    let start = ran();
    for _ in 0..rounds {
        let request = http::Request::get("https://api.example.com/v1/things?limit=20&after=abc")
            .header("authorization", &bearer)
            .header("accept", "application/json")
            .header("accept-encoding", "gzip, br")
            .header("user-agent", "client/1.0 (linux; x86_64)")
            .header("content-type", "application/json");
        let (mut head, ()) = request.body(()).expect("a fixed request").into_parts();
        black_box(set.rewrite_head(&to, &mut head, &Limits::default()).is_ok());
        black_box(head);
    }
    let each = (ran() - start) / f64::from(rounds) * 1e6;
    println!("a head with a bearer token, 5 secrets: {each:.1} µs");
}
