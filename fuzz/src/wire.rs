//! Frames, hellos and tickets (PROTOCOL §§2, 3, 8).

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use smartvpn::codec::claims::Claims;
use smartvpn::codec::disconnect::Disconnect;
use smartvpn::codec::frame::{FrameSet, FrameType, HEADER_LEN, header, split_frame};
use smartvpn::codec::hello::{ClientHello, Features, ServerHello, VERSION};
use smartvpn::codec::secret::Ticket;
use smartvpn::crypto::keys::PrivateKey;
use smartvpn::crypto::ticket::TicketKey;

use super::input::Input;

/// What each state accepts by PROTOCOL §2, and whether its Disconnect is the plain one.
const STATES: [(&[u8], bool); 10] = [
    (&[0x01, 0x03, 0x30], false),
    (&[0x01, 0x03], false),
    (&[], true),
    (&[0x02], true),
    (&[0x31, 0x32], true),
    (&[0x20], false),
    (&[0x10, 0x20, 0x21, 0x3f], false),
    (&[0x10, 0x11, 0x20, 0x21, 0x3f], false),
    (&[0x10, 0x11, 0x20, 0x21, 0x3f, 0x40], false),
    (&[0x10, 0x11, 0x20, 0x21, 0x3f, 0x41], false),
];

/// A message in each state: its frames are those that the table of PROTOCOL §2 lets pass, one after the other.
pub fn frames(data: &[u8]) {
    let Some((state, bytes)) = data.split_first() else { return };
    let (types, plain) = STATES[usize::from(*state) % STATES.len()];
    let kinds: Vec<_> = types.iter().filter_map(|byte| FrameType::from_byte(*byte)).collect();
    let allowed = FrameSet::of(&kinds);
    let allowed = if plain { allowed.with_plain_disconnect() } else { allowed };
    let mut message = bytes.to_vec();
    let (mut rest, mut expected) = (&mut message[..], bytes);
    loop {
        let length = passes(expected, types, plain);
        match split_frame(rest, allowed) {
            Ok((frame, behind)) => {
                assert_eq!(Some(frame.payload.len()), length);
                assert_eq!(frame.header, expected[..HEADER_LEN]);
                assert_eq!(frame.header, header(frame.kind, frame.payload.len()));
                let end = HEADER_LEN + frame.payload.len();
                assert_eq!(frame.payload, &expected[HEADER_LEN..end]);
                if plain && frame.kind == FrameType::Disconnect {
                    disconnect(frame.payload);
                }
                (rest, expected) = (behind, &expected[end..]);
            }
            Err(error) => {
                assert_eq!(length, None, "{error}");
                assert_eq!(error.close_code().as_u16(), 1002);
                return;
            }
        }
    }
}

/// The payload's length of the frame that begins here, if there is a whole one and it may.
fn passes(bytes: &[u8], types: &[u8], plain: bool) -> Option<usize> {
    let &[kind, a, b, c, d, ..] = bytes else { return None };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let range = match kind {
        0x3f if plain => 2..=1024,
        _ if !types.contains(&kind) => return None,
        0x01..=0x03 | 0x31 | 0x32 => 49..=8192,
        0x30 => 50..=8192,
        0x10 => 40..=65_575,
        0x11 => 45..=131_072,
        0x20 | 0x21 => 48..=48,
        0x3f => 42..=1064,
        _ => 89..=8192,
    };
    (range.contains(&length) && bytes.len() >= HEADER_LEN + length).then_some(length)
}

/// What is written of a Disconnect that was read says the same.
fn disconnect(payload: &[u8]) {
    if let Ok(read) = Disconnect::parse(payload) {
        assert!(read.message.chars().count() <= 256);
        assert_eq!(Disconnect::parse(&read.encode()), Ok(read));
    }
}

/// What is read of a client's hello is written, and read again.
pub fn client_hello(data: &[u8]) {
    let Ok(hello) = ClientHello::parse(data) else { return };
    if hello.version != VERSION {
        return;
    }
    assert!(hello.mtu.is_none_or(|mtu| mtu >= 576));
    assert!(hello.name.as_ref().is_none_or(|name| name.chars().count() <= 64));
    assert_eq!(ClientHello::parse(&hello.encode()), Ok(hello));
}

/// The same of a server's hello, of an answer to any offer.
pub fn server_hello(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let offered = Features { bundle: flags & 1 != 0, offload: flags & 2 != 0, rekey: flags & 4 != 0 };
    let kem = flags & 8 != 0;
    let Ok(hello) = ServerHello::parse(input.0, offered, kem) else { return };
    if let ServerHello::Accepted(accepted) = &hello {
        assert_eq!(
            accepted.features,
            accepted.features.intersection(offered),
            "a feature that was not offered"
        );
        assert!(kem || accepted.mlkem768.is_none());
        assert!((576..).contains(&accepted.mtu) && (5..=120).contains(&accepted.keepalive_interval_secs));
        assert!(accepted.v6.is_none() || accepted.mtu >= 1280);
        assert!(accepted.dns.len() <= 8);
    }
    assert_eq!(ServerHello::parse(&hello.encode(), offered, kem), Ok(hello));
}

/// No ticket opens that was not sealed; claims that are read survive a ticket.
pub fn claims(data: &[u8]) {
    let key = TicketKey::derive(&PrivateKey::from_bytes([7; 32]));
    if let Some(ticket) = Ticket::new(data.to_vec()) {
        assert_eq!(key.open(&ticket), None, "a forged ticket");
    }
    let Ok(claims) = Claims::parse(data) else { return };
    assert_eq!(Claims::parse(&claims.encode()).as_ref(), Ok(&claims));
    let mut rng = StdRng::seed_from_u64(data.len() as u64);
    let Some(ticket) = key.seal(&claims, &mut rng) else { panic!("claims that do not fit into a ticket") };
    assert_eq!(key.open(&ticket), Some(claims));
    // Changed anywhere, it is void.
    let mut changed = ticket.expose().to_vec();
    let at = usize::from(data.last().copied().unwrap_or_default()) % changed.len();
    changed[at] ^= 1;
    assert_eq!(Ticket::new(changed).and_then(|ticket| key.open(&ticket)), None);
}
