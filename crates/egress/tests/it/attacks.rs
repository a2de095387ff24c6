//! Ways out, and none of them works.
//!
//! Each case sends a mark to where the policy forbids it, and says what it tries. A case escapes if its mark reaches a
//! server or a name server, or if it says so itself. The same cases run once with every check off, and those that can
//! escape then must: so none of them passes because it does not attack.

mod addresses;
mod framing;
mod hosts;
mod questions;

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::client::in_time;
use crate::world::{World, comes_true};

/// What happens to a case with every check off.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// It escapes.
    Escapes,
    /// The parser, a limit or the ledger stands in the way without a policy too.
    Holds,
}

pub struct Case {
    pub name: &'static str,
    /// What is tried, and what would be wrong.
    pub tries: &'static str,
    pub open: Open,
    pub run: fn(Arc<World>, String) -> BoxFuture<'static, bool>,
}

macro_rules! cases {
    ($($name:literal: $tries:literal, $open:ident, |$world:ident, $mark:ident| $body:expr;)*) => {
        /// The cases of this group.
        pub fn cases() -> Vec<crate::attacks::Case> {
            vec![$(crate::attacks::Case {
                name: $name,
                tries: $tries,
                open: crate::attacks::Open::$open,
                run: |$world, $mark| Box::pin(async move {
                    let _ = &$mark;
                    $body
                }),
            },)*]
        }
    };
}
pub(crate) use cases;

fn all() -> Vec<Case> {
    let mut all = questions::cases();
    all.extend(addresses::cases());
    all.extend(hosts::cases());
    all.extend(framing::cases());
    all
}

fn mark(at: usize) -> String {
    format!("mark{at:03}x")
}

fn reached(world: &World, mark: &str) -> bool {
    world.seen.has(mark) || world.zone.was_asked(mark)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_escapes() {
    let cases = all();
    let names: std::collections::HashSet<_> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    assert!(cases.len() >= 80, "{} cases", cases.len());
    let mut escaped = Vec::new();
    let mut worlds = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        let (world, mark) = (Arc::new(World::new().await), mark(at));
        let said = in_time((case.run)(world.clone(), mark.clone())).await;
        if said || reached(&world, &mark) {
            escaped.push(format!("{}: {}", case.name, case.tries));
        }
        worlds.push((world, mark));
    }
    // Nothing arrives late either.
    for (case, (world, mark)) in cases.iter().zip(&worlds) {
        if reached(world, mark) {
            escaped.push(format!("{} (late): {}", case.name, case.tries));
        }
        assert!(
            world.handle.shutdown(std::time::Duration::from_secs(5)).await,
            "{}",
            case.name
        );
    }
    assert!(escaped.is_empty(), "escaped:\n{}", escaped.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_every_check_off_the_attacks_work() {
    let cases = all();
    let escaping: Vec<_> = cases
        .iter()
        .enumerate()
        .filter(|(_, case)| case.open == Open::Escapes)
        .collect();
    assert!(escaping.len() >= 55, "{} cases", escaping.len());
    let mut held = Vec::new();
    for (at, case) in escaping {
        let (world, mark) = (Arc::new(World::unchecked().await), mark(at));
        let said = in_time((case.run)(world.clone(), mark.clone())).await;
        if !said && !comes_true(&mut || reached(&world, &mark)).await {
            held.push(format!("{}: {}", case.name, case.tries));
        }
    }
    assert!(held.is_empty(), "these cases do not attack:\n{}", held.join("\n"));
}
