//! Published test vectors through the public API: `vectors/wire.json`, which an independent
//! implementation of PROTOCOL.md made, and the Noise vectors that snow ships.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at what it does not expect, and may begin at any time"
)]

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chacha20poly1305::aead::{Aead as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use ml_kem::DecapsulationKey768;
use ml_kem::kem::KeyExport as _;
use rand_core::{TryCryptoRng, TryRng};
use serde_json::Value;
use smartvpn::codec::bundle::{Records, put_record};
use smartvpn::codec::frame::{FrameSet, FrameType, header, read_header, split_frame};
use smartvpn::codec::hello::{ClientHello, Features, ServerHello, VERSION};
use smartvpn::codec::rekey_hello::RekeyHello;
use smartvpn::crypto::kem::{KemKey, encapsulate};
use smartvpn::crypto::keys::{Keypair, PrivateKey, PublicKey};
use smartvpn::crypto::noise::{self, Pattern};
use smartvpn::crypto::seal::{Opener, Sealer};
use smartvpn::crypto::traffic::{Handshake, TrafficKey, TrafficKeys};
use smartvpn::packet::{IpPacket, Offload, segment};
use smartvpn::session::{Listening, Opened, ReplayCache};
use smartvpn::telemetry::DropReason;

/// Rows that the tests of the transport run.
const TRANSPORT_ROWS: [&str; 5] = [
    "WebSocket accept (RFC 6455 §1.3)",
    "WebSocket binary, server",
    "WebSocket binary, client",
    "WebSocket binary, 126 bytes",
    "WebSocket ping",
];

#[test]
fn wire() {
    let rows: Vec<Value> = serde_json::from_str(include_str!("vectors/wire.json")).unwrap();
    let mut listed = BTreeSet::from(TRANSPORT_ROWS);
    assert_eq!(listed.len(), TRANSPORT_ROWS.len(), "a row is listed twice");
    let mut names = BTreeSet::new();
    for row in &rows {
        let name = text(&row["name"]);
        assert!(names.insert(name), "two rows are called {name}");
        let run: fn(&Value, &Value) = match text(&row["kind"]) {
            "keypair" => keypair,
            "handshake" => handshake,
            "kem" => kem,
            "keys" => traffic_keys,
            "seal" => seal,
            "receive" => receive,
            "head" => head,
            "client_hello" => client_hello,
            "server_hello" => server_hello,
            "segments" => segments,
            "bundle" => bundle,
            "read_records" => read_records,
            kind => {
                assert!(listed.remove(name), "the row {name} of kind {kind} is neither run nor listed");
                continue;
            }
        };
        assert!(!listed.contains(name), "the row {name} is run and need not be listed");
        println!("{name}");
        run(&row["in"], &row["out"]);
    }
    assert!(listed.is_empty(), "no such rows: {listed:?}");
}

fn keypair(input: &Value, out: &Value) {
    assert_eq!(pair(&input["private"]).public.as_bytes()[..], bytes(&out["public"]));
}

fn handshake(input: &Value, out: &Value) {
    let pattern = pattern(&input["pattern"]);
    let kind = frame_type(&input["type"]);
    let prologue = match input.get("sessionH") {
        None => noise::prologue(kind, pattern).to_vec(),
        Some(h) => noise::rekey_prologue(pattern, &array(h)).to_vec(),
    };
    assert_eq!(prologue, bytes(&out["prologue"]));

    let server = pair(&input["serverPrivate"]);
    let client = input.get("clientPrivate").map(pair);
    let payload1 = text(&input["clientHello"]).as_bytes();
    let payload2 = text(&input["serverHello"]).as_bytes();
    let mut client_rng = Fixed(array(&input["clientEphemeral"]));
    let mut server_rng = Fixed(array(&input["serverEphemeral"]));
    let (initiated, message1) =
        noise::initiate_with(pattern, &prologue, client.as_ref(), &server.public, payload1, &mut client_rng)
            .unwrap();
    assert_eq!(message1, bytes(&out["noiseMessage1"]));
    if kind != FrameType::RekeyInit {
        let (_, same) =
            noise::initiate(pattern, kind, client.as_ref(), &server.public, payload1, &mut client_rng)
                .unwrap();
        assert_eq!(same, message1);
        noise::respond(pattern, kind, &server, &message1).unwrap();
    }

    let (responding, opened1) = noise::respond_with(pattern, &prologue, &server, &message1).unwrap();
    assert_eq!(opened1.as_slice(), payload1);
    assert_eq!(responding.ephemeral()[..], message1[..32]);
    assert_eq!(responding.client_key(), client.map(|pair| pair.public));
    let (message2, at_server) = responding.finish(payload2, &mut server_rng).unwrap();
    assert_eq!(message2, bytes(&out["noiseMessage2"]));
    let (opened2, at_client) = initiated.finish(&message2).unwrap();
    assert_eq!(opened2.as_slice(), payload2);
    for end in [at_server, at_client] {
        let (k1, k2) = end.expose();
        assert_eq!((k1[..].to_vec(), k2[..].to_vec()), (bytes(&out["k1"]), bytes(&out["k2"])));
        assert_eq!(end.hash[..], bytes(&out["h"]));
        derives(&end, input, out);
    }
    hellos_parse(kind, payload1, payload2);
    let prefix: &[u8] = if matches!(kind as u8, 0x30 | 0x40) { &[pattern as u8] } else { &[] };
    let payload1 = [prefix, &message1].concat();
    if kind == FrameType::RekeyInit {
        assert_eq!((payload1, message2), (bytes(&out["plaintext1"]), bytes(&out["plaintext2"])));
    } else {
        assert_eq!(frame(kind, &payload1), bytes(&out["frame1"]));
        assert_eq!(frame(frame_type(&input["answerType"]), &message2), bytes(&out["frame2"]));
        session_opens(input, bytes(&out["frame1"]));
    }
}

/// A server's session layer knows the frame with message 1, and who sent it.
fn session_opens(input: &Value, mut frame1: Vec<u8>) {
    let mut replay = ReplayCache::new(Duration::from_secs(10));
    let listening = Listening::new(Arc::new(pair(&input["serverPrivate"])));
    let mut rng = Fixed(array(&input["serverEphemeral"]));
    let opened = listening.handle_message(Instant::now(), &mut rng, &mut replay, &mut frame1).unwrap();
    let Opened::Request(request) = opened else { panic!("refused") };
    assert_eq!(request.pattern(), pattern(&input["pattern"]));
    assert_eq!(request.client_key(), input.get("clientPrivate").map(|key| pair(key).public));
    assert_eq!(request.is_resume(), frame_type(&input["type"]) == FrameType::SessionResume);
    assert_eq!(request.is_hybrid(), input.get("ss").is_some());
}

/// The hellos of a handshake row are hellos, and encoding and parsing them again changes nothing.
fn hellos_parse(kind: FrameType, payload1: &[u8], payload2: &[u8]) {
    let client = ClientHello::parse(payload1).unwrap();
    assert_eq!(ClientHello::parse(&client.encode()).as_ref(), Ok(&client));
    let kem = client.mlkem768.is_some();
    if kind == FrameType::RekeyInit {
        let client = RekeyHello::parse_init(payload1).unwrap();
        assert_eq!(client.encode().as_slice(), payload1);
        let server = RekeyHello::parse_resp(payload2, kem).unwrap().unwrap();
        assert_eq!((server.mlkem768.is_some(), server.encode().as_slice()), (kem, payload2));
    } else {
        let server = ServerHello::parse(payload2, client.features, kem).unwrap();
        assert_eq!(ServerHello::parse(&server.encode(), client.features, kem), Ok(server));
    }
}

/// aws-lc takes no randomness from its caller, so the other implementation makes key and ciphertext of the seeds, and
/// ours finds the secret in them. That ours makes such ciphertexts too, the tests beside it show.
#[expect(deprecated, reason = "aws-lc takes private keys in the expanded form")]
fn kem(input: &Value, out: &Value) {
    use ml_kem::ExpandedKeyEncoding as _;

    let theirs = DecapsulationKey768::from_seed(array(&input["seed"]).into());
    let public = theirs.encapsulation_key();
    assert_eq!(public.to_bytes()[..], bytes(&out["encapsulationKey"]));
    let (ciphertext, secret) = public.encapsulate_deterministic(&array(&input["m"]).into());
    assert_eq!(
        (ciphertext.to_vec(), secret.to_vec()),
        (bytes(&out["ciphertext"]), bytes(&out["sharedSecret"]))
    );

    let ours = KemKey::from_expanded(&theirs.to_expanded_bytes()).unwrap();
    assert_eq!(ours.public_bytes(), bytes(&out["encapsulationKey"]));
    let found = ours.decapsulate(&bytes(&out["ciphertext"])).unwrap();
    assert_eq!(found.expose()[..], bytes(&out["sharedSecret"]));

    let (ciphertext, secret) = encapsulate(&bytes(&out["encapsulationKey"])).unwrap();
    assert_eq!(ours.decapsulate(&ciphertext).unwrap().expose(), secret.expose());
}

fn traffic_keys(input: &Value, out: &Value) {
    let k = |name: &str| array(&input[name]);
    derives(&Handshake::from_parts(k("k1"), k("k2"), k("h")), input, out);
}

fn derives(handshake: &Handshake, input: &Value, out: &Value) {
    let ss = input.get("ss").map(bytes).unwrap_or_default();
    let keys = TrafficKeys::derive(handshake, &ss);
    assert_eq!(keys.client_to_server.expose()[..], bytes(&out["clientToServerKey"]));
    assert_eq!(keys.server_to_client.expose()[..], bytes(&out["serverToClientKey"]));
}

fn seal(input: &Value, out: &Value) {
    let key = TrafficKey::from_bytes(array(&input["key"]));
    let (prefix, counter) = (array(&input["prefix"]), input["counter"].as_u64().unwrap());
    let kind = frame_type(&input["type"]);
    let plaintext = bytes(&input["plaintext"]);
    let mut frame = Vec::new();
    Sealer::at(&key, prefix, counter).seal(kind, &plaintext, &mut frame).unwrap();
    assert_eq!(frame, bytes(&out["frame"]));
    let parts = ["aad", "nonce", "ciphertext", "tag"].map(|part| bytes(&out[part]));
    assert_eq!(frame, parts.concat());

    let (frame, rest) = split_frame(&mut frame, FrameSet::of(&[kind])).unwrap();
    assert!(rest.is_empty());
    let mut opener = Opener::at(&key, prefix, counter);
    assert_eq!(opener.open(&frame.header, frame.payload).unwrap(), plaintext);
}

fn receive(input: &Value, out: &Value) {
    const UP: FrameSet = FrameSet::of(&[FrameType::Keepalive, FrameType::KeepaliveAck]);
    let mut opener = Opener::new(&TrafficKey::from_bytes(array(&input["key"])));
    let frames = input["frames"].as_array().unwrap();
    let expected = out.as_array().unwrap();
    assert_eq!(frames.len(), expected.len());
    for (frame, expected) in frames.iter().zip(expected) {
        let mut frame = bytes(frame);
        let outcome = match split_frame(&mut frame, UP) {
            Err(error) => close(error.close_code().as_u16()),
            Ok((frame, _)) => match opener.open(&frame.header, frame.payload) {
                Ok(plaintext) => hex(plaintext),
                Err(error) => close(error.close_code().as_u16()),
            },
        };
        assert_eq!(outcome, text(expected));
    }
}

fn head(input: &Value, out: &Value) {
    let allowed: Vec<FrameType> = input["allowed"].as_array().unwrap().iter().map(frame_type).collect();
    let outcome = match read_header(array(&input["header"]), FrameSet::of(&allowed)) {
        Ok(_) => "read on".to_owned(),
        Err(error) => close(error.close_code().as_u16()),
    };
    assert_eq!(outcome, text(out));
}

fn client_hello(input: &Value, out: &Value) {
    let outcome = match ClientHello::parse(text(&input["text"]).as_bytes()) {
        Ok(hello) if hello.version == VERSION => "accept",
        Ok(_) => "reject unsupported-version",
        Err(_) => "reject bad-request",
    };
    assert_eq!(outcome, text(out));
}

fn server_hello(input: &Value, out: &Value) {
    let offered: Vec<&str> = input["offered"].as_array().unwrap().iter().map(text).collect();
    let offered = Features {
        bundle: offered.contains(&"bundle"),
        offload: offered.contains(&"offload"),
        rekey: offered.contains(&"rekey"),
    };
    let kem = input["kem"].as_bool().unwrap();
    let outcome = match ServerHello::parse(text(&input["text"]).as_bytes(), offered, kem) {
        Ok(ServerHello::Accepted(_)) => "accept".to_owned(),
        Ok(ServerHello::Rejected(rejection)) => format!("rejection {}", rejection.code.as_str()),
        Err(_) => close(1002),
    };
    assert_eq!(outcome, text(out));
}

fn segments(input: &Value, out: &Value) {
    let mut packet = bytes(&input["packet"]);
    let mtu = input["mtu"].as_u64().unwrap().try_into().unwrap();
    let offload = offload(&input["offload"]);
    let checked = IpPacket::parse(&packet)
        .map_err(|_| DropReason::Malformed)
        .and_then(|packet| offload.check(&packet, mtu));
    match (checked, out.as_array()) {
        (Ok(()), Some(expected)) => {
            let mut made = Vec::new();
            segment(&mut packet, offload, &mut Vec::new(), |segment| made.push(hex(segment)));
            assert_eq!(made, expected.iter().map(text).collect::<Vec<_>>());
        }
        (outcome, _) => assert_eq!(format!("drop {}", outcome.unwrap_err().as_str()), text(out)),
    }
}

fn bundle(input: &Value, out: &Value) {
    let records = input["records"].as_array().unwrap();
    let put = |out: &mut Vec<u8>| {
        records
            .iter()
            .for_each(|record| put_record(&bytes(&record["packet"]), offload(&record["offload"]), out));
    };
    let mut plaintext = Vec::new();
    put(&mut plaintext);
    assert_eq!(plaintext, bytes(&out["plaintext"]));

    // Written into its frame, it comes out of it.
    let key = TrafficKey::from_bytes([7; 32]);
    let mut sealed = Vec::new();
    Sealer::new(&key, [8; 16]).seal_with(FrameType::IpBundle, &mut sealed, put).unwrap();
    let (frame, rest) = split_frame(&mut sealed, FrameSet::of(&[FrameType::IpBundle])).unwrap();
    assert!(rest.is_empty());
    assert_eq!(Opener::new(&key).open(&frame.header, frame.payload).unwrap(), plaintext);
}

fn read_records(input: &Value, out: &Value) {
    let mut plaintext = bytes(&input["plaintext"]);
    match (Records::parse(&mut plaintext, input["offload"].as_bool().unwrap()), out.as_array()) {
        (Ok(records), Some(expected)) => {
            let read: Vec<_> = records.map(|record| (record.packet.to_vec(), record.offload)).collect();
            let expected =
                expected.iter().map(|record| (bytes(&record["packet"]), offload(&record["offload"])));
            assert_eq!(read, expected.collect::<Vec<_>>());
        }
        (outcome, _) => assert_eq!(close(outcome.unwrap_err().close_code().as_u16()), text(out)),
    }
}

/// Flags, type, header length, segment size, start and offset of the checksum.
fn offload(value: &Value) -> Offload {
    let Some(fields) = value.as_array() else { return Offload::NONE };
    let [flags, gso_type, hdr_len, gso_size, csum_start, csum_offset] =
        [0, 1, 2, 3, 4, 5].map(|index| u16::try_from(fields[index].as_u64().unwrap()).unwrap());
    let [flags, gso_type] = [flags, gso_type].map(|field| field.try_into().unwrap());
    Offload { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset }
}

/// NK and IK of the vector files in snow's package: both handshake messages, the handshake hash
/// where it is given, and the transport messages behind them, which show that `Split()` is right.
#[test]
fn noise_vectors_of_snow() {
    let mut run = 0;
    for file in ["cacophony.txt", "snow.txt"] {
        let text = std::fs::read_to_string(snow_package().join("tests/vectors").join(file)).unwrap();
        let vectors: Value = serde_json::from_str(&text).unwrap();
        for vector in vectors["vectors"].as_array().unwrap() {
            match vector["protocol_name"].as_str() {
                Some("Noise_NK_25519_ChaChaPoly_BLAKE2s") => noise_vector(Pattern::Nk, vector),
                Some("Noise_IK_25519_ChaChaPoly_BLAKE2s") => noise_vector(Pattern::Ik, vector),
                _ => continue,
            }
            run += 1;
        }
    }
    assert_eq!(run, 4);
}

fn noise_vector(pattern: Pattern, vector: &Value) {
    let client = vector.get("init_static").map(pair);
    let server = pair(&vector["resp_static"]);
    assert_eq!(server.public, PublicKey::from_bytes(array(&vector["init_remote_static"])));
    let mut messages = vector["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| (bytes(&message["payload"]), bytes(&message["ciphertext"])));

    let (payload, expected) = messages.next().unwrap();
    let (initiated, message1) = noise::initiate_with(
        pattern,
        &bytes(&vector["init_prologue"]),
        client.as_ref(),
        &server.public,
        &payload,
        &mut Fixed(array(&vector["init_ephemeral"])),
    )
    .unwrap();
    assert_eq!(message1, expected);
    let prologue = bytes(&vector["resp_prologue"]);
    let (responding, opened) = noise::respond_with(pattern, &prologue, &server, &message1).unwrap();
    assert_eq!(opened.as_slice(), payload);

    let (payload, expected) = messages.next().unwrap();
    let (message2, at_server) =
        responding.finish(&payload, &mut Fixed(array(&vector["resp_ephemeral"]))).unwrap();
    assert_eq!(message2, expected);
    let (opened, at_client) = initiated.finish(&message2).unwrap();
    assert_eq!(opened.as_slice(), payload);
    assert_eq!(at_client.expose(), at_server.expose());
    assert_eq!(at_client.hash, at_server.hash);
    if let Some(hash) = vector.get("handshake_hash") {
        assert_eq!(at_client.hash[..], bytes(hash));
    }

    let (k1, k2) = at_client.expose();
    for (index, (payload, expected)) in messages.enumerate() {
        // The client sends first; each direction counts its messages in the nonce's last 8 bytes.
        let key = if index % 2 == 0 { k1 } else { k2 };
        let mut nonce = Nonce::default();
        nonce[4..].copy_from_slice(&(index as u64 / 2).to_le_bytes());
        let ciphertext = ChaCha20Poly1305::new(key.into()).encrypt(&nonce, payload.as_slice());
        assert_eq!(ciphertext.unwrap(), expected);
    }
}

/// Where cargo keeps the source of the snow that this crate is built with.
fn snow_package() -> std::path::PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline", "--filter-platform=host-tuple"])
        .arg(concat!("--manifest-path=", env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let snow = packages.iter().find(|package| package["name"] == "snow").unwrap();
    std::path::Path::new(text(&snow["manifest_path"])).parent().unwrap().to_owned()
}

/// Randomness that is known: always the same bytes.
struct Fixed([u8; 32]);

impl TryRng for Fixed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("keys are drawn as bytes")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("keys are drawn as bytes")
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Infallible> {
        dest.copy_from_slice(&self.0);
        Ok(())
    }
}

impl TryCryptoRng for Fixed {}

fn frame(kind: FrameType, payload: &[u8]) -> Vec<u8> {
    [&header(kind, payload.len())[..], payload].concat()
}

fn close(code: u16) -> String {
    format!("close {code}")
}

fn pattern(value: &Value) -> Pattern {
    match text(value) {
        "NK" => Pattern::Nk,
        "IK" => Pattern::Ik,
        other => panic!("no pattern {other}"),
    }
}

fn frame_type(value: &Value) -> FrameType {
    FrameType::from_byte(value.as_u64().unwrap().try_into().unwrap()).unwrap()
}

fn pair(value: &Value) -> Keypair {
    PrivateKey::from_bytes(array(value)).into()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    let digits = text(value).as_bytes();
    assert!(digits.len().is_multiple_of(2));
    let pairs = digits.chunks_exact(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
