//! Our client and our server, with each other.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use smartvpn::transport::{
    DialOptions, Listener, SESSION_MESSAGE_LIMIT, ServerTls, Stream, TlsConfigError, UpgradeOptions,
    WebSocket, WebSocketError, dial, upgrade,
};
use tokio::time::Instant;

use crate::certs::{self, AUTHORITY};
use crate::{PATIENCE, endpoint, options, patience};

/// Both ends of a connection: the client's, the server's.
async fn pair(tls: bool) -> (WebSocket<Stream>, WebSocket<Stream>) {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let server_tls = tls.then(|| certs::good().server_tls());
    let endpoint = endpoint(if tls { "wss" } else { "ws" }, "127.0.0.1", listener.local_addr().port());
    let options = DialOptions { tls: tls.then(|| AUTHORITY.client_tls()), ..options() };
    let accepted = async {
        let (tcp, peer) = listener.accept().await.unwrap();
        let upgraded =
            upgrade(tcp, server_tls.as_ref(), &UpgradeOptions::default(), patience()).await.unwrap();
        assert!(upgraded.offered_protocol && upgraded.forwarded_for.is_empty());
        (upgraded.websocket, peer)
    };
    let (dialed, (server, peer)) = tokio::join!(dial(&endpoint, &options), accepted);
    let dialed = dialed.unwrap();
    assert_eq!((dialed.remote, dialed.local), (listener.local_addr(), peer));
    assert_eq!(dialed.server, listener.local_addr().to_string());
    let (mut client, mut server) = (dialed.websocket, server);
    client.set_message_limit(SESSION_MESSAGE_LIMIT);
    server.set_message_limit(SESSION_MESSAGE_LIMIT);
    (client, server)
}

#[tokio::test]
async fn messages_of_every_form_pass() {
    for tls in [false, true] {
        let (mut client, mut server) = pair(tls).await;
        let payload: Vec<u8> = (0..SESSION_MESSAGE_LIMIT).map(|i| (i % 251) as u8).collect();
        let lengths = [1, 125, 126, 1_420, 16_384, 65_535, 65_536, 131_117, SESSION_MESSAGE_LIMIT];
        // Neither end reads while it sends: it is the kernel's and TLS's buffers that take it in.
        let one_end = async |websocket: &mut WebSocket<Stream>, first: bool| {
            for turn in 0..2 {
                if (turn == 0) == first {
                    for &length in &lengths {
                        websocket.send(&payload[..length]).await.unwrap();
                    }
                } else {
                    for &length in &lengths {
                        assert!(websocket.recv().await.unwrap() == &payload[..length], "{length} bytes");
                    }
                }
            }
        };
        tokio::join!(one_end(&mut client, true), one_end(&mut server, false));
    }
}

/// Sends `count` messages while receiving as many, as the engine does: in one task, neither waiting for
/// the other.
async fn talk_and_listen(websocket: &mut WebSocket<Stream>, count: usize) {
    let (mut sent, mut received) = (0, 0);
    poll_fn(|cx| {
        loop {
            let mut progress = false;
            if received < count
                && let Poll::Ready(result) = websocket.poll_message(cx)
            {
                result.unwrap();
                let message = websocket.message();
                assert_eq!((message.len(), message[0]), (1 + received * 97 % 70_000, received as u8));
                (received, progress) = (received + 1, true);
            }
            if sent < count && websocket.is_flushed() {
                let fill = |out: &mut Vec<u8>| {
                    out.resize(out.len() + 1 + sent * 97 % 70_000, sent as u8);
                    Ok::<_, ()>(())
                };
                websocket.queue_message(fill).unwrap();
                (sent, progress) = (sent + 1, true);
            }
            let flushed = websocket.poll_flush(cx).map(Result::unwrap).is_ready();
            if received == count && sent == count && flushed {
                return Poll::Ready(());
            }
            // A flush that has just ended wakes nobody: what is left to send goes on at once.
            progress |= flushed && sent < count;
            if !progress {
                return Poll::Pending;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    for tls in [false, true] {
        let (mut client, mut server) = pair(tls).await;
        let both =
            async { tokio::join!(talk_and_listen(&mut client, 1000), talk_and_listen(&mut server, 1000)) };
        tokio::time::timeout(PATIENCE, both).await.unwrap();
    }
}

#[tokio::test]
async fn closing_tells_code_and_reason_both_ways() {
    for tls in [false, true] {
        for from_client in [false, true] {
            let (client, server) = pair(tls).await;
            let (closing, mut told) = if from_client { (client, server) } else { (server, client) };
            let start = Instant::now();
            let closing = tokio::spawn(closing.close(1013, "come back later", PATIENCE));
            let error = told.recv().await.unwrap_err();
            assert!(
                matches!(&error, WebSocketError::Closed { code: Some(1013), reason } if reason == "come back later"),
                "{error}"
            );
            told.close(error.close_code().unwrap(), "", PATIENCE).await;
            closing.await.unwrap();
            assert!(start.elapsed() < PATIENCE / 2);
        }
    }
}

#[tokio::test]
async fn a_cut_is_a_cut() {
    for tls in [false, true] {
        let (client, mut server) = pair(tls).await;
        drop(client);
        let error = server.recv().await.unwrap_err();
        assert!(matches!(error, WebSocketError::Eof | WebSocketError::Io(_)), "{error}");
        assert_eq!(error.close_code(), None);
        server.close(1000, "", PATIENCE).await;
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_stops_the_writer_and_not_its_close() {
    for tls in [false, true] {
        let (mut client, server) = pair(tls).await;
        let payload = vec![0; 100_000];
        let mut sent = 0;
        while let Ok(result) = tokio::time::timeout(Duration::from_millis(200), client.send(&payload)).await {
            result.unwrap();
            sent += payload.len();
        }
        assert!(sent < 50_000_000, "the kernel takes {sent} bytes");
        assert!(!client.is_flushed());
        assert!(client.memory() < 500_000);
        let start = Instant::now();
        client.close(1000, "", Duration::from_millis(200)).await;
        assert!(start.elapsed() < PATIENCE / 2);
        drop(server);
    }
}

#[test]
fn certificates_and_keys_must_belong_together() {
    let (one, other) = (certs::good(), certs::good());
    let tls = |cert: &str, key: &str| ServerTls::from_pem(cert.as_bytes(), key.as_bytes());
    assert!(tls(&one.cert, &one.key).is_ok());
    assert!(tls(&format!("{}{}", one.cert, other.cert), &one.key).is_ok());
    for (cert, key, told) in [
        (one.cert.as_str(), other.key.as_str(), "does not belong"),
        (&format!("{}{}", other.cert, one.cert), &one.key, "does not belong"),
        ("", &one.key, "the certificate is missing"),
        (&one.key, &one.key, "the certificate is missing"),
        (&one.cert, "", "the private key is missing"),
        (&one.cert, &one.cert, "the private key is missing"),
        ("-----BEGIN CERTIFICATE-----\nAAAA", &one.key, "the certificate is not valid PEM"),
        (&one.cert, &one.key.replace("PRIVATE", "ENCRYPTED PRIVATE"), "the private key is encrypted"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &one.key,
            "the certificate cannot be used",
        ),
    ] {
        let error: TlsConfigError = tls(cert, key).unwrap_err();
        assert!(error.to_string().contains(told), "{told}: {error}");
    }
}
