//! The merged file tree of a stack of layers, in memory, and the only place where links of an image are followed.
//!
//! A path of a layer is first made canonical against this tree, as the sandbox will see it: an absolute link starts at
//! the image's root, `..` stops there. What is then written has no link left in any folder of its path, so the kernel
//! can be told to refuse links altogether (`build.rs`), and an error here can never become a write elsewhere.

use std::collections::{BTreeMap, VecDeque};

use crate::digest::Digest;
use crate::limits::{LINKS, Limits, NAME_BYTES};

/// One part of a path: not empty, no `/`, no NUL, neither `.` nor `..`.
pub(crate) type Name = Box<[u8]>;

/// What is kept of a file's attributes. Owners are not: everything belongs to who unpacked it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Permission bits, without set-user-id and set-group-id; sticky on folders only.
    pub(crate) mode: u16,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
}

impl Meta {
    /// A folder that no archive describes.
    pub(crate) const IMPLIED: Meta = Meta { mode: 0o755, mtime: 0 };

    /// Attributes of a file: its owner can always read it, or it could not be verified.
    pub(crate) fn file(mode: u32, mtime: i64) -> Self {
        Self {
            mode: (mode & 0o777) as u16 | 0o400,
            mtime: clamp(mtime),
        }
    }

    /// Attributes of a folder: its owner can always change it, or it could not be removed again.
    pub(crate) fn dir(mode: u32, mtime: i64) -> Self {
        Self {
            mode: (mode & 0o1777) as u16 | 0o700,
            mtime: clamp(mtime),
        }
    }
}

/// Times that every file system can keep.
fn clamp(mtime: i64) -> i64 {
    mtime.clamp(0, 0x7fff_ffff)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Dir(BTreeMap<Name, Node>),
    File { size: u64, digest: Digest },
    Link(Box<[u8]>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) meta: Meta,
    /// The layer that has it, from below; of a folder, the uppermost.
    pub(crate) layer: u32,
    pub(crate) body: Body,
}

impl Node {
    pub(crate) fn dir(meta: Meta, layer: u32) -> Self {
        Self {
            meta,
            layer,
            body: Body::Dir(BTreeMap::new()),
        }
    }

    pub(crate) fn children(&self) -> Option<&BTreeMap<Name, Node>> {
        match &self.body {
            Body::Dir(children) => Some(children),
            Body::File { .. } | Body::Link(_) => None,
        }
    }

    pub(crate) fn children_mut(&mut self) -> Option<&mut BTreeMap<Name, Node>> {
        match &mut self.body {
            Body::Dir(children) => Some(children),
            Body::File { .. } | Body::Link(_) => None,
        }
    }

    /// Forgets everything below that the given layer does not have itself.
    pub(crate) fn keep_only(&mut self, layer: u32) {
        if let Some(children) = self.children_mut() {
            children.retain(|_, child| child.layer == layer);
            children.values_mut().for_each(|child| child.keep_only(layer));
        }
    }
}

/// The tree itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) root: Node,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self {
            root: Node::dir(Meta::IMPLIED, 0),
        }
    }

    pub(crate) fn get(&self, path: &[Name]) -> Option<&Node> {
        path.iter()
            .try_fold(&self.root, |node, name| node.children()?.get(name))
    }

    pub(crate) fn get_mut(&mut self, path: &[Name]) -> Option<&mut Node> {
        path.iter()
            .try_fold(&mut self.root, |node, name| node.children_mut()?.get_mut(name))
    }

    /// Puts a node below a folder that is there; says what it replaced.
    pub(crate) fn put(&mut self, parent: &[Name], name: Name, node: Node) -> Option<Node> {
        self.get_mut(parent)?.children_mut()?.insert(name, node)
    }

    pub(crate) fn remove(&mut self, parent: &[Name], name: &Name) -> Option<Node> {
        self.get_mut(parent)?.children_mut()?.remove(name)
    }

    /// The folder that a path means, links followed inside the image. Parts that are not there are taken as written.
    pub(crate) fn resolve(&self, path: &[Name], limits: &Limits) -> Result<Vec<Name>, String> {
        let mut canonical: Vec<Name> = Vec::with_capacity(path.len());
        let mut pending: VecDeque<Name> = path.iter().cloned().collect();
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            match &*name {
                b"." | b"" => continue,
                b".." => {
                    canonical.pop();
                    continue;
                }
                _ => canonical.push(name),
            }
            match self.get(&canonical).map(|node| &node.body) {
                None | Some(Body::Dir(_)) => {}
                Some(Body::File { .. }) => return Err("a folder of its path is a file".into()),
                Some(Body::Link(target)) => {
                    links += 1;
                    if links > LINKS {
                        return Err(format!("more than {LINKS} links on its path"));
                    }
                    canonical.pop();
                    if target.starts_with(b"/") {
                        canonical.clear();
                    }
                    for part in target.split(|byte| *byte == b'/').rev() {
                        pending.push_front(part.into());
                    }
                }
            }
            if pending.len() > limits.path_bytes {
                return Err("its links are too long".into());
            }
        }
        check(&canonical, limits)?;
        Ok(canonical)
    }
}

/// The parts of a path from an archive. A leading `/` or `./` means the image's root.
pub(crate) fn parts(path: &[u8], limits: &Limits) -> Result<Vec<Name>, String> {
    if path.len() > limits.path_bytes {
        return Err(format!("its path is longer than {} bytes", limits.path_bytes));
    }
    if path.contains(&0) {
        return Err("its path has a NUL byte".into());
    }
    let mut parts: Vec<Name> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("its path has `..`".into()),
            part => parts.push(part.into()),
        }
    }
    check(&parts, limits)?;
    Ok(parts)
}

fn check(path: &[Name], limits: &Limits) -> Result<(), String> {
    if path.len() > limits.depth {
        return Err(format!("it lies deeper than {} folders", limits.depth));
    }
    if path.iter().any(|name| name.len() > NAME_BYTES) {
        return Err(format!("a name in its path is longer than {NAME_BYTES} bytes"));
    }
    if path.iter().map(|name| name.len() + 1).sum::<usize>() > limits.path_bytes {
        return Err(format!("its path is longer than {} bytes", limits.path_bytes));
    }
    Ok(())
}

/// A canonical path as bytes, relative to the root; the root itself is `.`.
pub(crate) fn joined(path: &[Name]) -> Vec<u8> {
    if path.is_empty() {
        b".".to_vec()
    } else {
        path.join(&b'/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.as_bytes().into()
    }

    fn link(target: &str) -> Node {
        Node {
            meta: Meta::IMPLIED,
            layer: 0,
            body: Body::Link(target.as_bytes().into()),
        }
    }

    #[test]
    fn links_are_followed_inside_the_image_only() {
        let mut tree = Tree::new();
        tree.put(&[], name("usr"), Node::dir(Meta::IMPLIED, 0));
        tree.put(&[name("usr")], name("abs"), link("/etc"));
        tree.put(&[name("usr")], name("up"), link("../../x"));
        for (from, to) in [
            ("lib", "usr/lib"),
            ("abs", "/etc"),
            ("up", "../../../../etc"),
            ("loop", "loop"),
            ("chain", "abs/x"),
            ("dot", "./usr//."),
        ] {
            tree.put(&[], name(from), link(to));
        }
        let limits = Limits::default();
        for (path, canonical) in [
            ("lib/x", Some("usr/lib/x")),
            ("abs/passwd", Some("etc/passwd")),
            ("up/passwd", Some("etc/passwd")),
            ("chain/y", Some("etc/x/y")),
            ("dot/z", Some("usr/z")),
            ("usr/abs/x", Some("etc/x")),
            ("usr/up/y", Some("x/y")),
            ("loop/x", None),
        ] {
            let found = tree.resolve(&parts(path.as_bytes(), &limits).unwrap(), &limits).ok();
            assert_eq!(
                found.map(|found| joined(&found)),
                canonical.map(|text| text.as_bytes().to_vec()),
                "{path}"
            );
        }
    }

    #[test]
    fn paths_of_archives() {
        let limits = Limits::default();
        for (path, expected) in [("./a/b/", "a/b"), ("/a//b", "a/b"), ("./", "."), ("a/./b", "a/b")] {
            assert_eq!(joined(&parts(path.as_bytes(), &limits).unwrap()), expected.as_bytes());
        }
        let long = "x".repeat(256);
        for path in [
            "..",
            "a/../b",
            "../a",
            "a\0b",
            long.as_str(),
            &"a/".repeat(129),
            &"abc/".repeat(2000),
        ] {
            assert!(parts(path.as_bytes(), &limits).is_err(), "{path:?}");
        }
    }
}
