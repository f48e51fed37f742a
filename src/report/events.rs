//! Events on their way from the product to the faces.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::{ErrorCode, VpnError};

use super::{ClientInfo, DisconnectReason, QualityReport, Status, timestamp};

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something needs an operator.
    Warn,
    /// A change that a user would notice.
    Info,
    /// For whoever looks for a fault.
    Debug,
}

/// One event of the public API (§§2–3).
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The state changed.
    Status(Status),
    /// A keepalive made its round trip.
    Quality(QualityReport),
    /// A client's session began.
    ClientConnected(Box<ClientInfo>),
    /// A client came back: its session goes on by another connection.
    ClientResumed(Box<ClientInfo>),
    /// A client's session ended.
    ClientDisconnected {
        /// The session's id.
        client_id: String,
        /// Why it ended.
        reason: DisconnectReason,
    },
    /// Something works worse than the configuration says; the message has the command that mends it.
    Warning {
        /// A stable name of the finding.
        code: &'static str,
        /// What was found and what to do.
        message: String,
        /// The client that it is about, if it is about one.
        client_id: Option<String>,
    },
    /// The engine ended by a fault of its own.
    Failed(VpnError),
    /// A line for people.
    Log {
        /// How much it matters.
        level: LogLevel,
        /// The part of the program that speaks.
        target: &'static str,
        /// The line.
        message: String,
    },
}

impl Event {
    /// The event's name in the public API.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Status(_) => "status",
            Self::Quality(_) => "quality",
            Self::ClientConnected(_) => "client-connected",
            Self::ClientResumed(_) => "client-resumed",
            Self::ClientDisconnected { .. } => "client-disconnected",
            Self::Warning { .. } => "warning",
            Self::Failed(_) => "exit",
            Self::Log { .. } => "log",
        }
    }

    /// The event's argument in the public API.
    pub fn data(&self) -> Value {
        match self {
            Self::Status(status) => json!(status),
            Self::Quality(quality) => json!(quality),
            Self::ClientConnected(info) | Self::ClientResumed(info) => json!(info),
            Self::ClientDisconnected { client_id, reason } => {
                json!({ "clientId": client_id, "reason": reason })
            }
            Self::Warning { code, message, client_id: None } => json!({ "code": code, "message": message }),
            Self::Warning { code, message, client_id: Some(client_id) } => {
                json!({ "code": code, "message": message, "clientId": client_id })
            }
            Self::Failed(error) => json!({ "code": error.code, "message": error.message }),
            Self::Log { level, target, message } => {
                json!({ "level": level, "target": target, "message": message, "time": timestamp() })
            }
        }
    }
}

/// The target under which the log has what is also told as an event: whoever passes both on to the same
/// reader leaves it out.
pub const TOLD: &str = "smartvpn::told";

/// Takes events; must not block: the data plane calls it.
pub trait EventSink: Send + Sync {
    /// One event, or a counted loss of it.
    fn emit(&self, event: Event);
}

/// A handle on the event sink of one client or server.
#[derive(Clone)]
pub struct Events(Arc<dyn EventSink>);

impl Events {
    /// Events go to `sink`.
    pub fn new(sink: Arc<dyn EventSink>) -> Self {
        Self(sink)
    }

    /// Emits `event`.
    pub fn emit(&self, event: Event) {
        self.0.emit(event);
    }

    /// Says `message` to people, as an event and in the process's own log.
    pub fn log(&self, level: LogLevel, target: &'static str, message: impl Into<String>) {
        let message = message.into();
        match level {
            LogLevel::Warn => tracing::warn!(target: TOLD, part = target, "{message}"),
            LogLevel::Info => tracing::info!(target: TOLD, part = target, "{message}"),
            LogLevel::Debug => tracing::debug!(target: TOLD, part = target, "{message}"),
        }
        self.emit(Event::Log { level, target, message });
    }

    /// Reports a panic: the engine ended by a fault of its own.
    pub fn fail(&self, panic: &str) {
        let message = format!("a fault of smartvpn ended the engine ({panic}); please report this");
        tracing::error!(target: TOLD, "{message}");
        self.emit(Event::Failed(VpnError::new(ErrorCode::Internal, message)));
    }

    /// Warns of a finding that an operator can mend.
    pub fn warn(&self, code: &'static str, message: impl Into<String>) {
        self.emit_warning(code, message.into(), None);
    }

    /// Warns of a finding about one client that an operator can mend.
    pub fn warn_of_client(&self, code: &'static str, client_id: String, message: impl Into<String>) {
        self.emit_warning(code, message.into(), Some(client_id));
    }

    fn emit_warning(&self, code: &'static str, message: String, client_id: Option<String>) {
        tracing::warn!(target: TOLD, code, "{message}");
        self.emit(Event::Warning { code, message, client_id });
    }
}
