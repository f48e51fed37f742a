//! What of a packet decides whether it may be joined to others: its flow, its header, its checksum.

use super::checksum::Sum;
use super::header::{
    ACK, ECE, FIN, IPV4_HEADER, IPV4_ID, IPV6_HEADER, Layout, PSH, TCP_FLAGS, TCP_HEADER, TCP_SEQUENCE,
    UDP_CHECKSUM, UDP_HEADER, UDP_LENGTH, get16, get32,
};
use super::offload::Offload;
use super::upper::{TCP, UDP, is_extension};

/// IPv4's flags and the fragment's offset.
const IPV4_FRAGMENT: usize = 6;
const DONT_FRAGMENT: u16 = 0x4000;
/// «More fragments» and the offset.
const PART: u16 = 0x3fff;

/// Which order a packet must keep.
pub(super) enum Place {
    /// That of its flow.
    Flow(Flow),
    /// Its flow is not plain to see (a fragment, options or extension headers before its ports): that of
    /// all between its addresses.
    Unclear,
    /// None: it is neither TCP nor UDP.
    Other,
}

/// What kind of flow a packet is of whose ports are right behind an IP header without options. With
/// [`is_of`](Self::is_of) it is the flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) is_v4: bool,
    pub(super) is_tcp: bool,
}

/// A packet that may be joined to others of its flow, if its checksum is right.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Candidate {
    pub(super) flow: Flow,
    /// Where the payload begins.
    pub(super) payload: usize,
    /// Its length, which is not 0.
    pub(super) payload_len: usize,
    /// The TCP sequence number; 0 of datagrams.
    pub(super) sequence: u32,
    /// The IPv4 id.
    pub(super) id: u16,
    /// The id means nothing, as the packet may not be fragmented.
    pub(super) may_keep_id: bool,
    /// FIN and PSH, which only the last of a group has.
    pub(super) ending: u8,
    /// The checksum is still to be completed, so there is nothing to verify.
    pub(super) is_partial: bool,
}

impl Place {
    #[inline]
    pub(super) fn of(packet: &[u8]) -> Self {
        match packet.first().map_or(0, |first| first >> 4) {
            4 => Self::of_ipv4(packet),
            6 => Self::of_ipv6(packet),
            _ => Self::Other,
        }
    }

    fn of_ipv4(packet: &[u8]) -> Self {
        /// The header with the ports behind it.
        const PORTS: usize = IPV4_HEADER + 4;
        let Some(header) = packet.first_chunk::<IPV4_HEADER>() else { return Self::Other };
        if !matches!(header[9], TCP | UDP) {
            return Self::Other;
        }
        let is_plain = header[0] == 0x45 && get16(header, IPV4_FRAGMENT) & PART == 0 && packet.len() >= PORTS;
        if is_plain { Self::Flow(Flow { is_v4: true, is_tcp: header[9] == TCP }) } else { Self::Unclear }
    }

    fn of_ipv6(packet: &[u8]) -> Self {
        const PORTS: usize = IPV6_HEADER + 4;
        let Some(header) = packet.first_chunk::<IPV6_HEADER>() else { return Self::Other };
        match header[6] {
            protocol @ (TCP | UDP) if packet.len() >= PORTS => {
                Self::Flow(Flow { is_v4: false, is_tcp: protocol == TCP })
            }
            protocol if matches!(protocol, TCP | UDP) || is_extension(protocol) => Self::Unclear,
            _ => Self::Other,
        }
    }
}

impl Flow {
    /// Whether two packets of this kind have the same addresses and ports.
    #[inline]
    pub(super) fn is_of(self, one: &[u8], other: &[u8]) -> bool {
        if self.is_v4 { one[12..24] == other[12..24] } else { one[8..44] == other[8..44] }
    }

    /// Whether another packet, with a whole IP header, is between the same addresses as one of this kind.
    pub(super) fn is_between(self, one: &[u8], other: &[u8]) -> bool {
        let is_v4 = other[0] >> 4 == 4;
        self.is_v4 == is_v4 && if is_v4 { one[12..20] == other[12..20] } else { one[8..40] == other[8..40] }
    }
}

impl Candidate {
    /// `None` where the packet, of this kind of flow, can be joined to nothing.
    #[inline]
    pub(super) fn of(packet: &[u8], offload: Offload, flow: Flow) -> Option<Self> {
        let transport = if flow.is_v4 { IPV4_HEADER } else { IPV6_HEADER };
        let header_len = match flow.is_tcp {
            true => usize::from(*packet.get(transport + 12)? >> 4) * 4,
            false => UDP_HEADER,
        };
        let payload = transport + header_len;
        let payload_len = packet.len().checked_sub(payload).filter(|length| *length > 0)?;
        let candidate = Self { flow, payload, payload_len, ..Self::default() };
        let layout = candidate.layout();
        let partial = Offload::checksum_only(transport as u16, layout.csum_offset() as u16);
        let candidate = Self { is_partial: offload == partial, ..candidate };
        if !(candidate.is_partial || offload.is_none()) {
            return None;
        }
        let candidate =
            if flow.is_v4 { candidate.with_ipv4(packet)? } else { candidate.with_ipv6(packet)? };
        if flow.is_tcp {
            candidate.with_tcp(&packet[transport..])
        } else {
            candidate.with_udp(&packet[transport..])
        }
    }

    fn with_ipv4(self, packet: &[u8]) -> Option<Self> {
        let is_whole = usize::from(get16(packet, 2)) == packet.len();
        // The reserved bit is not set, and the header's checksum is right: a new one would hide that it was not.
        let flags = get16(packet, IPV4_FRAGMENT);
        let is_right = Sum::default().add(&packet[..IPV4_HEADER]).checksum() == 0;
        (is_whole && flags & !DONT_FRAGMENT == 0 && is_right).then_some(Self {
            id: get16(packet, IPV4_ID),
            may_keep_id: flags == DONT_FRAGMENT,
            ..self
        })
    }

    fn with_ipv6(self, packet: &[u8]) -> Option<Self> {
        (usize::from(get16(packet, 4)) == packet.len() - IPV6_HEADER).then_some(self)
    }

    fn with_tcp(self, transport: &[u8]) -> Option<Self> {
        const ENDING: u8 = FIN | PSH;
        // A header of less than its fixed part lies, and may have put the payload anywhere.
        let has_header = self.payload - self.layout().transport >= TCP_HEADER;
        let flags = *transport.get(TCP_FLAGS)?;
        (has_header && flags & !(ENDING | ECE) == ACK).then(|| Self {
            sequence: get32(transport, TCP_SEQUENCE),
            ending: flags & ENDING,
            ..self
        })
    }

    fn with_udp(self, transport: &[u8]) -> Option<Self> {
        // A checksum of 0 is none, which a super-packet cannot say.
        let has_checksum = self.is_partial || get16(transport, UDP_CHECKSUM) != 0;
        (usize::from(get16(transport, UDP_LENGTH)) == transport.len() && has_checksum).then_some(self)
    }

    pub(super) fn layout(&self) -> Layout {
        let Flow { is_v4, is_tcp } = self.flow;
        let transport = if is_v4 { IPV4_HEADER } else { IPV6_HEADER };
        Layout { is_v4, is_tcp, transport, payload: self.payload }
    }

    /// Whether the checksum of this packet is right.
    pub(super) fn verify(&self, packet: &[u8]) -> bool {
        let layout = self.layout();
        let transport = &packet[layout.transport..];
        layout.pseudo_header(packet).add_length(transport.len()).add(transport).checksum() == 0
    }

    /// Whether the headers of two packets of one flow differ only in what segmentation writes.
    #[inline]
    pub(super) fn has_header_of(&self, other: &Self, one: &[u8], two: &[u8]) -> bool {
        let transport = self.layout().transport;
        let same = |from: usize, to: usize| one[from..to] == two[from..to];
        let ip = if self.flow.is_v4 {
            // Version and type of service; «don't fragment»; time to live.
            same(0, 2) && same(IPV4_FRAGMENT, IPV4_FRAGMENT + 3)
        } else {
            // Version, traffic class and flow label; hop limit.
            same(0, 4) && same(7, 8)
        };
        if !self.flow.is_tcp || !ip {
            return ip;
        }
        let flags = transport + TCP_FLAGS;
        // The acknowledgement and the header's length; the window; the urgent pointer and options.
        self.payload == other.payload
            && same(transport + 8, flags)
            && (one[flags] ^ two[flags]) & ECE == 0
            && same(flags + 1, transport + 16)
            && same(transport + 18, self.payload)
    }
}
