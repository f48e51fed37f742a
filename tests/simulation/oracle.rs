//! PROTOCOL §2's tables once more, written independently of the crate, and what they demand of a
//! receiver that gets any bytes at all.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use smartvpn::packet::Offload;

use crate::hostile::plain_disconnect;

pub(crate) const HEADER: usize = 5;

/// The states of PROTOCOL §2's second table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Listening,
    /// A SessionResume was refused, and the connection stays.
    ResumeRefused,
    /// Message 1 was taken, message 2 is not sent yet.
    Answering,
    Awaiting,
    /// The same after a SessionResume.
    AwaitingResume,
    Unconfirmed,
    Up(Up),
    /// Disconnect seen or sent, or the connection has ended.
    Closed,
}

/// What may come besides, once a session is up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Up {
    /// The feature `bundle` is in force.
    pub(crate) bundle: bool,
    pub(crate) rekey: Rekey,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rekey {
    /// The feature is not in force, or it is a client that has not asked.
    #[default]
    None,
    /// A client that has asked.
    Asked,
    /// A server at rest.
    Ready,
    /// A server whose client has asked and not switched.
    UnderWay,
}

impl Stage {
    pub(crate) const fn allows(self, kind: u8) -> bool {
        match self {
            Self::Listening => matches!(kind, 0x01 | 0x03 | 0x30),
            Self::ResumeRefused => matches!(kind, 0x01 | 0x03),
            Self::Awaiting => matches!(kind, 0x02 | 0x3f),
            Self::AwaitingResume => matches!(kind, 0x31 | 0x32 | 0x3f),
            Self::Answering | Self::Unconfirmed => kind == 0x20,
            Self::Up(Up { bundle, rekey }) => match kind {
                0x10 | 0x20 | 0x21 | 0x3f => true,
                0x11 => bundle,
                0x40 => matches!(rekey, Rekey::Ready),
                0x41 => matches!(rekey, Rekey::Asked),
                _ => false,
            },
            Self::Closed => true,
        }
    }

    /// The first table's last column.
    pub(crate) const fn lengths(self, kind: u8) -> RangeInclusive<usize> {
        match kind {
            0x01..=0x03 | 0x31 | 0x32 => 49..=8_192,
            0x10 => 40..=65_575,
            0x11 => 45..=131_072,
            0x20 | 0x21 => 48..=48,
            0x30 => 50..=8_192,
            0x3f if self.takes_plain_disconnect() => 2..=1_024,
            0x3f => 42..=1_064,
            0x40 | 0x41 => 89..=8_192,
            _ => 0..=0,
        }
    }

    pub(crate) const fn takes_plain_disconnect(self) -> bool {
        matches!(self, Self::Awaiting | Self::AwaitingResume)
    }

    fn after(self, frame: &[u8], up: Self) -> Self {
        match self {
            Self::Listening | Self::ResumeRefused => Self::Answering,
            Self::Up(_) if frame[0] == 0x3f => Self::Closed,
            Self::Up(Up { bundle, rekey }) => Self::Up(Up { bundle, rekey: rekey.after(frame) }),
            Self::Awaiting | Self::AwaitingResume | Self::Unconfirmed => up,
            stage => stage,
        }
    }
}

impl Rekey {
    /// How it goes on behind a genuine frame.
    pub(crate) fn after(self, frame: &[u8]) -> Self {
        match (self, frame[0]) {
            (Self::Ready, 0x40) => Self::UnderWay,
            (Self::UnderWay, 0x20) if counter(frame) == 0 => Self::Ready,
            (Self::Asked, 0x41) => Self::None,
            (rekey, _) => rekey,
        }
    }
}

/// The counter of a sealed frame.
pub(crate) fn counter(frame: &[u8]) -> u64 {
    u64::from_be_bytes(frame[HEADER + 16..HEADER + 24].try_into().unwrap())
}

/// What a receiver must make of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Frames that stand.
    pub(crate) accepted: usize,
    /// How it must close the connection, if it must.
    pub(crate) close: Option<u16>,
    /// A plain Disconnect was taken.
    pub(crate) plain_disconnect: bool,
}

/// Judges `message` in `stage`, where `genuine` are the sender's frames that are still to come. A handshake
/// ends in the stage `up`.
pub(crate) fn judge(mut stage: Stage, up: Stage, genuine: &VecDeque<Vec<u8>>, message: &[u8]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut rest = message;
    while stage != Stage::Closed {
        let Some(length) = frame_length(stage, rest) else {
            verdict.close = Some(1002);
            break;
        };
        let (frame, behind) = rest.split_at(length);
        if genuine.get(verdict.accepted).is_some_and(|genuine| genuine == frame) && stage != Stage::Answering
        {
            verdict.accepted += 1;
            stage = stage.after(frame, up);
        } else if stage.takes_plain_disconnect() && frame[0] == 0x3f {
            verdict.plain_disconnect = frame == plain_disconnect();
            verdict.close = (!verdict.plain_disconnect).then_some(1002);
            break;
        } else {
            verdict.close = Some(1008);
            break;
        }
        if behind.is_empty() {
            break;
        }
        rest = behind;
    }
    verdict
}

/// The length of the whole first frame, if its header is good and its payload is there.
fn frame_length(stage: Stage, message: &[u8]) -> Option<usize> {
    let (header, payload) = message.split_at_checked(HEADER)?;
    let announced = usize::try_from(u32::from_be_bytes(header[1..].try_into().ok()?)).ok()?;
    let good = stage.allows(header[0]) && stage.lengths(header[0]).contains(&announced);
    (good && announced <= payload.len()).then_some(HEADER + announced)
}

/// How many packets a genuine frame has, of those that are sent in it and behind it: a bundle's length tells.
pub(crate) fn packets_in<'p>(frame: &[u8], sent: impl Iterator<Item = &'p (Vec<u8>, Offload)>) -> usize {
    match frame[0] {
        0x10 => 1,
        0x11 => {
            let mut room = frame.len() - HEADER - 40;
            let fits = |(packet, offload): &&(Vec<u8>, Offload)| {
                let record = packet.len() + if *offload == Offload::NONE { 4 } else { 14 };
                let fits = room >= record;
                room = room.saturating_sub(record);
                fits
            };
            let count = sent.take_while(fits).count();
            assert_eq!(room, 0, "a bundle of other packets");
            count
        }
        _ => 0,
    }
}

/// The frames of a genuine message.
pub(crate) fn frames(message: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let announced = u32::from_be_bytes(rest[1..HEADER].try_into().unwrap()) as usize;
        let (frame, behind) = rest.split_at(HEADER + announced);
        frames.push(frame);
        rest = behind;
    }
    frames
}
