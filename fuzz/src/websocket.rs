//! The WebSocket stream (RFC 6455, PROTOCOL §1) against a second, slow reader of the same bytes.

use std::task::{Context, Poll, Waker};

use smartvpn::transport::{HANDSHAKE_MESSAGE_LIMIT, SESSION_MESSAGE_LIMIT, WebSocket, WebSocketError};

use super::input::{Cuts, Input, Pieces};

/// How a stream ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Without a Close.
    Cut,
    /// With one.
    Close(Option<u16>, String),
    /// By a fault, with this code.
    Fault(u16),
}

type Read = (Vec<Vec<u8>>, End);

/// The same messages and the same end, all at once, in pieces, and by the second reader.
pub fn websocket(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let (is_server, raises) = (flags & 1 != 0, flags & 2 != 0);
    let cuts = input.cuts();
    let leftover = usize::from(input.byte()) % (input.0.len() + 1);
    let (leftover, rest) = input.0.split_at(leftover);
    let expected = second_reader(input.0, is_server, raises);
    for (leftover, rest, cuts) in [(&[][..], input.0, Cuts::NONE), (leftover, rest, cuts)] {
        let stream = Pieces::new(rest, cuts);
        let socket =
            if is_server { WebSocket::server(stream, leftover) } else { WebSocket::client(stream, leftover) };
        assert_eq!(read(socket, is_server, raises), expected);
    }
}

fn read(mut socket: WebSocket<Pieces<'_>>, is_server: bool, raises: bool) -> Read {
    let mut context = Context::from_waker(Waker::noop());
    let mut messages = Vec::new();
    let end = loop {
        match socket.poll_message(&mut context) {
            Poll::Pending => continue,
            Poll::Ready(Ok(())) => messages.push(socket.message().to_vec()),
            Poll::Ready(Err(error)) => break end_of(&error),
        }
        // As the session is up.
        if raises {
            socket.set_message_limit(SESSION_MESSAGE_LIMIT);
        }
        // Whatever a peer sends, little more than its message is kept.
        let longest = messages.iter().map(Vec::len).max().unwrap_or_default();
        assert!(socket.memory() <= 4 * longest.max(64 * 1024), "{} bytes are held", socket.memory());
        if messages.len() % 3 == 0 {
            socket.shrink();
        }
        // Answers to pings go ahead of it, whole.
        if socket.is_flushed() {
            let echo = &messages[messages.len() - 1];
            let queued: Result<(), ()> = socket.queue_message(|out| {
                out.extend_from_slice(&echo[..echo.len().min(200)]);
                Ok(())
            });
            assert_eq!(queued, Ok(()));
        }
        let _ = socket.poll_flush(&mut context);
    };
    assert!(matches!(socket.poll_message(&mut context), Poll::Ready(Err(WebSocketError::Eof))));
    let _ = socket.poll_flush(&mut context);
    assert!(is_sequence_of_frames(&socket.stream().written, !is_server));
    (messages, end)
}

fn end_of(error: &WebSocketError) -> End {
    match error {
        WebSocketError::Closed { code, reason } => End::Close(*code, reason.clone()),
        WebSocketError::Eof => End::Cut,
        error => End::Fault(error.close_code().unwrap_or_default()),
    }
}

/// Whether these are whole frames of ours, each final and of the shortest form.
fn is_sequence_of_frames(mut bytes: &[u8], masked: bool) -> bool {
    while let Some((frame, rest)) = split(bytes) {
        if !frame.is_minimal || frame.mask.is_some() != masked || ![0x82, 0x88, 0x8a].contains(&frame.first) {
            return false;
        }
        bytes = rest;
    }
    bytes.is_empty()
}

struct Frame {
    first: u8,
    is_minimal: bool,
    mask: Option<[u8; 4]>,
    /// What the header announces.
    length: u64,
    /// As far as it has come; unmasked.
    payload: Vec<u8>,
}

/// The frame that `bytes` begin with, if its header is whole, and what follows.
fn split(bytes: &[u8]) -> Option<(Frame, &[u8])> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    let (length, smallest, rest) = match second & 0x7f {
        126 => {
            let (number, rest) = rest.split_first_chunk()?;
            (u16::from_be_bytes(*number).into(), 126, rest)
        }
        127 => {
            let (number, rest) = rest.split_first_chunk()?;
            (u64::from_be_bytes(*number), 65_536, rest)
        }
        length => (u64::from(length), 0, rest),
    };
    let (mask, rest) = match second & 0x80 {
        0 => (None, rest),
        _ => rest.split_first_chunk().map(|(mask, rest)| (Some(*mask), rest))?,
    };
    let (payload, rest) = rest.split_at(usize::try_from(length).unwrap_or(usize::MAX).min(rest.len()));
    let key = mask.unwrap_or_default();
    let payload = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    Some((Frame { first, is_minimal: length >= smallest, mask, length, payload }, rest))
}

/// Reads it all again by the letter of RFC 6455 and PROTOCOL §1, and without a thought for speed.
fn second_reader(mut bytes: &[u8], is_server: bool, raises: bool) -> Read {
    let mut messages = Vec::new();
    let mut limit = HANDSHAKE_MESSAGE_LIMIT as u64;
    let mut parts: Option<(u32, Vec<u8>)> = None;
    let fault = |code| End::Fault(code);
    loop {
        let Some((frame, rest)) = split(bytes) else { return (messages, End::Cut) };
        let (is_final, opcode) = (frame.first & 0x80 != 0, frame.first & 0xf);
        let is_control = opcode >= 8;
        let is_whole = frame.payload.len() as u64 == frame.length;
        if frame.first & 0x70 != 0
            || !matches!(opcode, 0 | 2 | 8..=10)
            || frame.mask.is_some() != is_server
            || !frame.is_minimal
            || frame.length >> 63 != 0
            || is_control && (!is_final || frame.length > 125)
        {
            return (messages, fault(1002));
        }
        if is_control {
            if !is_whole {
                return (messages, End::Cut);
            }
            if opcode == 8 {
                return (messages, close(&frame.payload));
            }
            bytes = rest;
            continue;
        }
        let (count, mut message) = match (opcode, parts.take()) {
            (0, Some((count, _))) if count >= 1024 => return (messages, fault(1002)),
            (0, Some(parts)) => parts,
            (2, None) => (0, Vec::new()),
            _ => return (messages, fault(1002)),
        };
        if message.len() as u64 + frame.length > limit {
            return (messages, fault(1009));
        }
        if !is_whole {
            return (messages, End::Cut);
        }
        message.extend(frame.payload);
        bytes = rest;
        if !is_final {
            parts = Some((count + 1, message));
        } else if message.is_empty() {
            return (messages, fault(1002));
        } else {
            messages.push(message);
            if raises {
                limit = SESSION_MESSAGE_LIMIT as u64;
            }
        }
    }
}

fn close(payload: &[u8]) -> End {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { End::Close(None, String::new()) } else { End::Fault(1002) };
    };
    let code = u16::from_be_bytes(*code);
    match std::str::from_utf8(reason) {
        Ok(reason) if matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) => {
            End::Close(Some(code), reason.to_owned())
        }
        _ => End::Fault(1002),
    }
}
