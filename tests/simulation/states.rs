//! Every type byte, and every length at the edge of its range, in every state.

use smartvpn::codec::close::CloseCode;
use smartvpn::codec::disconnect::{Disconnect, DisconnectCode};
use smartvpn::codec::frame::FrameType;
use smartvpn::codec::hello::{ClientHello, Features, RejectCode};
use smartvpn::session::{ClientFailure, ClientParams, FEATURES, client};

use crate::oracle::{Rekey, Stage, Up};
use crate::raw::Bench;

/// The states, and the ends that can be in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    ServerStart,
    ServerResumeRefused,
    ClientAwaiting,
    ClientAwaitingResume,
    ServerUnconfirmed,
    ServerUp,
    ClientUp,
    ServerUpWithBundles,
    ServerUpWithRekey,
    ServerRekeying,
    ClientUpWithRekey,
    ClientRekeying,
    DisconnectSeen,
    DisconnectSent,
    ReplacedSent,
}

impl Place {
    const ALL: [Self; 15] = [
        Self::ServerStart,
        Self::ServerResumeRefused,
        Self::ClientAwaiting,
        Self::ClientAwaitingResume,
        Self::ServerUnconfirmed,
        Self::ServerUp,
        Self::ClientUp,
        Self::ServerUpWithBundles,
        Self::ServerUpWithRekey,
        Self::ServerRekeying,
        Self::ClientUpWithRekey,
        Self::ClientRekeying,
        Self::DisconnectSeen,
        Self::DisconnectSent,
        Self::ReplacedSent,
    ];

    fn stage(self) -> Stage {
        match self {
            Self::ServerStart => Stage::Listening,
            Self::ServerResumeRefused => Stage::ResumeRefused,
            Self::ClientAwaiting => Stage::Awaiting,
            Self::ClientAwaitingResume => Stage::AwaitingResume,
            Self::ServerUnconfirmed => Stage::Unconfirmed,
            // Whoever is replaced may still deliver packets, so its frames are read as before.
            Self::ServerUp | Self::ClientUp | Self::ReplacedSent => Stage::Up(Up::default()),
            Self::ServerUpWithBundles => Stage::Up(Up { bundle: true, rekey: Rekey::None }),
            Self::ServerUpWithRekey => Stage::Up(Up { bundle: true, rekey: Rekey::Ready }),
            Self::ServerRekeying => Stage::Up(Up { bundle: true, rekey: Rekey::UnderWay }),
            Self::ClientUpWithRekey => Stage::Up(Up { bundle: true, rekey: Rekey::None }),
            Self::ClientRekeying => Stage::Up(Up { bundle: true, rekey: Rekey::Asked }),
            Self::DisconnectSeen | Self::DisconnectSent => Stage::Closed,
        }
    }

    /// How an end in this state closes after `message`; `None` if it goes on.
    fn feed(self, bench: &mut Bench, mut message: Vec<u8>) -> Option<u16> {
        let now = bench.now;
        let outcome = match self {
            Self::ServerStart => bench.open(message).map(drop),
            Self::ServerResumeRefused => {
                let listening = bench.resume_refused(RejectCode::TicketInvalid);
                listening.handle_message(now, &mut bench.rng, &mut bench.replay, &mut message).map(drop)
            }
            Self::ClientAwaiting | Self::ClientAwaitingResume => {
                let params = match self {
                    Self::ClientAwaiting => bench.params(),
                    _ => bench.resume_params(),
                };
                let (awaiting, _) = client::start(params, &mut bench.rng).unwrap();
                match awaiting.handle_message(now, &mut bench.rng, &mut message) {
                    Err(ClientFailure::Broken { reason, .. }) => Err(reason),
                    other => panic!("{other:?}"),
                }
            }
            Self::ServerUnconfirmed => {
                let (unconfirmed, _) = bench.unconfirmed();
                unconfirmed
                    .handle_message(now, &mut bench.rng, &mut message, |_| panic!("a packet"))
                    .map(drop)
            }
            Self::ServerUp => bench.server().0.handle_message(now, &mut message, |_| panic!("a packet")),
            Self::ClientUp => {
                let (mut session, mut raw) = bench.client(bench.params());
                raw.take(&mut session);
                session.handle_message(now, &mut message, |_| panic!("a packet"))
            }
            Self::ServerUpWithBundles => {
                let (mut session, _) = bench.server_with(Features { rekey: false, ..FEATURES });
                session.handle_message(now, &mut message, |_| panic!("a packet"))
            }
            Self::ServerUpWithRekey => {
                let (mut session, _) = bench.server_with(FEATURES);
                session.handle_message(now, &mut message, |_| panic!("a packet"))
            }
            Self::ServerRekeying => {
                bench.rekeying().1.handle_message(now, &mut message, |_| panic!("a packet"))
            }
            Self::ClientUpWithRekey => {
                let hello = ClientHello { features: FEATURES, ..ClientHello::default() };
                let (mut session, mut raw) = bench.client(ClientParams { hello, ..bench.params() });
                raw.take(&mut session);
                session.handle_message(now, &mut message, |_| panic!("a packet"))
            }
            Self::ClientRekeying => {
                bench.rekeying().0.handle_message(now, &mut message, |_| panic!("a packet"))
            }
            Self::DisconnectSeen => {
                let (mut session, mut raw) = bench.server();
                let last = Disconnect { code: DisconnectCode::ClientDisconnect, message: String::new() };
                let mut last = raw.seal(FrameType::Disconnect, &last.encode());
                session.handle_message(now, &mut last, |_| {}).unwrap();
                session.handle_message(now, &mut message, |_| panic!("a packet"))
            }
            Self::DisconnectSent => {
                let (mut session, _) = bench.server();
                session.disconnect(DisconnectCode::Kicked, "");
                session.handle_message(now, &mut message, |_| panic!("a packet"))
            }
            Self::ReplacedSent => {
                let (mut session, _) = bench.server();
                session.disconnect(DisconnectCode::Replaced, "");
                session.handle_message(now, &mut message, |_| panic!("a packet"))
            }
        };
        outcome.err().map(|error| error.close_code().as_u16())
    }
}

fn forged(kind: u8, length: usize) -> Vec<u8> {
    let announced = u32::try_from(length).unwrap().to_be_bytes();
    [&[kind], &announced[..], &vec![0; length]].concat()
}

#[test]
fn every_type_in_every_state() {
    let mut bench = Bench::new();
    for place in Place::ALL {
        let stage = place.stage();
        for kind in 0..=u8::MAX {
            let message = forged(kind, *stage.lengths(kind).start());
            let expected = match stage {
                Stage::Closed => None,
                _ if !stage.allows(kind) => Some(1002),
                // Zeros are no JSON.
                _ if stage.takes_plain_disconnect() && kind == 0x3f => Some(1002),
                // Allowed, but zeros do not open.
                _ => Some(1008),
            };
            assert_eq!(place.feed(&mut bench, message), expected, "{kind:#04x} in {place:?}");
        }
    }
}

#[test]
fn every_length_at_the_edge_in_every_state() {
    let mut bench = Bench::new();
    for place in Place::ALL {
        let stage = place.stage();
        if stage == Stage::Closed {
            continue;
        }
        for kind in (0..=u8::MAX).filter(|kind| stage.allows(*kind)) {
            let (least, most) = stage.lengths(kind).into_inner();
            let fits = if stage.takes_plain_disconnect() && kind == 0x3f { 1002 } else { 1008 };
            let lengths = [(0, 1002), (least - 1, 1002), (least, fits), (most, fits), (most + 1, 1002)];
            for (length, close) in lengths {
                let closed = place.feed(&mut bench, forged(kind, length));
                assert_eq!(closed, Some(close), "{kind:#04x} of {length} in {place:?}");
            }
            // A length that no message can have: found from the header alone.
            let endless = [kind, 0xff, 0xff, 0xff, 0xff].to_vec();
            assert_eq!(place.feed(&mut bench, endless), Some(1002));
        }
    }
}

#[test]
fn empty_and_partial_messages_in_every_state() {
    let mut bench = Bench::new();
    for place in Place::ALL {
        let stage = place.stage();
        let expected = (stage != Stage::Closed).then_some(CloseCode::ProtocolError.as_u16());
        assert_eq!(place.feed(&mut bench, Vec::new()), expected, "{place:?}");
        for kind in [0x01, 0x02, 0x03, 0x10, 0x20, 0x30, 0x31, 0x32, 0x3f, 0x40, 0x41] {
            let whole = forged(kind, *stage.lengths(kind).start());
            for length in [1, 4, 5, whole.len() - 1] {
                let closed = place.feed(&mut bench, whole[..length].to_vec());
                assert_eq!(closed, expected, "{length} bytes of {kind:#04x} in {place:?}");
            }
        }
    }
}
