//! Several controllers of one engine.

use std::time::Duration;

use serde_json::{Value, json};
use smartvpn::management::Mode;
use tokio::time::timeout;

use crate::peer::{Engine, PATIENCE, mute_server};

#[tokio::test]
async fn each_controller_sees_every_event() {
    let engine = Engine::new(Mode::Server);
    let mut peers = [engine.controller().await, engine.controller().await];
    for number in 0..200 {
        engine.say(number.to_string());
    }
    for peer in &mut peers {
        for number in 0..200 {
            let event = peer.message().await;
            assert_eq!(
                (&event["event"], &event["data"]["message"]),
                (&json!("log"), &json!(number.to_string()))
            );
        }
    }
}

#[tokio::test]
async fn a_controller_that_does_not_read_is_told_what_it_lost() {
    const EVENTS: u64 = 10_000;
    let engine = Engine::new(Mode::Server);
    let mut deaf = engine.controller().await;
    let mut other = engine.controller().await;
    for number in 0..EVENTS {
        engine.say(number.to_string());
        if number % 100 == 0 {
            // Meanwhile the other one reads, and is answered.
            assert_eq!(other.call("getStatus", Value::Null).await["success"], true);
        }
    }
    let (mut next, mut lost) = (0, 0);
    while next < EVENTS {
        let event = deaf.message().await;
        if event["event"] == "lost" {
            let count = event["data"]["count"].as_u64().unwrap();
            (next, lost) = (next + count, lost + count);
        } else {
            assert_eq!(event["data"]["message"], next.to_string());
            next += 1;
        }
    }
    assert!((1..EVENTS - 256).contains(&lost), "{lost} lost");
}

#[tokio::test]
async fn a_controller_that_reads_no_answers_stalls_only_itself() {
    let engine = Engine::new(Mode::Server);
    let mut deaf = engine.controller().await;
    let mut sent = 0_u64;
    loop {
        let line = format!("{:<1000}\n", json!({ "id": sent, "method": "getStatistics" }));
        if !deaf.send_within(line.as_bytes(), Duration::from_millis(500)).await {
            break;
        }
        sent += 1;
        assert!(sent < 5000, "it is read from without bound");
    }
    let mut other = engine.controller().await;
    assert_eq!(other.call("getStatus", Value::Null).await["success"], true);
    // All that was taken is answered once it reads. What was sent half is no line yet.
    let mut answered = std::collections::BTreeSet::new();
    while (answered.len() as u64) < sent {
        let answer = deaf.answer().await;
        assert_eq!(answer["success"], true);
        assert!(answered.insert(answer["id"].as_u64().unwrap()), "answered twice");
    }
}

#[tokio::test]
async fn what_a_controller_has_asked_for_outlives_it() {
    let engine = Engine::new(Mode::Client);
    let mut other = engine.controller().await;
    let (listener, config) = mute_server().await;
    let mut gone = engine.controller().await;
    gone.request(1, "connect", config).await;
    let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    drop(gone);
    assert_eq!(other.call("getStatus", Value::Null).await["result"]["state"], "connecting");
    assert_eq!(other.call("disconnect", Value::Null).await["success"], true);
    drop(stream);
}

#[tokio::test]
async fn a_controller_that_only_listens_no_more_gets_its_answers() {
    let engine = Engine::new(Mode::Server);
    let mut peer = engine.controller().await;
    for id in 0..50 {
        peer.request(id, "generateKeypair", Value::Null).await;
    }
    peer.finish().await;
    for _ in 0..50 {
        assert_eq!(peer.answer().await["success"], true);
    }
    assert_eq!(peer.message().await, Value::Null);
}
