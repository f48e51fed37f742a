//! A door for `fuzz/`: what reads a controller's bytes, without the engine that carries its calls out.

use std::path::Path;

use serde_json::Value;

use super::line::Lines;
use super::message::{Request, answer, too_long};
use super::{Mode, params, validate};
use crate::error::VpnError;

/// The answers to what a controller sends in these pieces, each a line. A call of a method whose parameters are
/// right has them for its result.
pub fn answers<'b>(pieces: impl IntoIterator<Item = &'b [u8]>, mode: Mode) -> Vec<String> {
    let mut lines = Lines::default();
    let mut answers = Vec::new();
    for piece in pieces {
        lines.push(piece);
        loop {
            match lines.next() {
                Ok(Some(line)) => answers.extend(answer_to(&line, mode)),
                Ok(None) => break,
                Err(_) => {
                    answers.push(answer(None, Err(too_long())).to_string());
                    return answers;
                }
            }
        }
    }
    answers
}

fn answer_to(line: &[u8], mode: Mode) -> Option<String> {
    let answer = match Request::parse(line) {
        Ok(None) => return None,
        Ok(Some(Request { id, method, params })) => answer(Some(&id), check(&method, params, mode)),
        Err(refusal) => answer(refusal.id.as_ref(), Err(refusal.error)),
    };
    Some(answer.to_string())
}

fn check(method: &str, params: Value, mode: Mode) -> Result<Value, VpnError> {
    match method {
        "validateConfig" => validate(mode, &params::value(&params, "config")?, Path::new("/etc/smartvpn"))?,
        "setClientRateLimit" => drop(params::rate_limit(&params)?),
        "disconnectClient" => drop(params::string(&params, "id")?),
        _ => params::none(&params)?,
    }
    Ok(params)
}
