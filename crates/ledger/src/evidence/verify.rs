//! Verifying an evidence bundle: needs the file and what the verifier knows from elsewhere, and nothing else.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use outwork_wire::Time;
use serde::Deserialize;
use serde::Serialize;

use super::check::{DocumentBody, FORMAT, HeaderBody, LedgerBody, SealBody};
use super::cross::{Cross, Finding};
use super::envelope::{Envelope, MAX_LINE, Part};
use super::summary::Summary;
use super::write::DocumentKind;
use crate::Error;
use crate::bundle_check::{self, Check};
use crate::chain::{Keys, Place};
use crate::entry::Receipt;
use crate::error::file_name;
use crate::expect::Expect;
use crate::filter::Filter;
use crate::hash::Hash;
use crate::key::PublicKey;
use crate::reader::{LineEnd, read_line_within};
use crate::record::Record;
use crate::stub::PlacedKey;
use crate::verify::{Fault, FaultKind};

/// What was found in an evidence bundle.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Evidence {
    /// The first fault. With one, nothing in the bundle is proven; everything else here is what came before it.
    pub fault: Option<Fault>,
    /// In which part of the bundle the fault is.
    pub fault_part: Option<String>,
    /// The session.
    pub session: Option<String>,
    /// When it was made.
    pub at: Option<Time>,
    /// The key that sealed it.
    pub sealed_by: Option<PublicKey>,
    /// The ledgers.
    pub ledgers: Vec<LedgerPart>,
    /// The documents.
    pub documents: Vec<DocumentPart>,
    /// How many events.
    pub events: u64,
    /// Calls of tools and MCP servers that are the same in the event log and in a ledger.
    pub calls_matched: u64,
    /// What the parts say against each other.
    pub findings: Vec<Finding>,
    /// The records in figures and tables.
    pub summary: Summary,
}

impl Evidence {
    /// Whether no fault was found. [`findings`](Evidence::findings) are another matter.
    pub fn is_sound(&self) -> bool {
        self.fault.is_none()
    }

    /// The evidence if no fault was found.
    ///
    /// # Errors
    /// [`Error::Damaged`] with the fault.
    pub fn sound(self) -> Result<Self, Error> {
        match self.fault {
            Some(fault) => Err(fault.into()),
            None => Ok(self),
        }
    }
}

/// Why a ledger's part of a bundle is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// A key that the verifier trusts has signed it.
    Key,
    /// It holds, and its key is only vouched for by whoever sealed the bundle.
    Seal,
}

/// A ledger's part of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerPart {
    /// Its name.
    pub name: String,
    /// Its id.
    pub ledger: String,
    /// Its keys, in order.
    pub keys: Vec<PublicKey>,
    /// Why it is believed.
    pub trust: Trust,
    /// Records of the session.
    pub records: u64,
    /// Records of which there is only the hash.
    pub withheld: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// The last line.
    pub last: Option<Receipt>,
}

/// A document of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DocumentPart {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: DocumentKind,
    /// The hash of its bytes.
    pub hash: Hash,
    /// How many bytes.
    pub bytes: u64,
}

/// Verifies the bundle in a file. `expect` names keys, or ids of keys, that may have sealed it; its receipts are
/// looked for in the part of the ledger that sealed it.
///
/// # Errors
/// If the file cannot be read. A fault of the bundle is in the result.
pub fn verify_file(path: impl AsRef<Path>, expect: &Expect) -> Result<Evidence, Error> {
    let path = path.as_ref();
    let file = File::open(path).map_err(Error::io("open", path))?;
    verify_reader(BufReader::with_capacity(256 << 10, file), &file_name(path), expect)
}

/// As [`verify_file`]; `name` stands for the file in a fault.
///
/// # Errors
/// If the bundle cannot be read. A fault of the bundle is in the result.
pub fn verify_reader(mut reader: impl BufRead, name: &str, expect: &Expect) -> Result<Evidence, Error> {
    let plain = Expect::any_key();
    let mut of_sealer = Expect::any_key();
    for (&sequence, &hash) in expect.witnesses() {
        of_sealer = of_sealer.witness(Receipt { sequence, hash });
    }
    let mut state = State {
        expect,
        plain: &plain,
        of_sealer: &of_sealer,
        name,
        previous: Hash::ZERO,
        lines: 0,
        stage: Stage::Header,
        session: String::new(),
        keys: Keys::default(),
        sealer: String::new(),
        ledger: None,
        inbox: Rc::default(),
        cross: Cross::default(),
        found: Evidence {
            fault: None,
            fault_part: None,
            session: None,
            at: None,
            sealed_by: None,
            ledgers: Vec::new(),
            documents: Vec::new(),
            events: 0,
            calls_matched: 0,
            findings: Vec::new(),
            summary: Summary::default(),
        },
    };
    let mut place = Place {
        file: Arc::from(name),
        line: 0,
    };
    let mut bytes = Vec::new();
    loop {
        let end = read_line_within(MAX_LINE, &mut reader, &mut bytes).map_err(Error::io("read", name))?;
        place.line += 1;
        let step = match end {
            LineEnd::Whole => state.take(&bytes),
            LineEnd::Fragment => Err(FaultKind::Unterminated),
            LineEnd::TooLong => Err(FaultKind::TooLong),
            LineEnd::Nothing if state.stage == Stage::Sealed => break,
            LineEnd::Nothing => Err(wrong("its end is missing: lines were removed")),
        };
        if let Err(kind) = step {
            let sequence = state.ledger.as_ref().and_then(|(_, check)| check.due());
            state.found.fault_part = Some(state.part());
            state.found.fault = Some(place.fault(sequence, kind));
            return Ok(state.found);
        }
    }
    let (matched, findings) = state.cross.finish();
    state.found.calls_matched = matched;
    state.found.findings = findings;
    Ok(state.found)
}

fn wrong(what: &str) -> FaultKind {
    FaultKind::Evidence(what.to_owned())
}

/// What came last, which says what may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Header,
    Ledgers,
    Documents,
    Events,
    Sealed,
}

type Visitor = Box<dyn FnMut(Receipt, &Record)>;

struct State<'e> {
    expect: &'e Expect,
    plain: &'e Expect,
    of_sealer: &'e Expect,
    name: &'e str,
    /// The hash of the last line.
    previous: Hash,
    lines: u64,
    stage: Stage,
    session: String,
    keys: Keys,
    /// The id of the ledger that seals.
    sealer: String,
    /// The ledger whose lines are coming.
    ledger: Option<(LedgerBody, Check<'e, Visitor>)>,
    /// Records that its check has shown.
    inbox: Rc<RefCell<Vec<(Receipt, Record)>>>,
    cross: Cross,
    found: Evidence,
}

impl State<'_> {
    /// Where reading is, for people.
    fn part(&self) -> String {
        match (&self.ledger, self.stage) {
            (Some((body, _)), _) => format!("the ledger {}", body.name),
            (None, Stage::Header) => "the header".into(),
            (None, Stage::Ledgers) => "the list of ledgers".into(),
            (None, Stage::Documents) => "the documents".into(),
            (None, Stage::Events) => format!("the event log, after event {}", self.found.events),
            (None, Stage::Sealed) => "the end".into(),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), FaultKind> {
        if self.stage == Stage::Sealed {
            return Err(wrong("it goes on after its seal: lines were added"));
        }
        let envelope = Envelope::parse(bytes).map_err(FaultKind::Malformed)?;
        if envelope.number != self.lines + 1 {
            return Err(FaultKind::Sequence { found: envelope.number });
        }
        if !envelope.follows(self.previous) {
            return Err(FaultKind::Hash);
        }
        // A ledger's lines are not interrupted.
        if self.ledger.is_some() && envelope.part != Part::Line {
            return Err(wrong("the lines of a ledger are not complete"));
        }
        match envelope.part {
            Part::Header if self.stage == Stage::Header => self.header(envelope.body)?,
            _ if self.stage == Stage::Header && self.lines == 0 => return Err(wrong("it has no header")),
            Part::Ledger if self.stage <= Stage::Ledgers => self.begin_ledger(envelope.body)?,
            Part::Line => self.line(envelope.body)?,
            Part::Document if self.stage <= Stage::Documents => self.document(envelope.body)?,
            Part::Event => {
                self.stage = Stage::Events;
                self.cross.event(envelope.body);
                self.found.events += 1;
            }
            Part::Seal => self.seal(envelope.body)?,
            Part::Header | Part::Ledger | Part::Document => return Err(wrong("its parts are not in their order")),
        }
        self.previous = envelope.hash;
        self.lines = envelope.number;
        Ok(())
    }

    fn header(&mut self, body: &[u8]) -> Result<(), FaultKind> {
        let header: HeaderBody = canonical(body)?;
        if header.format != FORMAT {
            return Err(wrong(&format!(
                "its format is {}, and {FORMAT} is known",
                header.format
            )));
        }
        for PlacedKey { sequence, entry } in header.sealer {
            if self.sealer.is_empty() {
                self.sealer = entry.ledger_id();
            }
            self.keys.add(sequence, entry, self.expect)?;
        }
        match self.keys.newest() {
            None => return Err(wrong("it names no key")),
            Some((_, false)) => return Err(FaultKind::Untrusted),
            Some((_, true)) => {}
        }
        self.session.clone_from(&header.session);
        self.found.session = Some(header.session);
        self.found.at = Some(header.at);
        self.stage = Stage::Ledgers;
        Ok(())
    }

    fn begin_ledger(&mut self, body: &[u8]) -> Result<(), FaultKind> {
        let body: LedgerBody = canonical(body)?;
        let known = self.found.ledgers.iter();
        if known.clone().any(|part| part.name == body.name) {
            return Err(wrong("two ledgers have one name"));
        }
        if !body.lines {
            self.found.ledgers.push(LedgerPart {
                name: body.name,
                ledger: body.ledger,
                keys: Vec::new(),
                trust: Trust::Seal,
                records: 0,
                withheld: 0,
                checkpoints: 0,
                last: None,
            });
            return Ok(());
        }
        let expect = if body.ledger == self.sealer {
            self.of_sealer
        } else {
            self.plain
        };
        let inbox = self.inbox.clone();
        let visitor: Visitor = Box::new(move |receipt, record| inbox.borrow_mut().push((receipt, record.clone())));
        self.ledger = Some((body, Check::new(self.name, expect, visitor)));
        Ok(())
    }

    fn line(&mut self, body: &[u8]) -> Result<(), FaultKind> {
        let Some((ledger, check)) = &mut self.ledger else {
            return Err(wrong("a line belongs to no ledger"));
        };
        check.take(body)?;
        for (receipt, record) in self.inbox.borrow_mut().drain(..) {
            self.cross.record(&ledger.name, receipt, &record);
            self.found.summary.add(&ledger.name, receipt, &record);
        }
        if !check.has_ended() {
            return Ok(());
        }
        let Some((ledger, check)) = self.ledger.take() else {
            return Ok(());
        };
        let is_trusted = self.expect.names_keys() && self.trusts(check.keys());
        let report = check.into_report();
        if report.ledger.as_ref() != Some(&ledger.ledger) {
            return Err(wrong("the lines are those of another ledger"));
        }
        if report.filter != Some(Filter::session(self.session.as_str())) {
            return Err(wrong("the lines of a ledger are about something else than the session"));
        }
        self.found.ledgers.push(LedgerPart {
            name: ledger.name,
            ledger: ledger.ledger,
            keys: report.keys,
            trust: if is_trusted { Trust::Key } else { Trust::Seal },
            records: report.records,
            withheld: report.withheld,
            checkpoints: report.checkpoints,
            last: report.last,
        });
        Ok(())
    }

    /// Whether the newest of these keys is one that the verifier trusts, or that such a one signed into the chain.
    fn trusts(&self, keys: &Keys) -> bool {
        let mut again = Keys::default();
        for (sequence, key) in keys.iter() {
            if again.add(sequence, key.clone(), self.expect).is_err() {
                return false;
            }
        }
        again.newest().is_some_and(|(_, trusted)| trusted)
    }

    fn document(&mut self, body: &[u8]) -> Result<(), FaultKind> {
        let document: DocumentBody = canonical(body)?;
        let bytes = document
            .bytes()
            .ok_or_else(|| wrong("a document is neither text nor base 64"))?;
        if Hash::of(&bytes) != document.hash {
            return Err(wrong("a document does not have the hash that it names"));
        }
        self.stage = Stage::Documents;
        self.cross.document(&document.name, document.kind, document.hash);
        self.found.documents.push(DocumentPart {
            name: document.name,
            kind: document.kind,
            hash: document.hash,
            bytes: bytes.len() as u64,
        });
        Ok(())
    }

    fn seal(&mut self, body: &[u8]) -> Result<(), FaultKind> {
        let seal: SealBody = canonical(body)?;
        let Some((key, _)) = self.keys.newest() else {
            return Err(FaultKind::Untrusted);
        };
        let message = SealBody::message(self.lines, self.previous);
        if (seal.lines, seal.hash) != (self.lines, self.previous) {
            return Err(wrong("the seal is about other lines"));
        }
        if seal.key != key.key || !key.public_key.verify(&message, &seal.signature.0) {
            return Err(FaultKind::Signature);
        }
        self.found.sealed_by = Some(key.public_key);
        self.stage = Stage::Sealed;
        Ok(())
    }
}

/// Reads JSON that must have exactly the form in which it is written.
fn canonical<T: Serialize + for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, FaultKind> {
    bundle_check::canonical(bytes).map_err(|kind| match kind {
        FaultKind::Bundle(what) => FaultKind::Evidence(what),
        other => other,
    })
}
