//! What happens to a packet between the TUN and a session: checked, fitted to the session's MTU.

use super::fragment::fragment;
use super::ip::{IpPacket, Malformed};
use super::mss::clamp_mss;
use crate::telemetry::DropReason;

/// Fits packets to the MTU of the session they go to. One for each path, as it keeps the room that
/// fragments are made in.
#[derive(Debug, Default)]
pub struct Egress {
    scratch: Vec<u8>,
}

impl Egress {
    /// Hands a packet to `forward` if it fits `mtu`, the MSS of a SYN lowered to it. A longer one is
    /// handed on in fragments where IPv4 permits.
    ///
    /// `bytes` may be the beginning of a packet that was longer than the room it was read into.
    ///
    /// # Errors
    /// [`DropReason::TooBig`], which the sender is to hear of ([`Router::too_big`](super::Router::too_big)),
    /// and [`DropReason::Malformed`]. Nothing was forwarded.
    pub fn pass(
        &mut self,
        bytes: &mut [u8],
        mtu: u16,
        mut forward: impl FnMut(&[u8]),
    ) -> Result<(), DropReason> {
        let packet = match IpPacket::parse(bytes) {
            Ok(packet) => packet,
            Err(Malformed::Length { announced, arrived })
                if announced > arrived && announced > usize::from(mtu) =>
            {
                return Err(DropReason::TooBig);
            }
            Err(malformed) => return Err(malformed.into()),
        };
        if packet.total_len() <= usize::from(mtu) {
            clamp_mss(bytes, mtu);
            forward(bytes);
            Ok(())
        } else if packet.may_be_fragmented() {
            Ok(fragment(&packet, mtu, &mut self.scratch, forward)?)
        } else {
            Err(DropReason::TooBig)
        }
    }
}
