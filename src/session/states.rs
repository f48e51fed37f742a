//! What each state accepts: the table of PROTOCOL §2.

use crate::codec::frame::{FrameSet, FrameType};
use crate::codec::hello::Features;

/// Server, "start".
pub(super) const LISTENING: FrameSet = RESUME_REFUSED.with(FrameType::SessionResume);

/// Server, "resume refused".
pub(super) const RESUME_REFUSED: FrameSet =
    FrameSet::of(&[FrameType::HandshakeInit, FrameType::HandshakeInitIk]);

/// Client, "start" and "message 1 sent": the client writes message 1 as soon as it has a
/// connection, so an answer that comes sooner finds no handshake it could belong to.
pub(super) const AWAITING_RESPONSE: FrameSet =
    FrameSet::of(&[FrameType::HandshakeResp]).with_plain_disconnect();

/// The same after a SessionResume.
pub(super) const AWAITING_RESUME: FrameSet =
    FrameSet::of(&[FrameType::SessionResumeOk, FrameType::SessionResumeErr]).with_plain_disconnect();

/// Server, "message 2 sent, unconfirmed".
pub(super) const UNCONFIRMED: FrameSet = FrameSet::of(&[FrameType::Keepalive]);

/// Both ends, "up"; also the server's "RekeyResp sent, client not switched". At a server that is ready for one
/// RekeyInit joins, at a client that has asked for it RekeyResp.
pub(super) const fn up(features: Features) -> FrameSet {
    if features.bundle { UP.with(FrameType::IpBundle) } else { UP }
}

const UP: FrameSet = FrameSet::of(&[
    FrameType::IpPacket,
    FrameType::Keepalive,
    FrameType::KeepaliveAck,
    FrameType::Disconnect,
]);
