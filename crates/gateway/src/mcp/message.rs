//! A JSON-RPC message of MCP, read once, without copying what it carries.
//!
//! Another parser must not understand the same bytes differently. So a key that is there twice, or that differs from a
//! known one only in case (as some upstreams' parsers accept), is refused wherever a rule depends on it. A batch is
//! refused: the protocol has none since its revision 2025-06-18.
//!
//! Errors name no value of the message: they are logged.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The longest id that is taken, in bytes of JSON.
const ID_MAX: usize = 1024;
/// The key of `_meta` that carries the protocol's revision.
const REVISION: &str = "io.modelcontextprotocol/protocolVersion";

/// Why a body is not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAMessage {
    /// It is not JSON.
    #[error("the body is not JSON")]
    NotJson,
    /// It is an array.
    #[error("the body is a batch, which MCP does not have")]
    Batch,
    /// It is JSON without anything of JSON-RPC.
    #[error("the body is JSON, but no JSON-RPC message")]
    NotJsonRpc,
    /// It is almost one.
    #[error("{0}")]
    Invalid(&'static str),
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It has a method and an id.
    Request,
    /// It has a method and no id.
    Notification,
    /// It has a result or an error.
    Response,
}

/// A message.
#[derive(Debug)]
pub struct Message<'a> {
    /// What it is.
    pub kind: Kind,
    /// The id as it is written.
    pub id: Option<&'a RawValue>,
    /// The method; empty for a response.
    pub method: Cow<'a, str>,
    /// The parameters that rules look at.
    pub params: Params<'a>,
    /// The result of a response.
    pub result: Option<&'a RawValue>,
}

/// Parameters that rules look at, as they are written.
#[derive(Debug, Default)]
pub struct Params<'a> {
    /// `name`: of a tool or prompt.
    pub name: Option<Cow<'a, str>>,
    /// `uri`: of a resource.
    pub uri: Option<Cow<'a, str>>,
    /// `taskId`.
    pub task: Option<Cow<'a, str>>,
    /// `arguments` of a tool or prompt.
    pub arguments: Option<&'a RawValue>,
    /// `argument` of a completion.
    pub argument: Option<&'a RawValue>,
    /// `inputResponses`: what the caller's side adds on the second round of a call.
    pub inputs: Option<&'a RawValue>,
    /// `_meta`.
    pub meta: Option<&'a RawValue>,
    /// The revision that `_meta` names.
    pub revision: Option<Cow<'a, str>>,
}

impl<'a> Message<'a> {
    /// Reads a body.
    pub fn parse(body: &'a [u8]) -> Result<Message<'a>, NotAMessage> {
        match body.iter().find(|b| !b.is_ascii_whitespace()) {
            Some(b'{') => {}
            Some(b'[') => {
                return match serde_json::from_slice::<IgnoredAny>(body) {
                    Ok(_) => Err(NotAMessage::Batch),
                    Err(_) => Err(NotAMessage::NotJson),
                };
            }
            _ => {
                return match serde_json::from_slice::<IgnoredAny>(body) {
                    Ok(_) => Err(NotAMessage::NotJsonRpc),
                    Err(_) => Err(NotAMessage::NotJson),
                };
            }
        }
        let fields: Fields<'a> = serde_json::from_slice(body).map_err(|_| NotAMessage::NotJson)?;
        fields.check()
    }

    /// The tool that is called, when one is.
    pub fn tool(&self) -> Option<&str> {
        if self.method == "tools/call" { self.params.name.as_deref() } else { None }
    }

    /// The value that the header `Mcp-Name` must have, for methods that have one.
    pub fn header_name(&self) -> Option<&str> {
        match &*self.method {
            "tools/call" | "prompts/get" => self.params.name.as_deref(),
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => self.params.uri.as_deref(),
            "tasks/get" | "tasks/update" | "tasks/cancel" => self.params.task.as_deref(),
            _ => None,
        }
    }

    /// Whether sending it twice does what sending it once does, whatever the server.
    pub fn repeatable(&self) -> bool {
        matches!(
            &*self.method,
            "ping" | "server/discover" | "tools/list" | "resources/list" | "resources/templates/list" | "resources/read"
                | "prompts/list" | "prompts/get" | "completion/complete" | "tasks/get" | "tasks/list"
        )
    }
}

/// The object as it comes.
#[derive(Default)]
struct Fields<'a> {
    version: Option<Text<'a>>,
    id: Option<&'a RawValue>,
    method: Option<Text<'a>>,
    params: Option<ParamsField<'a>>,
    result: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
    fault: Option<&'static str>,
}

impl<'a> Fields<'a> {
    fn check(self) -> Result<Message<'a>, NotAMessage> {
        use NotAMessage::Invalid;
        if let Some(fault) = self.fault {
            return Err(Invalid(fault));
        }
        if self.version.is_none() && self.method.is_none() && self.result.is_none() && self.error.is_none() {
            return Err(NotAMessage::NotJsonRpc);
        }
        match &self.version {
            Some(Text::Is(version)) if version == "2.0" => {}
            _ => return Err(Invalid("jsonrpc is not \"2.0\"")),
        }
        if let Some(id) = self.id {
            let first = id.get().as_bytes().first().copied().unwrap_or_default();
            if !(first == b'"' || first == b'-' || first.is_ascii_digit()) {
                return Err(Invalid("id is neither a string nor a number"));
            }
            if id.get().len() > ID_MAX {
                return Err(Invalid("id is longer than 1024 bytes"));
            }
        }
        let params = match self.params {
            None => Params::default(),
            Some(ParamsField::Are(params)) => params,
            Some(ParamsField::Fault(fault)) => return Err(Invalid(fault)),
        };
        match (self.method, self.result, self.error) {
            (Some(Text::Is(method)), None, None) => {
                let kind = if self.id.is_some() { Kind::Request } else { Kind::Notification };
                if method == "tools/call" && params.name.is_none() {
                    return Err(Invalid("tools/call names no tool"));
                }
                Ok(Message { kind, id: self.id, method, params, result: None })
            }
            (Some(Text::Other), _, _) => Err(Invalid("method is not a string")),
            (Some(_), _, _) => Err(Invalid("it has a method and a result or error")),
            (None, None, None) => Err(Invalid("it has neither a method nor a result nor an error")),
            (None, Some(_), Some(_)) => Err(Invalid("it has a result and an error")),
            (None, result, _) => {
                Ok(Message { kind: Kind::Response, id: self.id, method: Cow::Borrowed(""), params: Params::default(), result })
            }
        }
    }
}

/// A string, or something else.
enum Text<'a> {
    Is(Cow<'a, str>),
    Other,
}

/// The parameters, or what is wrong with them.
enum ParamsField<'a> {
    Are(Params<'a>),
    Fault(&'static str),
}

/// A key, borrowed where it holds no escape.
pub(super) struct Key<'a>(pub(super) Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Key<'de>, D::Error> {
        struct Chars;
        impl<'de> Visitor<'de> for Chars {
            type Value = Key<'de>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Chars)
    }
}

/// The text of a raw value that is a string.
fn text<'a>(raw: &'a RawValue) -> Text<'a> {
    if !raw.get().starts_with('"') {
        return Text::Other;
    }
    serde_json::from_str::<Key<'a>>(raw.get()).map_or(Text::Other, |key| Text::Is(key.0))
}

/// Whether a lenient parser may take `key` for one of `known`, which it is not exactly.
fn resembles(key: &str, known: &[&str]) -> bool {
    if key.is_ascii() {
        return known.iter().any(|known| key.eq_ignore_ascii_case(known));
    }
    // Both ways: U+017F becomes S only upwards, U+212A becomes k only downwards.
    let folded = key.to_uppercase().to_lowercase();
    known.iter().any(|known| folded == known.to_lowercase())
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Fields<'de>, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                const KNOWN: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];
                let mut fields = Fields::default();
                while let Some(Key(key)) = map.next_key()? {
                    let twice = match &*key {
                        "jsonrpc" => fields.version.replace(text(map.next_value()?)).is_some(),
                        "id" => fields.id.replace(map.next_value()?).is_some(),
                        "method" => fields.method.replace(text(map.next_value()?)).is_some(),
                        "params" => fields.params.replace(map.next_value()?).is_some(),
                        "result" => fields.result.replace(map.next_value()?).is_some(),
                        "error" => fields.error.replace(map.next_value()?).is_some(),
                        other => {
                            if resembles(other, KNOWN) {
                                fields.fault = Some("a key differs from one of JSON-RPC only in case");
                            }
                            map.next_value::<IgnoredAny>()?;
                            false
                        }
                    };
                    if twice {
                        fields.fault = Some("a key of JSON-RPC is there twice");
                    }
                }
                Ok(fields)
            }
        }
        from.deserialize_map(Object)
    }
}

impl<'de> Deserialize<'de> for ParamsField<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<ParamsField<'de>, D::Error> {
        // Whatever params is, the message around it still parses; so it is read in two steps.
        let raw = <&RawValue>::deserialize(from)?;
        if !raw.get().starts_with('{') {
            return Ok(ParamsField::Fault("params is not an object"));
        }
        serde_json::from_str::<ParamsObject<'de>>(raw.get()).map(|object| object.0).map_err(D::Error::custom)
    }
}

struct ParamsObject<'a>(ParamsField<'a>);

impl<'de> Deserialize<'de> for ParamsObject<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<ParamsObject<'de>, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = ParamsObject<'de>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ParamsObject<'de>, A::Error> {
                const KNOWN: &[&str] =
                    &["name", "uri", "taskId", "arguments", "argument", "inputResponses", "_meta"];
                let mut params = Params::default();
                let mut fault = None;
                while let Some(Key(key)) = map.next_key()? {
                    let mut string = |place: &mut Option<Cow<'de, str>>, raw: &'de RawValue, other: &'static str| {
                        match text(raw) {
                            Text::Is(text) => place.replace(text).is_some(),
                            Text::Other => {
                                fault = Some(other);
                                false
                            }
                        }
                    };
                    let twice = match &*key {
                        "name" => string(&mut params.name, map.next_value()?, "params.name is not a string"),
                        "uri" => string(&mut params.uri, map.next_value()?, "params.uri is not a string"),
                        "taskId" => string(&mut params.task, map.next_value()?, "params.taskId is not a string"),
                        "arguments" => params.arguments.replace(map.next_value()?).is_some(),
                        "argument" => params.argument.replace(map.next_value()?).is_some(),
                        "inputResponses" => params.inputs.replace(map.next_value()?).is_some(),
                        "_meta" => params.meta.replace(map.next_value()?).is_some(),
                        other => {
                            if resembles(other, KNOWN) {
                                fault = Some("a key of params differs from a known one only in case");
                            }
                            map.next_value::<IgnoredAny>()?;
                            false
                        }
                    };
                    if twice {
                        fault = Some("a key of params is there twice");
                    }
                }
                if let Some(meta) = params.meta {
                    match serde_json::from_str::<Meta<'de>>(meta.get()) {
                        Ok(Meta(Ok(revision))) => params.revision = revision,
                        Ok(Meta(Err(why))) => fault = Some(why),
                        Err(_) => fault = Some("params._meta is not an object"),
                    }
                }
                Ok(ParamsObject(fault.map_or(ParamsField::Are(params), ParamsField::Fault)))
            }
        }
        from.deserialize_map(Object)
    }
}

/// What `_meta` says about the protocol's revision.
struct Meta<'a>(Result<Option<Cow<'a, str>>, &'static str>);

impl<'de> Deserialize<'de> for Meta<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Meta<'de>, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Meta<'de>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Meta<'de>, A::Error> {
                let mut found = None;
                let mut fault = None;
                while let Some(Key(key)) = map.next_key()? {
                    if key != REVISION {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    match text(map.next_value()?) {
                        Text::Is(_) if found.is_some() => fault = Some("the revision in params._meta is there twice"),
                        Text::Is(text) => found = Some(text),
                        Text::Other => fault = Some("the revision in params._meta is not a string"),
                    }
                }
                Ok(Meta(fault.map_or(Ok(found), Err)))
            }
        }
        from.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read() {
        let body = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"e\u0063ho","arguments":{"a":[1, 2]},
            "_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"progress":1}}"#;
        let message = Message::parse(body).unwrap();
        assert_eq!((message.kind, message.tool()), (Kind::Request, Some("echo")));
        assert_eq!(message.params.arguments.unwrap().get(), r#"{"a":[1, 2]}"#);
        assert_eq!(message.params.revision.as_deref(), Some("2026-07-28"));
        assert_eq!(message.id.unwrap().get(), "7");
    }

    #[test]
    fn kinds() {
        for (body, kind) in [
            (r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, Kind::Notification),
            (r#"{"jsonrpc":"2.0","id":"a","result":{}}"#, Kind::Response),
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}"#, Kind::Response),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","extra":true}"#, Kind::Request),
        ] {
            assert_eq!(Message::parse(body.as_bytes()).unwrap().kind, kind, "{body}");
        }
    }

    #[test]
    fn what_two_parsers_may_read_differently_is_refused() {
        for body in [
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"tools/call"}"#,
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"param\u{17f}\":{\"name\":\"x\"}}",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","NAME":"b"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Arguments":{}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["a"]}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":["tools/call"]}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#,
            r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
            r#"{"id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":1}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":[]}}"#,
        ] {
            assert!(matches!(Message::parse(body.as_bytes()), Err(NotAMessage::Invalid(_))), "{body}");
        }
    }

    #[test]
    fn what_is_no_message() {
        for (body, why) in [
            ("", NotAMessage::NotJson),
            ("{", NotAMessage::NotJson),
            ("{} {}", NotAMessage::NotJson),
            ("\u{feff}{}", NotAMessage::NotJson),
            ("[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]", NotAMessage::Batch),
            ("[", NotAMessage::NotJson),
            ("{\"client_name\":\"x\"}", NotAMessage::NotJsonRpc),
            ("\"text\"", NotAMessage::NotJsonRpc),
            ("a=b", NotAMessage::NotJson),
        ] {
            assert_eq!(Message::parse(body.as_bytes()).err(), Some(why), "{body}");
        }
        assert_eq!(Message::parse(b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}").err(), Some(NotAMessage::NotJson));
    }
}
