//! The index of a layer: one JSON line for every file, folder, link and whiteout, parents first, with size and digest.
//!
//! It is what a layer in the cache is checked against, and what the merged tree is rebuilt from. It is written by this
//! room and bound by its digest to the layer's record; a line that does not parse makes the layer damaged.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::tree::{Body, Meta, Name, Node, Tree};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    #[serde(rename = "d")]
    Dir,
    #[serde(rename = "f")]
    File,
    #[serde(rename = "l")]
    Link,
    #[serde(rename = "w")]
    Whiteout,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    #[serde(rename = "k")]
    pub(crate) kind: Kind,
    #[serde(rename = "p")]
    pub(crate) path: Text,
    #[serde(rename = "m", default, skip_serializing_if = "is_zero")]
    pub(crate) mode: u16,
    #[serde(rename = "t", default, skip_serializing_if = "is_zero")]
    pub(crate) mtime: i64,
    #[serde(rename = "s", default, skip_serializing_if = "is_zero")]
    pub(crate) size: u64,
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<Digest>,
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<Text>,
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Bytes that usually are UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Text {
    Utf8(String),
    Raw(Vec<u8>),
}

impl Text {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Utf8(text.to_owned()),
            Err(_) => Self::Raw(bytes.to_vec()),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Utf8(text) => text.as_bytes(),
            Self::Raw(bytes) => bytes,
        }
    }
}

impl Entry {
    pub(crate) fn of(path: &[Name], node: &Node) -> Self {
        let mut entry = Self {
            kind: Kind::Dir,
            path: Text::new(&crate::tree::joined(path)),
            mode: node.meta.mode,
            mtime: node.meta.mtime,
            size: 0,
            digest: None,
            target: None,
        };
        match &node.body {
            Body::Dir(_) => {}
            Body::File { size, digest } => {
                entry.kind = Kind::File;
                entry.size = *size;
                entry.digest = Some(*digest);
            }
            Body::Link(target) => {
                entry.kind = Kind::Link;
                entry.mode = 0;
                entry.target = Some(Text::new(target));
            }
        }
        entry
    }

    pub(crate) fn whiteout(path: &[Name]) -> Self {
        Self {
            kind: Kind::Whiteout,
            path: Text::new(&crate::tree::joined(path)),
            mode: 0,
            mtime: 0,
            size: 0,
            digest: None,
            target: None,
        }
    }

    pub(crate) fn parts(&self) -> Vec<Name> {
        let path = self.path.bytes();
        if path == b"." {
            return Vec::new();
        }
        path.split(|byte| *byte == b'/').map(Name::from).collect()
    }
}

/// Every entry that the given layer has itself, parents first.
pub(crate) fn entries_of(tree: &Tree, layer: u32) -> Vec<Entry> {
    fn walk(node: &Node, layer: u32, path: &mut Vec<Name>, out: &mut Vec<Entry>) {
        out.push(Entry::of(path, node));
        for (name, child) in node.children().into_iter().flatten() {
            if child.layer == layer {
                path.push(name.clone());
                walk(child, layer, path, out);
                path.pop();
            }
        }
    }
    let mut out = Vec::new();
    walk(&tree.root, layer, &mut Vec::new(), &mut out);
    out
}

/// The index as it is stored.
pub(crate) fn write(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * 160);
    for entry in entries {
        serde_json::to_writer(&mut out, entry)
            .expect("an entry of an index is plain data, and a vector takes all bytes");
        out.push(b'\n');
    }
    out
}

/// Reads a stored index.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<Entry>, serde_json::Error> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(serde_json::from_slice)
        .collect()
}

/// Lays one layer over the tree, as overlayfs does. False if the entries do not fit together.
#[must_use]
pub(crate) fn stack(tree: &mut Tree, entries: &[Entry], layer: u32) -> bool {
    entries.iter().all(|entry| stack_one(tree, entry, layer).is_some())
}

fn stack_one(tree: &mut Tree, entry: &Entry, layer: u32) -> Option<()> {
    let meta = Meta {
        mode: entry.mode,
        mtime: entry.mtime,
    };
    let mut parent = entry.parts();
    let Some(name) = parent.pop() else {
        tree.root.meta = meta;
        tree.root.layer = layer;
        return (entry.kind == Kind::Dir).then_some(());
    };
    let body = match entry.kind {
        Kind::Whiteout => {
            tree.get_mut(&parent)?.children_mut()?.remove(&name);
            return Some(());
        }
        Kind::Dir => {
            let children = tree.get_mut(&parent)?.children_mut()?;
            match children.get_mut(&name) {
                Some(node) if node.children().is_some() => (node.meta, node.layer) = (meta, layer),
                _ => drop(children.insert(name, Node::dir(meta, layer))),
            }
            return Some(());
        }
        Kind::File => Body::File {
            size: entry.size,
            digest: entry.digest?,
        },
        Kind::Link => Body::Link(entry.target.as_ref()?.bytes().into()),
    };
    tree.get(&parent)?.children()?;
    tree.put(&parent, name, Node { meta, layer, body });
    Some(())
}
