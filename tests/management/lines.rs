//! Lines, good and bad.

use serde_json::{Value, json};
use smartvpn::management::{LINE_LIMIT, Mode};

use crate::peer::{Engine, assert_refused, mute_server};

#[tokio::test]
async fn a_controller_is_greeted_and_answered() {
    let engine = Engine::new(Mode::Server);
    let mut peer = engine.silent_controller();
    let ready = json!({ "version": env!("CARGO_PKG_VERSION"), "protocol": 1, "mode": "server" });
    assert_eq!(peer.message().await, json!({ "event": "ready", "data": ready }));
    for id in [json!(0), json!(9_007_199_254_740_991_u64), json!("ä")] {
        peer.request(id.clone(), "getStatus", Value::Null).await;
        let status = json!({ "state": "disconnected" });
        assert_eq!(peer.message().await, json!({ "id": id, "success": true, "result": status }));
    }
    let nothing = json!({ "id": "call", "success": true, "result": null });
    assert_eq!(peer.call("stopServer", json!({})).await, nothing);
}

#[tokio::test]
async fn the_longest_line_is_answered_and_a_longer_one_ends_the_connection() {
    let engine = Engine::new(Mode::Server);
    let mut peer = engine.controller().await;
    let request = "{\"id\":1,\"method\":\"getStatus\"}";
    let longest = format!("{request}{}\n", " ".repeat(LINE_LIMIT - request.len()));
    peer.send(&longest).await;
    assert_eq!(peer.answer().await["success"], true);
    peer.send(format!(" {longest}")).await;
    assert_refused(&peer.answer().await, Value::Null, "invalid-argument", "65536 bytes");
    assert_eq!(peer.message().await, Value::Null);

    let mut endless = engine.controller().await;
    endless.send(vec![b'x'; LINE_LIMIT + 1]).await;
    assert_refused(&endless.answer().await, Value::Null, "invalid-argument", "65536 bytes");
    assert_eq!(endless.message().await, Value::Null);
}

#[tokio::test]
async fn half_a_line_is_not_carried_out() {
    let engine = Engine::new(Mode::Server);
    let mut peer = engine.controller().await;
    peer.send("{\"id\":1,\"method\":\"getStatus\"}\n{\"id\":2,\"method\":\"getStatus\"}").await;
    peer.finish().await;
    let mut answers = Vec::new();
    loop {
        match peer.answer().await {
            Value::Null => break,
            answer => answers.push(answer),
        }
    }
    assert_eq!(answers.len(), 2, "{answers:?}");
    let cut = answers.iter().find(|answer| answer["id"].is_null()).unwrap();
    assert_refused(cut, Value::Null, "invalid-argument", "has no end");
    assert!(answers.iter().any(|answer| answer["id"] == 1 && answer["success"] == true));
}

#[tokio::test]
async fn a_bad_line_is_answered_and_the_next_one_is_heard() {
    let engine = Engine::new(Mode::Server);
    let mut peer = engine.controller().await;
    let nested = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let bad: [(&[u8], Value, &str, &str); 11] = [
        (b"\xc3\x28", json!(null), "invalid-argument", "not UTF-8"),
        (b"\0", json!(null), "invalid-argument", "not valid JSON"),
        (b"{\"id\":1,", json!(null), "invalid-argument", "not valid JSON"),
        (nested.as_bytes(), json!(null), "invalid-argument", "not valid JSON"),
        (b"\"shutdown\"", json!(null), "invalid-argument", "is an object"),
        (b"{\"id\":{},\"method\":\"getStatus\"}", json!(null), "invalid-argument", "\"id\""),
        (b"{\"id\":1,\"method\":[]}", json!(1), "invalid-argument", "\"method\""),
        (b"{\"id\":1,\"method\":\"getStatus\",\"jsonrpc\":\"2.0\"}", json!(1), "invalid-argument", "jsonrpc"),
        (b"{\"id\":1,\"method\":\"__proto__\"}", json!(1), "unsupported-method", "__proto__"),
        (b"{\"id\":1,\"method\":\"connect\",\"params\":{}}", json!(1), "unsupported-method", "server"),
        (
            b"{\"id\":1,\"method\":\"disconnectClient\",\"params\":{\"id\":7}}",
            json!(1),
            "invalid-argument",
            "id",
        ),
    ];
    for (line, id, code, word) in bad {
        peer.send([line, b"\n"].concat()).await;
        assert_refused(&peer.answer().await, id, code, word);
    }
    peer.send("\n \r\n").await;
    assert_eq!(peer.call("getStatus", Value::Null).await["success"], true);
}

#[tokio::test]
async fn an_id_stands_for_one_request_at_a_time() {
    let engine = Engine::new(Mode::Client);
    let mut peer = engine.controller().await;
    let (_listener, config) = mute_server().await;
    peer.request(1, "connect", config).await;
    peer.request(1, "getStatus", Value::Null).await;
    assert_refused(&peer.answer().await, Value::Null, "invalid-argument", "under way");
    peer.request(2, "disconnect", Value::Null).await;
    let answers = [peer.answer().await, peer.answer().await];
    let of = |id: u64| answers.iter().find(|answer| answer["id"] == id).unwrap();
    assert_refused(of(1), 1, "aborted", "ended by");
    assert_eq!(of(2)["success"], true);
    peer.request(1, "getStatus", Value::Null).await;
    assert_eq!(peer.answer().await["result"]["state"], "disconnected");
}
