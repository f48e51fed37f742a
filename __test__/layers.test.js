'use strict';

const assert = require('node:assert/strict');
const { mkdirSync, mkdtempSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { dirname, join } = require('node:path');
const { before, test } = require('node:test');

const { ROOT } = require('./support/child.js');

const LIB = `
  // Faces.
  #[cfg(feature = "addon")]
  mod addon;
  pub mod management;

  pub mod client;
  pub mod server;

  pub mod engine;

  pub mod session;

  // Parts.
  pub mod codec;
  pub mod crypto;
  pub mod error;
`;

let checkLayers;
before(async () => {
  ({ checkLayers } = await import('../scripts/check-layers.mjs'));
});

/** What is found in a crate of these files, as `file:line: message`. */
function check(t, files) {
  const root = mkdtempSync(join(tmpdir(), 'smartvpn-layers-'));
  t.after(() => rmSync(root, { recursive: true }));
  for (const [file, text] of Object.entries({ 'lib.rs': LIB, ...files })) {
    const path = join(root, 'src', file);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
  }
  return checkLayers(root).map(({ file, line, message }) => `${file}:${line}: ${message}`);
}

test('the sources keep to their layers', () => {
  assert.deepEqual(checkLayers(ROOT), []);
});

test('imports from below, from the own module and of parts beside are fine', (t) => {
  const findings = check(t, {
    'client/mod.rs': 'use crate::{engine::Link, session::{self, Session}};\nuse crate::error::VpnError;',
    'client/state.rs': 'use super::Client;\nuse crate::client::other;\nfn f() -> crate::codec::Frame {}',
    'crypto/seal.rs': 'use crate::codec::frame::HEADER_LEN;\nuse crate::error::ErrorCode;',
    'addon/mod.rs': 'use napi::Result;\nuse crate::management::Endpoint;',
    'bin/daemon.rs': 'use clap::Parser;\nuse smartvpn::management::Endpoint;',
    'session/mod.rs': 'use std::{net::IpAddr, time::{Duration, Instant}};\nfn f(now: Instant) {}',
  });
  assert.deepEqual(findings, []);
});

test('imports from above are found, however they are written', (t) => {
  const findings = check(t, {
    'session/up.rs': 'use crate::engine::Link;',
    'codec/mod.rs': '\nuse crate::{\n  error::ErrorCode,\n  session::Session,\n};',
    'codec/frame.rs': 'fn f() {\n  let x = crate::client::X::new();\n}',
    'engine/link.rs': 'use super::super::server::Hub;',
    'error.rs': 'use super::engine;',
    'client/mod.rs': 'macro_rules! m { () => { $crate::management::f() } }',
    'server/hub.rs': 'mod inner {\n  use super::super::super::addon::X as Y;\n}',
  });
  assert.deepEqual(findings, [
    'src/client/mod.rs:1: client may not import from management, which is above it',
    'src/codec/frame.rs:2: codec may not import from client, which is above it',
    'src/codec/mod.rs:4: codec may not import from session, which is above it',
    'src/engine/link.rs:1: engine may not import from server, which is above it',
    'src/error.rs:1: error may not import from engine, which is above it',
    'src/server/hub.rs:2: server may not import from addon, which is above it',
    'src/session/up.rs:1: session may not import from engine, which is above it',
  ]);
});

test('imports from beside are found', (t) => {
  const findings = check(t, {
    'client/mod.rs': 'use crate::server::Hub;',
    'codec/mod.rs': 'use crate::crypto::{keys::PublicKey, seal};',
  });
  assert.deepEqual(findings, [
    'src/client/mod.rs:1: client may not import from server, which is beside it',
    'src/codec/mod.rs:1: codec may not import from crypto, which is beside it',
    'src/codec/mod.rs:1: codec may not import from crypto, which is beside it',
  ]);
});

test('clock, randomness and the outside world are found in the lowest tiers only', (t) => {
  const impure = [
    'use tokio::sync::mpsc;',
    'use std::{fs, net::{IpAddr, TcpStream}};',
    'use std::time::{Instant, SystemTime};',
    'fn f() { let now = Instant::now(); }',
    'fn g() { std::thread::sleep(D); rand::rng().random() }',
  ].join('\n');
  const findings = check(t, {
    'session/mod.rs': impure,
    'codec/mod.rs': 'use tokio::x;',
    'engine/mod.rs': impure,
  });
  assert.deepEqual(
    findings.map((finding) => finding.replace(/: the lowest tiers may not name (\S+): .*/, ' $1')),
    [
      'src/codec/mod.rs:1 tokio',
      'src/session/mod.rs:1 tokio',
      'src/session/mod.rs:2 std::fs',
      'src/session/mod.rs:2 std::net::TcpStream',
      'src/session/mod.rs:3 std::time::SystemTime',
      'src/session/mod.rs:4 Instant::now',
      'src/session/mod.rs:5 std::thread',
      'src/session/mod.rs:5 rand::rng',
    ],
  );
});

test('a crate that belongs to one module is found in the others', (t) => {
  const findings = check(t, { 'client/mod.rs': 'use napi::Env;\nfn f(e: napi_derive::X) {}' });
  assert.deepEqual(findings, [
    'src/client/mod.rs:1: only addon may name napi',
    'src/client/mod.rs:2: only addon may name napi_derive',
  ]);
});

test('test code, comments and text are left out, and nothing else', (t) => {
  const findings = check(t, {
    'session/mod.rs': `
      // use crate::engine::A;
      /* use crate::engine::B; /* nested */ use crate::engine::C; */
      const S: &str = "use crate::engine::D;"; const R: &str = r#"" crate::engine::E"#;
      const C: char = '"'; fn f<'a>(x: &'a str) { let q = '\\''; }
      #[cfg(test)] use crate::engine::F;
      #[cfg(test)] #[allow(dead_code)] const fn g() { crate::engine::G }
      #[cfg(test)] const H: [u8; 1] = { crate::engine::H };
      #[test] fn h() { tokio::spawn(()); }
      #[cfg(test)] mod simulation;
      #[cfg(test)]
      mod tests {
        use crate::engine::I;
        fn now() { Instant::now() }
      }
      #[cfg(not(test))] use crate::engine::Found;
      use crate::client::FoundToo;
    `,
    'session/simulation.rs': 'use tokio::x;',
    'session/simulation/world.rs': 'use tokio::x;',
  });
  assert.deepEqual(findings, [
    'src/session/mod.rs:16: session may not import from engine, which is above it',
    'src/session/mod.rs:17: session may not import from client, which is above it',
  ]);
});

test('a file outside the modules of lib.rs is found', (t) => {
  assert.deepEqual(check(t, { 'forgotten/mod.rs': '' }), [
    'src/forgotten/mod.rs:1: the module forgotten is not in src/lib.rs',
  ]);
});
