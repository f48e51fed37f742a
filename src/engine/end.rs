//! How a connection's session ends.

use crate::codec::close::CloseCode;
use crate::codec::disconnect::{Disconnect, DisconnectCode};
use crate::session::SessionError;
use crate::transport::WebSocketError;

/// How a link ended.
#[derive(Debug)]
pub enum End {
    /// The peer said why.
    Peer(Disconnect),
    /// We said why: an [`Order`](super::Order) was carried out.
    Local(DisconnectCode),
    /// The connection was cut, or closed without a word.
    Lost(WebSocketError),
    /// The peer broke the protocol below the session.
    BadMessage(WebSocketError),
    /// The peer broke the protocol, or failed the seal.
    BadFrame(SessionError),
    /// The peer no longer answers.
    DeadPeer,
    /// The keys' limits are reached: a new handshake must follow (PROTOCOL §5).
    KeysSpent,
}

impl End {
    /// What the connection is closed with (PROTOCOL §9).
    pub fn close_code(&self) -> u16 {
        match self {
            Self::Peer(disconnect) => close_code_after(disconnect.code).as_u16(),
            Self::Local(code) => close_code_after(*code).as_u16(),
            Self::BadMessage(error) => error.close_code().unwrap_or(CloseCode::ProtocolError.as_u16()),
            Self::BadFrame(error) => error.close_code().as_u16(),
            Self::Lost(_) | Self::DeadPeer | Self::KeysSpent => CloseCode::Normal.as_u16(),
        }
    }
}

const fn close_code_after(code: DisconnectCode) -> CloseCode {
    match code {
        DisconnectCode::ShuttingDown => CloseCode::GoingAway,
        _ => CloseCode::Normal,
    }
}
