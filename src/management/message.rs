//! The lines of the management protocol: requests in, answers and events out (API §7).

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::line::LINE_LIMIT;
use super::params::{error_body, invalid};
use super::{Mode, PROTOCOL};
use crate::error::VpnError;

/// The longest id that is a text, in characters.
const ID_CHARACTERS: usize = 64;

/// The largest id that is a number: the largest whole one that JavaScript holds exactly.
const MAX_SAFE_INTEGER: u64 = 9_007_199_254_740_991;

/// What tells the answers of one controller apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub(super) enum RequestId {
    Number(u64),
    Text(String),
}

/// A call of a method.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub(super) id: RequestId,
    pub(super) method: String,
    pub(super) params: Value,
}

/// Why a line is no request; with the id that it has all the same, if it has one.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) id: Option<RequestId>,
    pub(super) error: VpnError,
}

impl Refusal {
    fn new(id: Option<RequestId>, message: impl Into<String>) -> Self {
        Self { id, error: invalid(message) }
    }
}

impl Request {
    /// Reads a line; none if it is blank.
    pub(super) fn parse(line: &[u8]) -> Result<Option<Self>, Refusal> {
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let refuse = |message: String| Refusal::new(None, message);
        let text = std::str::from_utf8(line)
            .map_err(|error| refuse(format!("the line is not UTF-8 from byte {} on", error.valid_up_to())))?;
        // Its own words could quote what stands there, and so a key.
        let value: Value = serde_json::from_str(text)
            .map_err(|error| refuse(format!("the line is not valid JSON (column {})", error.column())))?;
        let Value::Object(mut members) = value else {
            return Err(refuse("a request is an object: {\"id\":1,\"method\":\"getStatus\"}".to_owned()));
        };
        let id = members.get("id").and_then(request_id);
        if let Some(unknown) = members.keys().find(|key| !["id", "method", "params"].contains(&key.as_str()))
        {
            let unknown: String = unknown.chars().take(ID_CHARACTERS).collect();
            let message =
                format!("unknown member {unknown:?}; a request has \"id\", \"method\" and \"params\"");
            return Err(Refusal::new(id, message));
        }
        let Some(id) = id else {
            let message = format!(
                "\"id\" must be a whole number from 0 to {MAX_SAFE_INTEGER} or a text of 1 to {ID_CHARACTERS} characters"
            );
            return Err(Refusal::new(None, message));
        };
        let params = members.remove("params").unwrap_or_default();
        match members.remove("method") {
            Some(Value::String(method)) => Ok(Some(Self { id, method, params })),
            _ => Err(Refusal::new(Some(id), "\"method\" must be the name of a method")),
        }
    }
}

fn request_id(value: &Value) -> Option<RequestId> {
    match value {
        Value::Number(number) => {
            number.as_u64().filter(|number| *number <= MAX_SAFE_INTEGER).map(RequestId::Number)
        }
        Value::String(text) if (1..=ID_CHARACTERS).contains(&text.chars().count()) => {
            Some(RequestId::Text(text.clone()))
        }
        _ => None,
    }
}

/// An answer; without an id where the request has none that could be used.
pub(super) fn answer(id: Option<&RequestId>, outcome: Result<Value, VpnError>) -> Zeroizing<String> {
    let answer = match outcome {
        Ok(result) => json!({ "id": id, "success": true, "result": result }),
        Err(error) => json!({ "id": id, "success": false, "error": error_body(&error) }),
    };
    Zeroizing::new(format!("{answer}\n"))
}

/// An event.
pub(super) fn event(name: &str, data: &Value) -> Arc<str> {
    format!("{}\n", json!({ "event": name, "data": data })).into()
}

/// The first line that a controller gets.
pub(super) fn ready(mode: Mode) -> Arc<str> {
    let version = env!("CARGO_PKG_VERSION");
    event("ready", &json!({ "version": version, "protocol": PROTOCOL, "mode": mode.as_str() }))
}

/// So many events were lost at this point.
pub(super) fn lost(count: u64) -> Arc<str> {
    event("lost", &json!({ "count": count }))
}

/// What a controller is told whose line is too long, before it is closed.
pub(super) fn too_long() -> VpnError {
    invalid(format!("a line may have {LINE_LIMIT} bytes; this one is longer, and the connection ends"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[track_caller]
    fn refused(line: &[u8], id: Option<RequestId>, words: &str) {
        let refusal = Request::parse(line).unwrap_err();
        assert_eq!((refusal.id, refusal.error.code), (id, ErrorCode::InvalidArgument));
        assert!(refusal.error.message.contains(words), "{}", refusal.error.message);
    }

    #[test]
    fn requests_are_read() {
        let parse = |line: &str| Request::parse(line.as_bytes()).unwrap();
        let request = |id, params| Some(Request { id, method: "getStatus".to_owned(), params });
        assert_eq!(
            parse("{\"id\":9007199254740991,\"method\":\"getStatus\"}\r"),
            request(RequestId::Number(MAX_SAFE_INTEGER), Value::Null)
        );
        assert_eq!(
            parse(" {\"params\":{\"a\":1},\"method\":\"getStatus\",\"id\":\"ä\"}"),
            request(RequestId::Text("ä".to_owned()), json!({ "a": 1 }))
        );
        assert_eq!((parse(""), parse(" \t\r")), (None, None));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let one = || Some(RequestId::Number(1));
        refused(b"\xff{}", None, "not UTF-8 from byte 0");
        refused(b"{\"id\":1,\"method\":\"getStatus\"", None, "not valid JSON");
        refused("[".repeat(60_000).as_bytes(), None, "not valid JSON");
        refused(b"[1]", None, "is an object");
        refused(b"null", None, "is an object");
        refused(b"{\"id\":1}", one(), "\"method\"");
        refused(b"{\"id\":1,\"method\":7}", one(), "\"method\"");
        refused(b"{\"id\":1,\"method\":\"x\",\"param\":{}}", one(), "unknown member \"param\"");
        let longest = format!("{{\"id\":\"{}\",\"method\":\"x\"}}", "é".repeat(ID_CHARACTERS));
        assert!(Request::parse(longest.as_bytes()).is_ok());
        let longer = longest.replacen('é', "éé", 1);
        for id in ["-1", "1.5", "9007199254740992", "1e3", "\"\"", "null", "true", "[1]", "{\"a\":1}"] {
            refused(format!("{{\"id\":{id},\"method\":\"x\"}}").as_bytes(), None, "\"id\" must be");
        }
        refused(longer.as_bytes(), None, "\"id\" must be");
        refused(b"{\"method\":\"x\"}", None, "\"id\" must be");
    }

    #[test]
    fn no_refusal_repeats_a_key() {
        let key = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
        let line = format!("{{\"id\":1,\"method\":\"start\",\"params\":{{\"privateKey\":\"{key}}}}}");
        let refusal = Request::parse(line.as_bytes()).unwrap_err();
        assert!(!format!("{refusal:?}").contains(key), "{refusal:?}");
    }

    #[test]
    fn answers_echo_the_id() {
        assert_eq!(
            *answer(Some(&RequestId::Number(7)), Ok(Value::Null)),
            "{\"id\":7,\"success\":true,\"result\":null}\n"
        );
        let error = VpnError::config("mtu", "mtu must be less");
        assert_eq!(
            *answer(Some(&RequestId::Text("a".to_owned())), Err(error)),
            "{\"id\":\"a\",\"success\":false,\"error\":{\"code\":\"invalid-config\",\"message\":\"mtu must be less\",\"path\":\"mtu\"}}\n"
        );
        assert!(answer(None, Err(too_long())).starts_with("{\"id\":null,\"success\":false"));
        assert_eq!(&*lost(3), "{\"event\":\"lost\",\"data\":{\"count\":3}}\n");
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(id in proptest::option::of(0..=MAX_SAFE_INTEGER), method in "\\PC{0,20}", number: u32) {
            let params = json!({ "a": [number] });
            let (id, text) = match id {
                Some(id) => (RequestId::Number(id), json!(id)),
                None => (RequestId::Text(format!("id {number}")), json!(format!("id {number}"))),
            };
            let line = json!({ "id": text, "method": method, "params": params }).to_string();
            proptest::prop_assert_eq!(Request::parse(line.as_bytes()), Ok(Some(Request { id, method, params })));
        }

        #[test]
        fn any_line_is_read_or_refused(line in "[\\[\\]{}\":,a-z0-9 .-]{0,60}", bytes: Vec<u8>) {
            for line in [line.as_bytes(), &bytes] {
                if let Err(refusal) = Request::parse(line) {
                    let answer = answer(refusal.id.as_ref(), Err(refusal.error));
                    proptest::prop_assert_eq!(answer.find('\n'), Some(answer.len() - 1));
                }
            }
        }
    }
}
