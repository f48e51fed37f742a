//! Bundles and offload headers: when they are in force, and what a session makes of packets then.

use smartvpn::codec::bundle::put_record;
use smartvpn::codec::frame::FrameType;
use smartvpn::codec::hello::{ClientHello, Features};
use smartvpn::crypto::seal::SealError;
use smartvpn::packet::Offload;
use smartvpn::session::{ClientParams, FEATURES, Session, SessionError, client};

use crate::ends::{accepted, in_force};
use crate::raw::{Bench, Raw};

const NONE: Features = Features::NONE;
const BUNDLE: Features = Features { bundle: true, ..NONE };
const OFFLOAD: Features = Features { offload: true, ..NONE };
const REKEY: Features = Features { rekey: true, ..NONE };
const BOTH: Features = Features { bundle: true, offload: true, ..NONE };

const GSO: Offload = Offload::tcp(false, false, 20, 40, 1380);

type Packets = Vec<(Vec<u8>, Offload)>;

/// Sessions of both ends whose client offered these features, each with its peer made by hand.
fn sessions(bench: &mut Bench, offered: Features) -> [(Session, Raw); 2] {
    let hello = ClientHello { features: offered, ..ClientHello::default() };
    let (mut client, mut raw) = bench.client(ClientParams { hello, ..bench.params() });
    raw.take(&mut client);
    [(client, raw), bench.server_with(offered)]
}

fn seal(bench: &Bench, session: &mut Session, packets: &Packets) -> (Vec<u8>, Result<(), SessionError>) {
    let mut out = Vec::new();
    let packets = packets.iter().map(|(packet, offload)| (packet.as_slice(), *offload));
    let outcome = session.seal_packets(bench.now, packets, &mut out);
    (out, outcome)
}

/// The frames that these packets become: type and plaintext.
fn frames(bench: &Bench, (session, raw): &mut (Session, Raw), packets: &Packets) -> Vec<(u8, Vec<u8>)> {
    let (out, outcome) = seal(bench, session, packets);
    outcome.unwrap();
    raw.open(&out)
}

/// What a message delivers, and how the session closes then.
fn receive(bench: &Bench, session: &mut Session, mut message: Vec<u8>) -> (Packets, Option<u16>) {
    let mut delivered = Vec::new();
    let outcome = session.handle_message(bench.now, &mut message, |record| {
        delivered.push((record.packet.to_vec(), record.offload));
    });
    (delivered, outcome.err().map(|error| error.close_code().as_u16()))
}

fn plain(packets: &[&[u8]]) -> Packets {
    packets.iter().map(|packet| (packet.to_vec(), Offload::NONE)).collect()
}

fn records(packets: &Packets) -> Vec<u8> {
    let mut plaintext = Vec::new();
    packets.iter().for_each(|(packet, offload)| put_record(packet, *offload, &mut plaintext));
    plaintext
}

#[test]
fn what_is_offered_and_known_is_in_force() {
    let mut bench = Bench::new();
    for (offered, expected) in [
        (NONE, NONE),
        (BUNDLE, BUNDLE),
        (OFFLOAD, NONE),
        (BOTH, BOTH),
        (REKEY, REKEY),
        (Features { rekey: true, ..OFFLOAD }, REKEY),
        (Features { rekey: true, ..BUNDLE }, Features { rekey: true, ..BUNDLE }),
        (FEATURES, FEATURES),
    ] {
        assert_eq!(in_force(offered), expected, "what the other tests expect");
        for (session, _) in sessions(&mut bench, offered) {
            assert_eq!(session.features(), expected, "{offered:?}");
        }
        let hello = ClientHello { features: offered, ..ClientHello::default() };
        let params = ClientParams { hello, ..bench.params() };
        let (awaiting, message1) = client::start(params, &mut bench.rng).unwrap();
        let (_, mut message2) = bench.answer(message1);
        let connected = awaiting.handle_message(bench.now, &mut bench.rng, &mut message2).unwrap();
        assert_eq!((connected.session.features(), connected.hello.features), (expected, expected));
        assert_eq!(accepted().features, NONE, "what the server's owner says of them does not count");
    }
    assert_eq!(FEATURES, Features { rekey: true, ..BOTH });
}

#[test]
fn packets_that_leave_together_are_one_frame_where_bundles_are_in_force() {
    let mut bench = Bench::new();
    let packets = plain(&[b"one", &[2; 1420], b"3"]);
    let together = [(0x11, records(&packets))];
    let each = packets.iter().map(|(packet, _)| (0x10, packet.clone())).collect::<Vec<_>>();
    for (offered, expected) in
        [(NONE, &each[..]), (OFFLOAD, &each), (BUNDLE, &together), (BOTH, &together), (FEATURES, &together)]
    {
        for mut ends in sessions(&mut bench, offered) {
            assert_eq!(frames(&bench, &mut ends, &packets), expected, "{offered:?}");
            let lone = plain(&[b"lone"]);
            assert_eq!(frames(&bench, &mut ends, &lone), [(0x10, b"lone".to_vec())]);
            assert_eq!(frames(&bench, &mut ends, &Vec::new()), []);
        }
    }
}

#[test]
fn a_super_packet_goes_whole_or_not_at_all() {
    let mut bench = Bench::new();
    let long = (vec![7; 60_000], GSO);
    let partial = (b"a sum to come".to_vec(), Offload::checksum_only(20, 16));
    let before = plain(&[b"before"]);
    for mut ends in sessions(&mut bench, BOTH) {
        for lone in [&long, &partial] {
            let alone = vec![lone.clone()];
            assert_eq!(frames(&bench, &mut ends, &alone), [(0x11, records(&alone))]);
        }
        let all = [before.clone(), vec![long.clone(), partial.clone()], before.clone()].concat();
        assert_eq!(frames(&bench, &mut ends, &all), [(0x11, records(&all))]);
    }
    for offered in [NONE, OFFLOAD, BUNDLE] {
        for (mut session, mut raw) in sessions(&mut bench, offered) {
            for refused in [&long, &partial] {
                let (out, outcome) = seal(&bench, &mut session, &vec![refused.clone()]);
                assert!(
                    matches!(outcome, Err(SessionError::Seal(SealError::OffloadNotInForce))),
                    "{outcome:?}"
                );
                assert!(out.is_empty());
                let (out, outcome) =
                    seal(&bench, &mut session, &[before.clone(), vec![refused.clone()]].concat());
                assert_eq!(outcome.unwrap_err().close_code().as_u16(), 1011);
                // The frames before stand; the next one has the next counter.
                let delivered: Vec<_> = raw.open(&out).into_iter().map(|(kind, _)| kind).collect();
                assert_eq!(delivered, [if in_force(offered).bundle { 0x11 } else { 0x10 }], "{offered:?}");
                let (out, outcome) = seal(&bench, &mut session, &before);
                assert_eq!((outcome.is_ok(), raw.open(&out)), (true, vec![(0x10, b"before".to_vec())]));
            }
        }
    }
}

#[test]
fn what_one_frame_does_not_take_is_in_the_next() {
    let mut bench = Bench::new();
    let kinds = |frames: &[(u8, Vec<u8>)]| frames.iter().map(|(kind, _)| *kind).collect::<Vec<_>>();
    for mut ends in sessions(&mut bench, FEATURES) {
        let longest = vec![(vec![1; 65_535], GSO); 3];
        let made = frames(&bench, &mut ends, &longest);
        assert_eq!(kinds(&made), [0x11, 0x11, 0x11]);
        assert!(made.iter().all(|(_, plaintext)| *plaintext == records(&longest[..1].to_vec())));

        // A last one that is plain needs no bundle.
        let made = frames(&bench, &mut ends, &plain(&[&[2; 65_535], &[3; 65_535]]));
        assert_eq!(kinds(&made), [0x11, 0x10]);

        let many = plain(&[&[4; 1420][..]; 100]);
        let made = frames(&bench, &mut ends, &many);
        assert_eq!(kinds(&made), [0x11, 0x11]);
        assert!(made[0].1.len() + 40 <= 131_072 && made[0].1.len() > 131_072 - 40 - 2 * 1420);
        assert_eq!([made[0].1.clone(), made[1].1.clone()].concat(), records(&many));
    }
}

#[test]
fn what_no_record_takes_is_refused() {
    let mut bench = Bench::new();
    for (mut session, mut raw) in sessions(&mut bench, FEATURES) {
        for (packet, offload) in [(vec![0; 65_536], Offload::NONE), (vec![0; 65_536], GSO), (vec![], GSO)] {
            for place in 0..2 {
                let mut packets = plain(&[b"before"]);
                packets.insert(place, (packet.clone(), offload));
                let (out, outcome) = seal(&bench, &mut session, &packets);
                assert!(matches!(outcome, Err(SessionError::Seal(SealError::Length { .. }))), "{outcome:?}");
                assert_eq!(raw.open(&out).len(), place, "what was before it stands");
            }
        }
    }
}

#[test]
fn a_bundle_delivers_its_records_in_order_with_their_offload_headers() {
    let mut bench = Bench::new();
    // None of it is a packet: what they hold is not the session's business.
    let packets = vec![
        (b"no packet".to_vec(), Offload::NONE),
        (vec![0], Offload::from_wire([0xff; 10])),
        (vec![1; 65_535], GSO),
        (b"last".to_vec(), Offload::checksum_only(60_000, 3)),
    ];
    for (mut session, mut raw) in sessions(&mut bench, FEATURES) {
        let message = [
            raw.seal(FrameType::IpBundle, &records(&packets)),
            raw.seal(FrameType::IpPacket, b"behind"),
            raw.seal(FrameType::IpBundle, &records(&plain(&[b"again"]))),
        ];
        let expected = [packets.clone(), plain(&[b"behind", b"again"])].concat();
        assert_eq!(receive(&bench, &mut session, message.concat()), (expected, None));
    }
    // Without offload in force a bundle is plain.
    for (mut session, mut raw) in sessions(&mut bench, BUNDLE) {
        let good = plain(&[b"one", b"two"]);
        let message = raw.seal(FrameType::IpBundle, &records(&good));
        assert_eq!(receive(&bench, &mut session, message), (good, None));
        let bad = raw.seal(FrameType::IpBundle, &records(&packets));
        assert_eq!(receive(&bench, &mut session, bad), (vec![], Some(1002)));
    }
}

#[test]
fn a_bundle_that_is_not_in_force_closes() {
    let mut bench = Bench::new();
    for offered in [NONE, OFFLOAD, REKEY] {
        for (mut session, mut raw) in sessions(&mut bench, offered) {
            let message = [
                raw.seal(FrameType::IpPacket, b"before"),
                raw.seal(FrameType::IpBundle, &records(&plain(&[b"bundled"]))),
            ];
            let outcome = receive(&bench, &mut session, message.concat());
            assert_eq!(outcome, (plain(&[b"before"]), Some(1002)), "{offered:?}");
        }
    }
}

#[test]
fn a_malformed_bundle_closes_and_none_of_it_is_delivered() {
    let mut bench = Bench::new();
    let good = records(&plain(&[b"good", b"as well"]));
    for tail in [
        &[0, 0, 0][..],
        &[0, 0, 0, 2, 1],
        &[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 0, 0],
        &[0, 1, 0, 0, 1],
        &[0x40, 0, 0, 1, 1],
        &[0x01, 0, 0, 1, 1],
    ] {
        for (mut session, mut raw) in sessions(&mut bench, FEATURES) {
            let message = [
                raw.seal(FrameType::IpPacket, b"before"),
                raw.seal(FrameType::IpBundle, &good),
                raw.seal(FrameType::IpBundle, &[&good, tail].concat()),
                raw.seal(FrameType::IpPacket, b"behind"),
            ];
            let outcome = receive(&bench, &mut session, message.concat());
            assert_eq!(outcome, (plain(&[b"before", b"good", b"as well"]), Some(1002)), "{tail:?}");
            assert_eq!(receive(&bench, &mut session, raw.seal(FrameType::IpPacket, b"late")), (vec![], None));
        }
    }
}
