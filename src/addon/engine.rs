//! A client or a server held by JavaScript.

use std::sync::Arc;
use std::time::Duration;

use napi::bindgen_prelude::{FnArgs, Function, spawn, within_runtime_if_available};
use napi_derive::napi;
use serde_json::Value;

use super::authenticator::JsAuthenticator;
use super::events::{ANSWERS, JsAnswers, JsEvents};
use super::{body, invalid};
use crate::error::{ErrorCode, VpnError};
use crate::management::Endpoint;
use crate::report::Events;

/// The longest that a collected object may keep the JavaScript thread while it undoes.
const DROP_UNDO: Duration = Duration::from_secs(2);

/// A VPN client or server in this process.
#[napi]
pub struct NativeEngine {
    /// `None` once released.
    parts: Option<Parts>,
}

struct Parts {
    endpoint: Arc<Endpoint>,
    answers: Arc<JsAnswers>,
    authenticator: JsAuthenticator,
}

#[napi]
impl NativeEngine {
    /// An idle engine of mode `client` or `server`. `onAnswer(id, success, body)` and
    /// `onEvent(name, data, lost)` get JSON text; neither holds the event loop. `lost` counts events
    /// that found no room since the last one. `onAuthenticate(id, question)` is asked about clients, where a server's
    /// configuration says so: the question is JSON text, or null when an earlier one has no use for an answer any more.
    #[napi(constructor, catch_unwind)]
    pub fn new(
        mode: String,
        on_answer: Function<'_, FnArgs<(u32, bool, String)>, ()>,
        on_event: Function<'_, FnArgs<(String, String, u32)>, ()>,
        on_authenticate: Function<'_, FnArgs<(u32, Option<String>)>, ()>,
    ) -> napi::Result<Self> {
        let mode = mode.parse().map_err(|error| invalid(&error))?;
        let answers = Arc::new(JsAnswers::new(&on_answer)?);
        let events = Events::new(Arc::new(JsEvents::new(&on_event)?));
        let base = std::env::current_dir().unwrap_or_default();
        let authenticator = JsAuthenticator::new(&on_authenticate)?;
        let asked = Some(Arc::new(authenticator.clone()) as _);
        let endpoint =
            within_runtime_if_available(|| Endpoint::with_authenticator(mode, events, base, asked));
        Ok(Self { parts: Some(Parts { endpoint: Arc::new(endpoint), answers, authenticator }) })
    }

    /// Answers the question `id`: what `authenticate` said, as JSON text, null for no; or what it threw.
    #[napi(catch_unwind)]
    pub fn authenticated(&self, id: u32, answer: Option<String>, failure: Option<String>) {
        if let Some(Parts { authenticator, .. }) = &self.parts {
            authenticator.answer(id, answer.as_deref(), failure);
        }
    }

    /// Calls a method of the management protocol; `params` is JSON text. Answered exactly once.
    #[napi(catch_unwind)]
    pub fn request(&self, id: u32, method: String, params: String) -> napi::Result<()> {
        let Some(Parts { endpoint, answers, .. }) = &self.parts else {
            return Err(invalid(&"the engine has ended"));
        };
        if !answers.expect() {
            return Err(invalid(&format!(
                "over {ANSWERS} calls wait for their answers; await some of them first"
            )));
        }
        let (endpoint, answers) = (Arc::clone(endpoint), Arc::clone(answers));
        let params: Result<Value, _> = serde_json::from_str(&params);
        spawn(async move {
            let outcome = match params {
                Ok(params) => endpoint.call(method, params).await,
                Err(error) => {
                    let message = format!("params are not JSON: {error}");
                    Err(VpnError::new(ErrorCode::InvalidArgument, message))
                }
            };
            match outcome {
                Ok(result) => answers.send(id, true, result.to_string()),
                Err(error) => answers.send(id, false, body(&error)),
            }
        });
        Ok(())
    }

    /// Ends the VPN and puts the host back, on the calling thread. True if it was done within
    /// `timeoutMs`. For `process.on('exit')`; elsewhere the request `shutdown` does not block.
    #[napi(catch_unwind)]
    pub fn undo(&self, timeout_ms: u32) -> bool {
        let timeout = Duration::from_millis(timeout_ms.into());
        self.parts.as_ref().is_none_or(|parts| parts.endpoint.shutdown_blocking(timeout))
    }

    /// Lets go of the callbacks and of all memory, which would else wait for the garbage collector. For
    /// engines that have been shut down.
    #[napi(catch_unwind)]
    pub fn release(&mut self) {
        self.parts = None;
    }
}

impl Drop for NativeEngine {
    fn drop(&mut self) {
        // The JavaScript side shuts engines down before it lets go of them; what is left are those of
        // terminated workers, and idle ones that nobody stopped.
        if let Some(Parts { endpoint, .. }) = &self.parts {
            endpoint.shutdown_blocking(DROP_UNDO);
        }
    }
}
