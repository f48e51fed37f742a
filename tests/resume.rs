//! Resumes against a real server: who gets the session, and who does not.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and its server's process tells that it serves"
)]

#[path = "support/namespace.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod namespace;
#[path = "support/server_process.rs"]
mod server_process;

use std::time::{Duration, Instant};

use namespace::{block_on, isolated, role};
use serde_json::json;
use server_process::{Place, serve, server_key};
use smartvpn::codec::disconnect::DisconnectCode;
use smartvpn::codec::frame::FrameType;
use smartvpn::codec::hello::{Accepted, ClientHello, RejectCode};
use smartvpn::codec::secret::Ticket;
use smartvpn::session::{
    ClientFailure, ClientParams, Event, Hybrid, KeepaliveCap, KeyLimits, Session, client,
};
use smartvpn::transport::{DialOptions, Stream, WebSocket, WebSocketError, dial};

/// What takes longer has not happened.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client's end of a connection, in the test's hands.
struct End {
    websocket: WebSocket<Stream>,
    session: Session,
    hello: Accepted,
    /// Message 1, as it was sent.
    first: Vec<u8>,
}

async fn open(place: &Place) -> WebSocket<Stream> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let options = DialOptions { tls: Some(place.tls.clone()), ..DialOptions::new(deadline) };
    dial(&place.endpoint, &options).await.unwrap().websocket
}

/// A handshake on a connection, up to the server's answer.
async fn handshake(
    websocket: &mut WebSocket<Stream>,
    ticket: Option<Ticket>,
) -> (Result<client::Connected, ClientFailure>, Vec<u8>) {
    let params = ClientParams {
        server_key: server_key(),
        identity: None,
        hello: ClientHello { ticket, ..ClientHello::default() },
        hybrid: Hybrid::Off,
        keepalive_interval: None,
        keepalive_cap: KeepaliveCap::default(),
        key_limits: KeyLimits::default(),
    };
    let (awaiting, first) = client::start(params, &mut rand::rng()).unwrap();
    websocket.send(&first).await.unwrap();
    let answer = websocket.recv().await.unwrap();
    (awaiting.handle_message(Instant::now(), &mut rand::rng(), answer), first)
}

async fn connect(place: &Place, ticket: Option<Ticket>) -> End {
    let mut websocket = open(place).await;
    let (connected, first) = handshake(&mut websocket, ticket).await;
    confirm(websocket, connected.unwrap(), first).await
}

/// Confirms, and waits for the server to have seen it.
async fn confirm(mut websocket: WebSocket<Stream>, connected: client::Connected, first: Vec<u8>) -> End {
    let client::Connected { mut session, hello } = connected;
    flush(&mut websocket, &mut session).await;
    let mut end = End { websocket, session, hello, first };
    assert!(matches!(end.event().await, Event::RoundTrip { .. }));
    end
}

async fn flush(websocket: &mut WebSocket<Stream>, session: &mut Session) {
    let mut message = Vec::new();
    if session.poll_transmit(&mut message).unwrap() {
        websocket.send(&message).await.unwrap();
    }
}

impl End {
    /// The next thing that the session tells.
    async fn event(&mut self) -> Event {
        let next = async {
            loop {
                if let Some(event) = self.session.poll_event() {
                    return event;
                }
                let message = self.websocket.recv().await.unwrap();
                self.session.handle_message(Instant::now(), message, |_| {}).unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("an event")
    }

    /// Asks the server, which answers as long as this is the client's connection.
    async fn assert_alive(&mut self) {
        self.session.probe(Instant::now(), &mut rand::rng());
        flush(&mut self.websocket, &mut self.session).await;
        assert!(matches!(self.event().await, Event::RoundTrip { .. }));
    }

    fn ticket(&self) -> Option<Ticket> {
        self.hello.ticket.as_ref().map(|(ticket, _)| ticket.clone())
    }
}

fn with_server(test: &str, body: impl AsyncFnOnce(Place)) {
    if let Some(role) = role() {
        return serve(&role);
    }
    isolated(test, || {
        let place = Place::new(&json!({}));
        let _server = place.start(test);
        block_on(body(place));
    });
}

#[test]
fn the_session_goes_to_the_connection_that_was_confirmed_last() {
    with_server("the_session_goes_to_the_connection_that_was_confirmed_last", async |place| {
        let mut first = connect(&place, None).await;
        // Not confirmed: nothing happens to the first.
        let mut waiting = open(&place).await;
        let (connected, message1) = handshake(&mut waiting, first.ticket()).await;
        let connected = connected.unwrap();
        assert_eq!(message1[0], FrameType::SessionResume as u8);
        assert_eq!(connected.hello.client_id, first.hello.client_id);
        assert_eq!(connected.hello.assigned_ip, first.hello.assigned_ip);
        first.assert_alive().await;

        let confirmed = tokio::spawn(confirm(waiting, connected, message1));
        let Event::Disconnected(disconnect) = first.event().await else { panic!("it is told") };
        assert_eq!(disconnect.code, DisconnectCode::Replaced);
        first.websocket.close(1000, "", PATIENCE).await;
        let mut second = confirmed.await.unwrap();
        second.assert_alive().await;
        assert_ne!(second.ticket(), None, "for the next time");
    });
}

#[test]
fn a_recorded_resume_gains_nothing_and_disturbs_nobody() {
    with_server("a_recorded_resume_gains_nothing_and_disturbs_nobody", async |place| {
        let first = connect(&place, None).await;
        let mut second = connect(&place, first.ticket()).await;
        drop(first);
        for _ in 0..3 {
            let mut thief = open(&place).await;
            thief.send(&second.first).await.unwrap();
            let answer = tokio::time::timeout(PATIENCE, thief.recv()).await.unwrap();
            assert!(matches!(answer, Err(WebSocketError::Closed { code: Some(1008), .. })), "{answer:?}");
            second.assert_alive().await;
        }
    });
}

#[test]
fn a_refused_ticket_costs_no_new_connection() {
    with_server("a_refused_ticket_costs_no_new_connection", async |place| {
        let mut websocket = open(&place).await;
        let (refused, _) = handshake(&mut websocket, Ticket::new(vec![1; 100])).await;
        let Err(ClientFailure::ResumeRefused(rejection)) = refused else { panic!("{refused:?}") };
        assert_eq!(rejection.code, RejectCode::TicketInvalid);
        let (connected, first) = handshake(&mut websocket, None).await;
        let mut end = confirm(websocket, connected.unwrap(), first).await;
        end.assert_alive().await;
    });
}
