//! The report for people: what was found in a bundle, as Markdown or as plain text.
//!
//! Fields of records come from agents and from networks. They are cleaned, so that none of them can look like a part of
//! the report.

use std::fmt::Write as _;

use super::summary::{Listed, Row, Tally};
use super::verify::{Evidence, Trust};

enum Block {
    Heading(u8, String),
    Text(String),
    List(Vec<String>),
    Table(Vec<&'static str>, Vec<Vec<String>>),
}

impl Evidence {
    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        for block in self.blocks() {
            match block {
                Block::Heading(level, text) => {
                    let _ = writeln!(out, "{} {}\n", "#".repeat(level.into()), escape(&text));
                }
                Block::Text(text) => {
                    let _ = writeln!(out, "{}\n", escape(&text));
                }
                Block::List(items) => {
                    for item in items {
                        let _ = writeln!(out, "- {}", escape(&item));
                    }
                    out.push('\n');
                }
                Block::Table(head, rows) => {
                    let _ = writeln!(out, "| {} |", head.join(" | "));
                    let _ = writeln!(out, "|{}", "---|".repeat(head.len()));
                    for row in rows {
                        let row: Vec<String> = row.iter().map(|cell| escape(cell)).collect();
                        let _ = writeln!(out, "| {} |", row.join(" | "));
                    }
                    out.push('\n');
                }
            }
        }
        out
    }

    /// The report as plain text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for block in self.blocks() {
            match block {
                Block::Heading(_, text) => {
                    let text = clean(&text);
                    let _ = writeln!(out, "{text}\n{}", "-".repeat(text.chars().count()));
                }
                Block::Text(text) => {
                    let _ = writeln!(out, "{}\n", clean(&text));
                }
                Block::List(items) => {
                    for item in items {
                        let _ = writeln!(out, "  * {}", clean(&item));
                    }
                    out.push('\n');
                }
                Block::Table(head, rows) => table(&head, &rows, &mut out),
            }
        }
        out
    }

    fn blocks(&self) -> Vec<Block> {
        let session = self.session.as_deref().unwrap_or("unknown");
        let mut blocks = vec![Block::Heading(1, format!("Evidence of the session {session}"))];
        if let Some(fault) = &self.fault {
            let part = self.fault_part.as_deref().unwrap_or("the file");
            blocks.push(Block::Text(format!(
                "NOT VERIFIED. {fault}. This is in {part}. Nothing in this file is proven; what follows is what came before the fault."
            )));
        } else {
            let key = self.sealed_by.map_or_else(String::new, |key| key.id().to_string());
            let at = self.at.map_or_else(String::new, |at| at.to_string());
            blocks.push(Block::Text(format!(
                "Verified: no byte was changed since the file was sealed at {at} by the key {key}."
            )));
        }
        self.findings_block(&mut blocks);
        self.ledgers_block(&mut blocks);
        self.figures(&mut blocks);
        let summary = &self.summary;
        rows("Refused", &summary.denied, &mut blocks);
        rows("Approvals", &summary.approvals, &mut blocks);
        rows("Stops", &summary.stops, &mut blocks);
        rows("Files in and out", &summary.files, &mut blocks);
        rows("All records", &summary.records, &mut blocks);
        blocks
    }

    fn findings_block(&self, blocks: &mut Vec<Block>) {
        if self.fault.is_some() {
            return;
        }
        blocks.push(Block::Heading(2, "What the sources say of each other".into()));
        let matched = self.calls_matched;
        blocks.push(Block::Text(format!(
            "{} events; {matched} calls are the same in the event log and in a ledger.",
            self.events
        )));
        if self.findings.is_empty() {
            blocks.push(Block::Text("Nothing contradicts.".into()));
        } else {
            blocks.push(Block::List(self.findings.iter().map(ToString::to_string).collect()));
        }
    }

    fn ledgers_block(&self, blocks: &mut Vec<Block>) {
        blocks.push(Block::Heading(2, "Ledgers and documents".into()));
        let ledgers = self.ledgers.iter().map(|part| {
            vec![
                part.name.clone(),
                part.ledger.clone(),
                part.keys.last().map_or_else(String::new, |key| key.id().to_string()),
                match part.trust {
                    Trust::Key => "a trusted key".into(),
                    Trust::Seal => "whoever sealed this file".into(),
                },
                part.records.to_string(),
                part.withheld.to_string(),
                part.checkpoints.to_string(),
            ]
        });
        let head = vec![
            "ledger",
            "id",
            "key",
            "vouched for by",
            "records",
            "of others, as hashes",
            "signatures",
        ];
        blocks.push(Block::Table(head, ledgers.collect()));
        if !self.documents.is_empty() {
            let documents = self.documents.iter().map(|part| {
                vec![
                    part.name.clone(),
                    format!("{:?}", part.kind).to_lowercase(),
                    part.hash.to_string(),
                    part.bytes.to_string(),
                ]
            });
            let head = vec!["document", "kind", "SHA-256", "bytes"];
            blocks.push(Block::Table(head, documents.collect()));
        }
    }

    fn figures(&self, blocks: &mut Vec<Block>) {
        let summary = &self.summary;
        blocks.push(Block::Heading(2, "In figures".into()));
        if let Some((first, last)) = summary.span {
            blocks.push(Block::Text(format!("From {first} to {last}.")));
        }
        let facts = [
            ("Agent", &summary.agents),
            ("Worker", &summary.workers),
            ("Image", &summary.images),
            ("Policy", &summary.policies),
        ];
        let facts = facts.into_iter().flat_map(|(what, map)| {
            map.iter()
                .map(move |(name, records)| format!("{what} {name}: in {records} records"))
        });
        blocks.push(Block::List(facts.collect()));
        fn tally(name: String, tally: &Tally) -> Vec<String> {
            vec![
                name,
                tally.allowed.to_string(),
                tally.denied.to_string(),
                tally.failed.to_string(),
            ]
        }
        let kinds = summary.kinds.iter();
        let kinds = kinds.map(|(kind, counts)| tally(kind.name().replace('_', " "), counts));
        blocks.push(Block::Table(
            vec!["kind", "allowed", "refused", "failed"],
            kinds.collect(),
        ));
        if !summary.destinations.is_empty() {
            blocks.push(Block::Heading(2, "Where it went".into()));
            let places = summary.destinations.iter().map(|(name, to)| {
                let mut row = tally(name.clone(), &to.tally);
                row.extend([to.bytes_in.to_string(), to.bytes_out.to_string()]);
                row
            });
            let head = vec!["destination", "allowed", "refused", "failed", "bytes in", "bytes out"];
            blocks.push(Block::Table(head, places.collect()));
            more(summary.more_destinations, blocks);
        }
        if !summary.credentials.is_empty() {
            blocks.push(Block::Heading(2, "Credentials".into()));
            let used = summary.credentials.iter().map(|((name, method), counts)| {
                let mut row = tally(name.clone(), counts);
                row.insert(1, method.clone());
                row
            });
            let head = vec!["credential", "method", "allowed", "refused", "failed"];
            blocks.push(Block::Table(head, used.collect()));
        }
    }
}

fn more(count: u64, blocks: &mut Vec<Block>) {
    if count > 0 {
        blocks.push(Block::Text(format!("And {count} more, which are in the file.")));
    }
}

fn rows(title: &str, listed: &Listed<Row>, blocks: &mut Vec<Block>) {
    if listed.rows.is_empty() {
        return;
    }
    blocks.push(Block::Heading(2, title.to_owned()));
    let rows = listed.rows.iter().map(|row| {
        vec![
            row.record.at.to_string(),
            format!("{} {}", row.ledger, row.receipt.sequence),
            row.record.sentence(),
        ]
    });
    blocks.push(Block::Table(vec!["time", "ledger and line", "what"], rows.collect()));
    more(listed.more, blocks);
}

/// No control characters, and nothing that turns the direction of text.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_control() => '\u{fffd}',
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Cleaned, and nothing in it means anything in Markdown or HTML.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let text = clean(text);
    let mut chars = text.chars().peekable();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        let within = before.is_alphanumeric() && chars.peek().is_some_and(|next| next.is_alphanumeric());
        before = c;
        match c {
            // Within a word it is nothing but itself, and ids can be copied as they are.
            '_' if within => out.push(c),
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '!' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

fn table(head: &[&'static str], rows: &[Vec<String>], out: &mut String) {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| clean(cell)).collect())
        .collect();
    let width = |i: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(i))
            .map(|cell| cell.chars().count());
        cells
            .chain([head.get(i).map_or(0, |name| name.len())])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
            .collect();
        let _ = writeln!(out, "  {}", padded.join("  ").trim_end());
    };
    line(&mut head.iter().copied());
    for row in &rows {
        line(&mut row.iter().map(String::as_str));
    }
    out.push('\n');
}
