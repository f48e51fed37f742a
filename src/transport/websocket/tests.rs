use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role as TheirRole;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, FrameHeader};

use super::*;

const WAIT: Duration = Duration::from_secs(2);

type Theirs = WebSocketStream<DuplexStream>;

/// Our end and tungstenite's, which is the oracle, over `buffer` bytes of pipe each way.
async fn with_oracle(role: Role, buffer: usize) -> (WebSocket<DuplexStream>, Theirs) {
    let (near, far) = duplex(buffer);
    let their_role = if role == Role::Server { TheirRole::Client } else { TheirRole::Server };
    (WebSocket::new(near, role, &[]), WebSocketStream::from_raw_socket(far, their_role, None).await)
}

/// Our end and the bare bytes of the other.
fn with_bytes(role: Role) -> (WebSocket<DuplexStream>, DuplexStream) {
    let (near, far) = duplex(1 << 20);
    (WebSocket::new(near, role, &[]), far)
}

fn close_frame(code: u16, reason: &str) -> CloseFrame {
    CloseFrame { code: CloseCode::from(code), reason: reason.into() }
}

#[tokio::test]
async fn messages_pass_both_ways_between_us_and_tungstenite() {
    for role in [Role::Server, Role::Client] {
        for buffer in [7, 1000, 1 << 20] {
            let (mut ours, mut theirs) = with_oracle(role, buffer).await;
            ours.set_message_limit(SESSION_MESSAGE_LIMIT);
            for length in [1, 125, 126, 127, 8_197, 65_535, 65_536, 131_072, SESSION_MESSAGE_LIMIT] {
                let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
                let (sent, received) = tokio::join!(ours.send(&payload), theirs.next());
                sent.unwrap();
                assert_eq!(received.unwrap().unwrap(), Message::binary(payload.clone()));
                let (sent, received) =
                    tokio::join!(theirs.send(Message::binary(payload.clone())), ours.recv());
                sent.unwrap();
                assert_eq!(received.unwrap(), payload);
            }
        }
    }
}

#[tokio::test]
async fn two_of_ours_understand_each_other() {
    let (near, far) = duplex(100);
    let (mut client, mut server) = (WebSocket::client(near, &[]), WebSocket::server(far, &[]));
    for length in 1..300 {
        let payload = vec![length as u8; length];
        let (sent, received) = tokio::join!(client.send(&payload), server.recv());
        sent.unwrap();
        assert_eq!(received.unwrap(), payload);
    }
}

#[tokio::test]
async fn a_client_masks_each_frame_anew() {
    let (mut ours, mut wire) = with_bytes(Role::Client);
    let mut masks = std::collections::BTreeSet::new();
    for _ in 0..50 {
        ours.send(b"the same").await.unwrap();
        let mut frame = [0; 14];
        wire.read_exact(&mut frame).await.unwrap();
        assert_eq!(frame[..2], [0x82, 0x88]);
        let mask: [u8; 4] = frame[2..6].try_into().unwrap();
        frame::apply_mask(&mut frame[6..], mask);
        assert_eq!(&frame[6..], b"the same");
        masks.insert(mask);
    }
    assert!(masks.len() > 45, "{masks:?}");
}

#[tokio::test]
async fn only_what_was_filled_is_sent() {
    let (mut ours, mut wire) = with_bytes(Role::Server);
    ours.queue_message(|_| Ok::<_, ()>(())).unwrap();
    assert!(ours.is_flushed());
    let failed = ours.queue_message(|out| {
        out.extend_from_slice(b"half of it");
        Err("no more")
    });
    assert_eq!(failed, Err("no more"));
    assert!(ours.is_flushed());
    ours.queue_message(|out| {
        out.extend_from_slice(b"whole");
        Ok::<_, ()>(())
    })
    .unwrap();
    assert!(!ours.is_flushed());
    poll_fn(|cx| ours.poll_flush(cx)).await.unwrap();
    assert!(ours.is_flushed());
    drop(ours);
    let mut sent = Vec::new();
    wire.read_to_end(&mut sent).await.unwrap();
    assert_eq!(sent, b"\x82\x05whole");
}

#[tokio::test]
#[should_panic(expected = "still waiting")]
async fn frames_are_not_torn() {
    let (mut ours, _wire) = with_bytes(Role::Server);
    for _ in 0..2 {
        let _ = ours.queue_message(|out| {
            out.push(1);
            Ok::<_, ()>(())
        });
    }
}

#[tokio::test]
async fn pings_are_answered_while_reading() {
    for role in [Role::Server, Role::Client] {
        let (mut ours, mut theirs) = with_oracle(role, 1000).await;
        theirs.send(Message::Ping("are you there".into())).await.unwrap();
        tokio::select! {
            message = ours.recv() => panic!("{message:?}"),
            answer = theirs.next() => {
                assert_eq!(answer.unwrap().unwrap(), Message::Pong("are you there".into()));
            }
        }
    }
}

#[tokio::test]
async fn a_flood_of_pings_leaves_one_answer_waiting() {
    let (near, mut wire) = duplex(200);
    let mut ours = WebSocket::new(near, Role::Client, &[]);
    // The way out is full: nobody reads the wire.
    ours.queue_message(|out| {
        out.extend_from_slice(&[0; 1000]);
        Ok::<_, ()>(())
    })
    .unwrap();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(ours.poll_flush(&mut cx).is_pending());
    let before = ours.memory();
    for i in 0..10_000_u32 {
        wire.write_all(&[&[0x89, 4][..], &i.to_be_bytes()].concat()).await.unwrap();
        assert!(ours.poll_message(&mut cx).is_pending());
        if i % 20 == 0 {
            // A fresh budget of cooperative scheduling, or reads would pend for that.
            tokio::task::yield_now().await;
        }
    }
    assert!(ours.memory() <= before + 4096);

    let mut seen = Vec::new();
    let answered = async {
        loop {
            let mut bytes = [0; 512];
            let read = wire.read(&mut bytes).await.unwrap();
            seen.extend_from_slice(&bytes[..read]);
            if seen.len() >= 1008 + 10 {
                break;
            }
        }
    };
    tokio::select! {
        message = ours.recv() => panic!("{message:?}"),
        () = answered => {}
    }
    assert_eq!(seen.len(), 1008 + 10, "one message, one Pong");
    let mask: [u8; 4] = seen[1010..1014].try_into().unwrap();
    frame::apply_mask(&mut seen[1014..], mask);
    assert_eq!((seen[1008], &seen[1014..]), (0x8a, &9_999_u32.to_be_bytes()[..]));
}

#[tokio::test]
async fn an_answer_goes_out_in_front_of_the_next_message() {
    let (mut ours, mut wire) = with_bytes(Role::Server);
    // A ping whose answer finds no way out yet: reading has been polled by nobody since.
    ours.control = Some(ControlFrame::new(Kind::Pong, b"p"));
    assert!(ours.is_flushed());
    ours.send(b"message").await.unwrap();
    drop(ours);
    let mut sent = Vec::new();
    wire.read_to_end(&mut sent).await.unwrap();
    assert_eq!(sent, b"\x8a\x01p\x82\x07message");
}

#[tokio::test]
async fn faults_name_the_code_that_answers_them() {
    let long = 8_198_u16.to_be_bytes();
    for (bytes, code) in [
        (vec![0x81, 1, b'x'], Some(1002)),
        (vec![0x82, 0], Some(1002)),
        (vec![0x82, 0x81, 0, 0, 0, 0, 1], Some(1002)),
        (vec![0xc2, 1, 0], Some(1002)),
        (vec![0x83, 1, 0], Some(1002)),
        (vec![0x82, 126, 0, 1, 0], Some(1002)),
        (vec![0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], Some(1002)),
        (vec![0x80, 1, 0], Some(1002)),
        (vec![0x89, 126, 0, 126], Some(1002)),
        (vec![0x09, 0], Some(1002)),
        (vec![0x88, 1, 3], Some(1002)),
        (vec![0x88, 2, 0, 0], Some(1002)),
        (vec![0x88, 3, 3, 0xe8, 0xff], Some(1002)),
        (vec![0x82, 126, long[0], long[1]], Some(1009)),
        (vec![0x88, 2, 3, 0xe9], Some(1001)),
        (vec![0x88, 0], Some(1000)),
        (vec![0x82, 5, 1], None),
        (vec![], None),
    ] {
        let (mut ours, mut wire) = with_bytes(Role::Client);
        wire.write_all(&bytes).await.unwrap();
        wire.shutdown().await.unwrap();
        let error = ours.recv().await.unwrap_err();
        assert_eq!(error.close_code(), code, "{bytes:x?}: {error}");
        assert!(matches!(ours.recv().await, Err(WebSocketError::Eof)), "an end is an end");
    }
}

#[tokio::test]
async fn our_close_waits_for_theirs() {
    for role in [Role::Server, Role::Client] {
        let (ours, mut theirs) = with_oracle(role, 100).await;
        let oracle = async {
            let closed = theirs.next().await.unwrap().unwrap();
            assert_eq!(closed, Message::Close(Some(close_frame(1013, "full"))));
            // tungstenite answers by itself, and then sees the end.
            while theirs.next().await.is_some() {}
        };
        tokio::join!(ours.close(1013, "full", WAIT), oracle);
    }
}

#[tokio::test]
async fn their_close_is_answered_at_once_and_only_once() {
    for role in [Role::Server, Role::Client] {
        let (mut ours, mut theirs) = with_oracle(role, 100).await;
        theirs.close(Some(close_frame(1001, "moving"))).await.unwrap();
        let error = ours.recv().await.unwrap_err();
        assert!(matches!(&error, WebSocketError::Closed { code: Some(1001), reason } if reason == "moving"));
        let oracle = async {
            let answer = theirs.next().await.unwrap().unwrap();
            assert_eq!(answer, Message::Close(Some(close_frame(1001, ""))));
            assert!(theirs.next().await.is_none());
        };
        tokio::join!(ours.close(1000, "not sent", WAIT), oracle);
    }
}

#[tokio::test]
async fn a_close_without_code_is_answered_without() {
    let (mut ours, mut wire) = with_bytes(Role::Client);
    wire.write_all(&[0x88, 0]).await.unwrap();
    assert!(matches!(ours.recv().await, Err(WebSocketError::Closed { code: None, .. })));
    ours.close(1000, "", WAIT).await;
    let mut sent = Vec::new();
    wire.read_to_end(&mut sent).await.unwrap();
    assert_eq!(sent[..2], [0x88, 0x80]);
    assert_eq!(sent.len(), 6, "one empty, masked Close");
}

#[tokio::test]
async fn closes_may_cross() {
    let (ours, mut wire) = with_bytes(Role::Server);
    wire.write_all(b"\x88\x82\0\0\0\0\x03\xe9").await.unwrap();
    ours.close(1000, "", WAIT).await;
    let mut sent = Vec::new();
    wire.read_to_end(&mut sent).await.unwrap();
    assert_eq!(sent, b"\x88\x02\x03\xe8");
}

#[tokio::test]
async fn messages_that_cross_a_close_are_dropped() {
    let (ours, mut theirs) = with_oracle(Role::Server, 100).await;
    let oracle = async {
        for _ in 0..20 {
            theirs.feed(Message::binary(vec![1; 50])).await.unwrap();
        }
        theirs.flush().await.unwrap();
        assert!(theirs.next().await.unwrap().unwrap().is_close());
        while theirs.next().await.is_some() {}
    };
    tokio::join!(ours.close(1000, "", WAIT), oracle);
}

#[tokio::test(start_paused = true)]
async fn closing_never_waits_longer_than_told() {
    let start = tokio::time::Instant::now();
    // A peer that never answers.
    let (ours, _theirs) = with_oracle(Role::Server, 100).await;
    ours.close(1000, "", WAIT).await;
    assert_eq!(start.elapsed(), WAIT);

    // A peer that does not even read, with a message in front of the Close.
    let (mut ours, _theirs) = with_oracle(Role::Server, 100).await;
    ours.queue_message(|out| {
        out.extend_from_slice(&[0; 1000]);
        Ok::<_, ()>(())
    })
    .unwrap();
    ours.close(1000, "", WAIT).await;
    assert_eq!(start.elapsed(), 2 * WAIT);

    // One that talks on instead of closing.
    let (ours, mut theirs) = with_oracle(Role::Server, 100).await;
    let talk = async {
        while theirs.send(Message::binary(vec![1; 50])).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::join!(ours.close(1000, "", WAIT), talk);
    assert!(start.elapsed() <= 3 * WAIT + Duration::from_millis(100));
}

#[tokio::test]
async fn after_a_fault_the_close_gets_through() {
    let (mut ours, mut wire) = with_bytes(Role::Server);
    wire.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = ours.recv().await.unwrap_err();
    let peer = async {
        let mut sent = Vec::new();
        wire.write_all(&[0xff; 10_000]).await.unwrap();
        wire.read_to_end(&mut sent).await.unwrap();
        assert_eq!(sent, b"\x88\x0c\x03\xeano thanks.");
        drop(wire);
    };
    tokio::join!(ours.close(error.close_code().unwrap(), "no thanks.", WAIT), peer);
}

#[tokio::test]
async fn a_message_being_sent_is_finished_before_the_close() {
    let (mut ours, mut theirs) = with_oracle(Role::Client, 100).await;
    ours.queue_message(|out| {
        out.extend_from_slice(&[5; 1000]);
        Ok::<_, ()>(())
    })
    .unwrap();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(ours.poll_flush(&mut cx).is_pending());
    let oracle = async {
        assert_eq!(theirs.next().await.unwrap().unwrap(), Message::binary(vec![5; 1000]));
        assert!(theirs.next().await.unwrap().unwrap().is_close());
        while theirs.next().await.is_some() {}
    };
    tokio::join!(ours.close(1000, "", WAIT), oracle);
}

#[tokio::test]
async fn an_idle_connection_keeps_four_kibibytes() {
    let (mut ours, mut theirs) = with_oracle(Role::Server, 1 << 20).await;
    ours.set_message_limit(SESSION_MESSAGE_LIMIT);
    let big = vec![1; 200_000];
    theirs.send(Message::binary(big.clone())).await.unwrap();
    assert_eq!(ours.recv().await.unwrap(), big);
    ours.send(&big).await.unwrap();
    assert!(ours.memory() > 400_000);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(ours.poll_message(&mut cx).is_pending());
    ours.shrink();
    assert_eq!(ours.memory(), 4096);
    theirs.send(Message::binary(big.clone())).await.unwrap();
    assert_eq!(ours.recv().await.unwrap(), big);
}

/// The oracle's view of fragments: its frames, cut by hand.
#[tokio::test]
async fn fragments_of_tungstenites_frames_are_joined() {
    let (mut ours, mut wire) = with_bytes(Role::Server);
    let mut bytes = Vec::new();
    for (i, part) in [&b"a"[..], b"bc", b""].iter().enumerate() {
        let header = FrameHeader {
            is_final: i == 2,
            opcode: if i == 0 { 2.into() } else { 0.into() },
            mask: Some([9, 8, 7, 6]),
            ..FrameHeader::default()
        };
        header.format(part.len() as u64, &mut bytes).unwrap();
        let start = bytes.len();
        bytes.extend_from_slice(part);
        frame::apply_mask(&mut bytes[start..], [9, 8, 7, 6]);
    }
    wire.write_all(&bytes).await.unwrap();
    assert_eq!(ours.recv().await.unwrap(), b"abc");
}
