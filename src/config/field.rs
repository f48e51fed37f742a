//! Reading JSON with the path of every value at hand, so that each refusal can name its field.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::error::VpnError;

/// Integers that JavaScript's numbers hold exactly: up to 2^53 - 1.
const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;

/// Characters of a value that a message repeats.
const SHOWN: usize = 80;

/// The version that a message about a later one names.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The names an object may have.
#[derive(Debug)]
pub(super) struct Names {
    /// Those that are read.
    pub known: &'static [&'static str],
    /// Those that a later version reads (API §9).
    pub later: &'static [&'static str],
}

/// One place in a configuration: its path, and what is there, if anything is.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    path: String,
    value: Option<&'a Value>,
}

/// An object whose names have been checked.
#[derive(Debug)]
pub(super) struct Object<'a> {
    path: String,
    map: &'a Map<String, Value>,
    names: &'static Names,
}

impl<'a> Field<'a> {
    /// The whole configuration.
    pub(super) fn root(value: &'a Value) -> Self {
        Self { path: String::new(), value: Some(value) }
    }

    /// What stands here, of whatever type.
    pub(super) fn value(&self) -> Option<&'a Value> {
        self.value
    }

    /// An object with no other names than these.
    pub(super) fn object(&self, names: &'static Names) -> Result<Object<'a>, VpnError> {
        let Some(Value::Object(map)) = self.value else { return Err(self.refuse("must be an object")) };
        let object = Object { path: self.path.clone(), map, names };
        match map.keys().find(|name| !names.known.contains(&name.as_str())) {
            None => Ok(object),
            Some(name) => Err(object.refuse_name(name)),
        }
    }

    /// A list, each entry read by `read`.
    pub(super) fn list<T>(
        &self,
        must: &str,
        read: impl Fn(&Self) -> Result<T, VpnError>,
    ) -> Result<Vec<T>, VpnError> {
        let Some(Value::Array(entries)) = self.value else { return Err(self.refuse(must)) };
        let entry = |(index, value)| Self { path: format!("{}[{index}]", self.path), value: Some(value) };
        entries.iter().enumerate().map(entry).map(|entry| read(&entry)).collect()
    }

    /// A string; `must` says of which kind.
    pub(super) fn string(&self, must: &str) -> Result<&'a str, VpnError> {
        match self.value {
            Some(Value::String(text)) => Ok(text),
            _ => Err(self.refuse(must)),
        }
    }

    /// A string that `T` can be read from.
    pub(super) fn parsed<T: FromStr>(&self, must: &str) -> Result<T, VpnError> {
        self.string(must)?.parse().map_err(|_| self.refuse(must))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, VpnError> {
        match self.value {
            Some(Value::Bool(value)) => Ok(*value),
            _ => Err(self.refuse("must be true or false")),
        }
    }

    /// A whole number; JavaScript knows no other kind than floating point, so 30.0 is one.
    pub(super) fn integer(&self, range: RangeInclusive<u64>) -> Result<u64, VpnError> {
        let whole = |number: &f64| number.fract() == 0.0 && (0.0..=MAX_SAFE_INTEGER).contains(number);
        self.value
            .and_then(|value| value.as_u64().or_else(|| value.as_f64().filter(whole).map(|n| n as u64)))
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                self.refuse(format_args!("must be a whole number from {} to {}", range.start(), range.end()))
            })
    }

    /// A whole number of seconds.
    pub(super) fn seconds(&self, range: RangeInclusive<u64>) -> Result<Duration, VpnError> {
        self.integer(range).map(Duration::from_secs)
    }

    /// A whole number of milliseconds.
    pub(super) fn millis(&self, range: RangeInclusive<u64>) -> Result<Duration, VpnError> {
        self.integer(range).map(Duration::from_millis)
    }

    /// The refusal of what stands here, which it shows: `mtu must be …, not 100`.
    pub(super) fn refuse(&self, must: impl fmt::Display) -> VpnError {
        self.refusal(format_args!("{must}{}", Given(self.value)))
    }

    /// The same with the reason behind it: `routes[2] must be …, not "…": it has …`.
    pub(super) fn refuse_because(&self, must: impl fmt::Display, reason: impl fmt::Display) -> VpnError {
        self.refusal(format_args!("{must}{}: {reason}", Given(self.value)))
    }

    /// The refusal of what may be secret: it shows nothing but whether there is anything.
    pub(super) fn refuse_unseen(&self, must: impl fmt::Display) -> VpnError {
        let missing = if self.value.is_none() { ", but it is missing" } else { "" };
        self.refusal(format_args!("{must}{missing}"))
    }

    /// The refusal of the list's entry at `index`.
    pub(super) fn refuse_entry(&self, index: usize, reason: impl fmt::Display) -> VpnError {
        Self { path: format!("{}[{index}]", self.path), value: None }
            .refusal(format_args!("cannot be: {reason}"))
    }

    fn refusal(&self, text: fmt::Arguments<'_>) -> VpnError {
        let name = if self.path.is_empty() { "the configuration" } else { &self.path };
        VpnError::config(self.path.clone(), format!("{name} {text}"))
    }
}

impl<'a> Object<'a> {
    /// The field of this name, which may be absent; [`Field`] refuses that with its own words.
    pub(super) fn field(&self, name: &'static str) -> Field<'a> {
        debug_assert!(self.names.known.contains(&name), "{name} is read but not known");
        Field { path: self.path_of(name), value: self.map.get(name) }
    }

    /// Reads a field that must be there.
    pub(super) fn required<T>(
        &self,
        name: &'static str,
        read: impl FnOnce(&Field<'a>) -> Result<T, VpnError>,
    ) -> Result<T, VpnError> {
        read(&self.field(name))
    }

    /// Reads a field that may be absent.
    pub(super) fn optional<T>(
        &self,
        name: &'static str,
        read: impl FnOnce(&Field<'a>) -> Result<T, VpnError>,
    ) -> Result<Option<T>, VpnError> {
        let field = self.field(name);
        field.value.is_some().then(|| read(&field)).transpose()
    }

    /// All members that are there.
    pub(super) fn members(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter()
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Why a name that is not known is refused.
    fn refuse_name(&self, name: &str) -> VpnError {
        let path = self.path_of(name);
        if self.names.later.contains(&name) {
            let message = format!("{path} is not supported by smartvpn {VERSION} yet; leave it out");
            return VpnError::config(path, message);
        }
        let shown = Given::text(&path);
        let message = match self.nearest(name) {
            Some(nearest) => {
                format!("{shown} is not an option; the nearest one is {}", self.path_of(nearest))
            }
            None => format!("{shown} is not an option"),
        };
        VpnError::config(path, message)
    }

    fn nearest(&self, name: &str) -> Option<&'static str> {
        let name = name.to_lowercase();
        let likeness = |candidate: &str| strsim::jaro_winkler(&candidate.to_lowercase(), &name);
        let candidates = self.names.known.iter().chain(self.names.later);
        candidates.copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
    }
}

/// What was given, as the end of a message.
struct Given<'a>(Option<&'a Value>);

impl Given<'_> {
    /// A text in quotes, shortened.
    fn text(text: &str) -> String {
        match text.char_indices().nth(SHOWN) {
            None => format!("{text:?}"),
            Some((end, _)) => format!("{:?}…", &text[..end]),
        }
    }
}

impl fmt::Display for Given<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str(", but it is missing"),
            Some(Value::String(text)) => write!(f, ", not {}", Self::text(text)),
            Some(Value::Array(entries)) => write!(f, ", not a list of {}", entries.len()),
            Some(Value::Object(_)) => f.write_str(", not an object"),
            Some(value @ (Value::Null | Value::Bool(_) | Value::Number(_))) => write!(f, ", not {value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::ErrorCode;

    const NAMES: Names = Names { known: &["mtu", "inner", "keepaliveIntervalSecs"], later: &["token"] };
    static STATIC: Names = NAMES;

    fn object(value: &Value) -> Result<Object<'_>, VpnError> {
        Field::root(value).object(&STATIC)
    }

    #[track_caller]
    fn refused<T: fmt::Debug>(result: Result<T, VpnError>, path: &str, message: &str) {
        let error = result.unwrap_err();
        assert_eq!((error.code, error.path.as_deref()), (ErrorCode::InvalidConfig, Some(path)));
        assert_eq!(error.message, message);
    }

    #[test]
    fn an_object_has_only_known_names() {
        refused(object(&json!([1])), "", "the configuration must be an object, not a list of 1");
        refused(object(&json!({ "mut": 1 })), "mut", "\"mut\" is not an option; the nearest one is mtu");
        refused(
            object(&json!({ "keepAliveInterval": 1 })),
            "keepAliveInterval",
            "\"keepAliveInterval\" is not an option; the nearest one is keepaliveIntervalSecs",
        );
        refused(
            object(&json!({ "token": "x" })),
            "token",
            &format!("token is not supported by smartvpn {VERSION} yet; leave it out"),
        );
    }

    #[test]
    fn paths_lead_through_objects_and_lists() {
        let value = json!({ "inner": { "mtu": [1, 2, "x"] } });
        let list = |field: &Field<'_>| field.list("must be a list", |entry| entry.integer(0..=9));
        let read = object(&value).unwrap().required("inner", |f| f.object(&STATIC)?.required("mtu", list));
        refused(read, "inner.mtu[2]", "inner.mtu[2] must be a whole number from 0 to 9, not \"x\"");
        let value = json!({ "inner": { "mtv": 1 } });
        let read = object(&value).unwrap().required("inner", |field| field.object(&STATIC));
        refused(read, "inner.mtv", "\"inner.mtv\" is not an option; the nearest one is inner.mtu");
    }

    #[test]
    fn an_integer_is_whole_and_in_range() {
        let mtu =
            |value: Value| object(&json!({ "mtu": value })).unwrap().required("mtu", |f| f.integer(5..=120));
        assert_eq!(mtu(json!(5)).unwrap(), 5);
        assert_eq!(mtu(json!(120.0)).unwrap(), 120);
        for (value, shown) in [
            (json!(4), "4"),
            (json!(121), "121"),
            (json!(-5), "-5"),
            (json!(5.5), "5.5"),
            (json!(1e300), "1e+300"),
            (json!("5"), "\"5\""),
            (json!(null), "null"),
            (json!(true), "true"),
            (json!({}), "an object"),
            (json!([]), "a list of 0"),
        ] {
            refused(mtu(value), "mtu", &format!("mtu must be a whole number from 5 to 120, not {shown}"));
        }
    }

    #[test]
    fn what_is_missing_is_refused_only_where_it_is_required() {
        let value = json!({});
        let object = object(&value).unwrap();
        assert_eq!(object.optional("mtu", Field::boolean).unwrap(), None);
        refused(
            object.required("mtu", Field::boolean),
            "mtu",
            "mtu must be true or false, but it is missing",
        );
        let unseen: Result<(), _> = Err(object.field("mtu").refuse_unseen("must be a key"));
        refused(unseen, "mtu", "mtu must be a key, but it is missing");
    }

    #[test]
    fn long_and_strange_values_are_shown_short_and_quoted() {
        let value = json!({ "mtu": format!("\u{1b}{}", "é".repeat(1000)) });
        let error = object(&value).unwrap().required("mtu", Field::boolean).unwrap_err();
        let shown = format!("\"\\u{{1b}}{}\"…", "é".repeat(SHOWN - 1));
        assert_eq!(error.message, format!("mtu must be true or false, not {shown}"));
    }
}
