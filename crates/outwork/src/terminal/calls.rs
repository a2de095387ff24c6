//! Tool calls in a few words: what a person wants to know about `bash`, `read`, `edit` and the others.
//!
//! The text is harmless and stays on one line.

use serde_json::{Map, Value};

use super::{counted, sanitize};

/// What the call is about, on one line.
pub(crate) fn title(name: &str, input: Option<&Map<String, Value>>) -> String {
    let Some(input) = input else { return String::new() };
    let text = |field: &str| input.get(field).and_then(Value::as_str);
    let path = || text("file_path").or_else(|| text("path"));
    let title = match name {
        "bash" => match text("command") {
            Some(command) => first_line(command),
            None if input.get("restart").and_then(Value::as_bool) == Some(true) => "(a new shell)".to_owned(),
            None => return rest(input),
        },
        "read" => match (path(), input.get("view_range").and_then(Value::as_array)) {
            (Some(path), Some(range)) => {
                let numbers: Vec<String> = range.iter().map(Value::to_string).collect();
                format!("{path} lines {}", numbers.join("–"))
            }
            (Some(path), None) => path.to_owned(),
            (None, _) => return rest(input),
        },
        "write" => match (path(), text("content")) {
            (Some(path), Some(content)) => format!("{path} ({})", counted(content.lines().count() as u64, "line")),
            _ => return rest(input),
        },
        "edit" => match path() {
            Some(path) if input.get("replace_all").and_then(Value::as_bool) == Some(true) => {
                format!("{path} (everywhere)")
            }
            Some(path) => path.to_owned(),
            None => return rest(input),
        },
        "glob" | "grep" => match (text("pattern"), text("path")) {
            (Some(pattern), Some(path)) => format!("{pattern} in {path}"),
            (Some(pattern), None) => pattern.to_owned(),
            (None, _) => return rest(input),
        },
        _ => return rest(input),
    };
    sanitize::line(&title)
}

/// The whole input, for who must decide about it: nothing is left out or cut.
pub(crate) fn whole(name: &str, input: Option<&Map<String, Value>>) -> String {
    let Some(input) = input else { return String::new() };
    match (name, input.get("command"), input.len()) {
        ("bash", Some(Value::String(command)), 1) => sanitize::lines(command),
        _ => {
            let mut out = Vec::new();
            for (field, value) in input {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                out.push(format!("{}: {}", sanitize::line(field), sanitize::lines(&text)));
            }
            out.join("\n")
        }
    }
}

/// The lines that an edit takes away and puts in; at most [`DETAILS`] of each.
pub(crate) fn details(name: &str, input: Option<&Map<String, Value>>) -> Vec<(char, String)> {
    let (Some(input), "edit") = (input, name) else {
        return Vec::new();
    };
    let lines = |field: &str| input.get(field).and_then(Value::as_str).unwrap_or_default();
    let (old, new): (Vec<&str>, Vec<&str>) = (
        lines("old_string").lines().collect(),
        lines("new_string").lines().collect(),
    );
    // Lines that frame the change are not the change.
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[same..], &new[same..]);
    let tail = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
    let mut out = Vec::new();
    for (sign, lines) in [('-', old), ('+', new)] {
        out.extend(lines.iter().take(DETAILS).map(|line| (sign, sanitize::line(line))));
        if lines.len() > DETAILS {
            out.push((
                sign,
                format!("… {}", counted((lines.len() - DETAILS) as u64, "more line")),
            ));
        }
    }
    out
}

/// Lines of a change that are shown.
const DETAILS: usize = 3;

fn first_line(text: &str) -> String {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next().unwrap_or_default().trim_end().to_owned();
    match lines.count() {
        0 => first,
        more => format!("{first} (+{})", counted(more as u64, "line")),
    }
}

fn rest(input: &Map<String, Value>) -> String {
    let fields: Vec<String> = input.iter().map(|(name, value)| format!("{name}={value}")).collect();
    sanitize::line(&fields.join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_tool_has_a_title() {
        for (name, input, wanted) in [
            ("bash", json!({"command": "cd x\nmake\n"}), "cd x (+1 line)"),
            ("bash", json!({"restart": true}), "(a new shell)"),
            (
                "read",
                json!({"file_path": "a.py", "view_range": [1, 20]}),
                "a.py lines 1–20",
            ),
            (
                "write",
                json!({"file_path": "a.py", "content": "1\n2\n"}),
                "a.py (2 lines)",
            ),
            (
                "edit",
                json!({"file_path": "a.py", "old_string": "a", "new_string": "b"}),
                "a.py",
            ),
            ("grep", json!({"pattern": "x+", "path": "src"}), "x+ in src"),
            ("weather", json!({"city": "Bern\u{1b}[2J"}), r#"city="Bern\u001b[2J""#),
            ("bash", json!({"command": "echo \u{1b}]0;x\u{7}"}), "echo ␛]0;x␇"),
        ] {
            assert_eq!(title(name, input.as_object()), wanted);
        }
    }

    #[test]
    fn who_decides_sees_everything() {
        let command = format!("ls {}\n\nrm -rf build", "x".repeat(200));
        assert_eq!(whole("bash", json!({ "command": command }).as_object()), command);
        let input = json!({"file_path": "a", "content": "1\n2\u{1b}", "deep": {"a": [1]}});
        assert_eq!(
            whole("write", input.as_object()),
            "file_path: a\ncontent: 1\n2␛\ndeep: {\"a\":[1]}"
        );
        let input = json!({"command": "ls", "restart": true});
        assert_eq!(whole("bash", input.as_object()), "command: ls\nrestart: true");
    }

    #[test]
    fn an_edit_shows_what_changes_and_nothing_else() {
        let input = json!({"old_string": "def f():\n  return 1\n\nx", "new_string": "def f():\n  return 2\n\nx"});
        assert_eq!(
            details("edit", input.as_object()),
            [('-', "  return 1".to_owned()), ('+', "  return 2".to_owned())]
        );
        assert!(details("bash", input.as_object()).is_empty());
        let input = json!({"old_string": "a", "new_string": "a"});
        assert!(details("edit", input.as_object()).is_empty());
    }
}
