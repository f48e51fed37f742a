//! WebSocket close codes (PROTOCOL §9).

/// Why a connection's WebSocket is closed; the number goes into the Close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// After Disconnect, or a client that gives up.
    Normal = 1000,
    /// After Disconnect or a rejection because the server is stopping.
    GoingAway = 1001,
    /// The peer broke the framing: a bad frame, bundle, message or, at the client, hello.
    ProtocolError = 1002,
    /// The peer broke the cryptography or a policy: nothing it sends is to be trusted.
    PolicyViolation = 1008,
    /// A WebSocket message is longer than the state allows.
    TooLong = 1009,
    /// This end failed.
    InternalError = 1011,
    /// After a rejection for lack of room, or overload.
    TryAgainLater = 1013,
}

impl CloseCode {
    /// The number on the wire.
    pub const fn as_u16(self) -> u16 {
        self as u16
    }
}
