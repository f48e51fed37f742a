//! Parameters and errors as JSON.

use std::path::Path;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::Mode;
use crate::config::{ClientConfig, ServerConfig};
use crate::error::{ErrorCode, VpnError};
use crate::qos::RateLimit;
use crate::qos::token_bucket::{MAX_BURST, RateLimitError};

/// Neither `client` nor `server`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mode must be \"client\" or \"server\", not {0:?}")]
pub struct ParseModeError(String);

impl FromStr for Mode {
    type Err = ParseModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "client" => Ok(Self::Client),
            "server" => Ok(Self::Server),
            other => Err(ParseModeError(other.to_owned())),
        }
    }
}

/// An error as controllers see it: `{"code","message"}`, with `path` and `cause` where there are any.
pub fn error_body(error: &VpnError) -> Value {
    let mut body = json!({ "code": error.code, "message": error.message });
    if let Some(path) = &error.path {
        body["path"] = json!(path);
    }
    if let Some(cause) = &error.cause {
        body["cause"] = json!(cause);
    }
    body
}

/// Checks a configuration of `mode` without using it; relative paths are taken from `base`.
///
/// # Errors
/// `invalid-config` with the field's path.
pub fn validate(mode: Mode, config: &Value, base: &Path) -> Result<(), VpnError> {
    match mode {
        Mode::Client => ClientConfig::parse(config, base).map(drop),
        Mode::Server => ServerConfig::parse(config, base).map(drop),
    }
}

/// The parameters of a method that takes none.
pub(super) fn none(params: &Value) -> Result<(), VpnError> {
    match params {
        Value::Null => Ok(()),
        Value::Object(fields) if fields.is_empty() => Ok(()),
        _ => Err(invalid("this method takes no parameters")),
    }
}

/// The parameters of `setClientRateLimit`.
pub(super) fn rate_limit(params: &Value) -> Result<(String, RateLimit), VpnError> {
    let [id, rate, burst] = ["id", "rateBytesPerSec", "burstBytes"];
    let fields = only(params, &[id, rate, burst])?;
    let number = |name: &str| {
        // JavaScript's numbers are floating point, and 30.0 is a whole one.
        let value = fields.get(name);
        let whole = |number: &f64| number.fract() == 0.0 && (0.0..=MAX_BURST as f64).contains(number);
        value
            .and_then(|value| value.as_u64().or_else(|| value.as_f64().filter(whole).map(|n| n as u64)))
            .ok_or_else(|| invalid(format!("{name} must be a whole number of bytes")))
    };
    let id = fields.get(id).and_then(Value::as_str).ok_or_else(|| invalid("id must be a string"))?;
    let limit = RateLimit::new(number(rate)?, number(burst)?).map_err(|error| {
        let name = match error {
            RateLimitError::Rate(_) => rate,
            RateLimitError::Burst(_) => burst,
        };
        invalid(format!("{name}: {error}"))
    })?;
    Ok((id.to_owned(), limit))
}

/// The parameters of `updateClient`.
pub(super) fn update(params: &Value) -> Result<(String, Value), VpnError> {
    let [id, changes] = ["id", "changes"];
    let fields = only(params, &[id, changes])?;
    let changes = fields.get(changes).cloned().ok_or_else(|| invalid("changes is missing"))?;
    let id = fields.get(id).and_then(Value::as_str).ok_or_else(|| invalid("id must be a string"))?;
    Ok((id.to_owned(), changes))
}

/// The one string parameter `name`.
pub(super) fn string(params: &Value, name: &str) -> Result<String, VpnError> {
    let fields = only(params, &[name])?;
    let value = fields.get(name).and_then(Value::as_str);
    value.map(str::to_owned).ok_or_else(|| invalid(format!("{name} must be a string")))
}

/// The one parameter `name`, whatever it holds.
pub(super) fn value(params: &Value, name: &str) -> Result<Value, VpnError> {
    let fields = only(params, &[name])?;
    fields.get(name).cloned().ok_or_else(|| invalid(format!("{name} is missing")))
}

fn only<'a>(params: &'a Value, names: &[&str]) -> Result<&'a Map<String, Value>, VpnError> {
    let fields = params.as_object().ok_or_else(|| invalid("params must be an object"))?;
    match fields.keys().find(|key| !names.contains(&key.as_str())) {
        None => Ok(fields),
        Some(unknown) => {
            let names = names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
            Err(invalid(format!("unknown parameter {unknown:?}; this method takes {names}")))
        }
    }
}

pub(super) fn invalid(message: impl Into<String>) -> VpnError {
    VpnError::new(ErrorCode::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{error_body, none, rate_limit, string};
    use crate::error::{ErrorCode, VpnError};

    #[test]
    fn unknown_and_missing_parameters_are_refused() {
        assert_eq!(string(&json!({ "id": "a" }), "id").unwrap(), "a");
        for params in [json!({}), json!({ "id": 1 }), json!({ "id": "a", "x": 1 }), json!([]), json!(null)] {
            assert_eq!(string(&params, "id").unwrap_err().code, ErrorCode::InvalidArgument, "{params}");
        }
        assert!(none(&json!({})).is_ok());
        assert!(none(&json!({ "x": 1 })).is_err());
    }

    #[test]
    fn rate_limits_are_whole_bytes_in_range() {
        let params = |rate, burst| json!({ "id": "a", "rateBytesPerSec": rate, "burstBytes": burst });
        let (id, limit) = rate_limit(&params(json!(1000), json!(65_536.0))).unwrap();
        assert_eq!((id.as_str(), limit.rate(), limit.burst()), ("a", 1000, 65_536));
        let wrong = [(json!(999), json!(65_536)), (json!(1000), json!(65_535)), (json!(1000), json!("x"))];
        for (rate, burst) in wrong {
            assert_eq!(rate_limit(&params(rate, burst)).unwrap_err().code, ErrorCode::InvalidArgument);
        }
        for params in [json!({ "id": "a" }), json!(null), json!({ "id": 1, "rateBytesPerSec": 1000 })] {
            assert_eq!(rate_limit(&params).unwrap_err().code, ErrorCode::InvalidArgument);
        }
    }

    #[test]
    fn errors_carry_code_path_and_cause() {
        let error = VpnError::config("mtu", "must be a number").caused_by("x");
        let body =
            json!({ "code": "invalid-config", "message": "must be a number", "path": "mtu", "cause": "x" });
        assert_eq!(error_body(&error), body);
    }
}
